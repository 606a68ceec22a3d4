"""A sweep of 1,920 different clusters (models, devices, tensor parallelism, instances, seats, rates): programs, time, exactness.

Rows are compared bit for bit with single runs of the same points: a random sample of them, or all with --all. The single runs share one
process, one after the other, like a script that calls `simjax.run` in a loop. Writes results/mixed.tsv.

usage: python mixed.py [--repeats N] [--sample N | --all]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

AXES: dict[str, Any] = {
    "model": ["llama-3.1-8b", "qwen3-32b"],
    "device": ["h100", "h200"],
    "cluster.tensor_parallel_size": [1, 2, 4],
    "cluster.instances": [1, 2, 4, 8],
    "scheduler.max_num_seqs": [16, 32, 64, 128, 256],
    "workload.rate": "geomspace(1,32,8)",
}


def single(overrides: list[str]) -> tuple[dict[str, Any], float]:
    """The metrics of a point's single run, and the seconds that `simjax.run` took without compilation."""
    import simjax
    from simjax.metrics.rows import result_row

    config = simjax.compose(overrides)
    began = time.perf_counter()
    done = simjax.run(config)
    seconds = time.perf_counter() - began - done.result.compile_s
    return {"status": done.result.status.name.lower(), **result_row(done.result, None, done.cluster.num_devices)}, seconds


def compare(plan: Any, rows: list[dict[str, Any]], sample: int | None) -> dict[str, Any]:
    """Single runs of a sample of the points, always the same sample, or of all (None); exits at the first row that differs."""
    points = np.arange(len(rows))
    if sample is not None:
        points = np.sort(np.random.default_rng(0).choice(points, min(sample, len(points)), replace=False))
    began, simulated_s = time.perf_counter(), 0.0
    for point in points.tolist():
        numbers, seconds = single([*plan.base, *plan.points.overrides(point)])
        simulated_s += seconds
        if wrong := [name for name, value in numbers.items() if rows[point][name] != value]:
            raise SystemExit(f"mixed: point {point} ({plan.points.overrides(point)}) differs from its single run in {', '.join(wrong)}")
    return {
        "rows_compared": len(points),
        "rows_different": 0,
        "single_points_per_s": len(points) / simulated_s,
        "single_wall_s": time.perf_counter() - began,
    }


def measure(repeats: int, sample: int | None) -> dict[str, Any]:
    import simjax
    from simjax.engine.programs import compile_count

    began = time.perf_counter()
    plan = simjax.SweepPlan.of([], AXES)
    planned = time.perf_counter()
    print(plan.describe(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        table = simjax.run_sweep(plan, Path(folder) / "first")
        done, programs = time.perf_counter(), compile_count()
        again = [common.seconds_of(lambda i=i: simjax.run_sweep(plan, Path(folder) / f"{i}")) for i in range(repeats)]
    if compile_count() != programs:
        raise SystemExit("mixed: a sweep that ran before compiled programs again")
    rows, steady_s = common.records(table), min(again)
    compared = compare(plan, rows, sample)
    return {
        "points": len(rows),
        "finished": sum(row["status"] == "finished" for row in rows),
        "groups": len(plan.groups),
        "programs": programs,
        "plan_s": planned - began,
        "first_s": done - planned,
        "wall_s": done - began,
        "steady_s": steady_s,
        "points_per_s": len(rows) / steady_s,
        "core_us_per_tick_and_design": steady_s * common.core_count() * 1e6 / sum(row["ticks"] for row in rows),
        "rss_peak_mib": common.peak_rss_mib(),
        **compared,
        "x_single": len(rows) / steady_s / compared["single_points_per_s"],
    }


def main() -> None:
    parser = common.arguments(__doc__, 3)
    parser.add_argument("--sample", type=int, default=60, help="rows to compare with single runs")
    parser.add_argument("--all", action="store_true", help="compare all rows (some minutes)")
    options = parser.parse_args()
    about = common.facts()
    common.write_table("mixed", [measure(options.repeats, None if options.all else options.sample)], about)


if __name__ == "__main__":
    main()
