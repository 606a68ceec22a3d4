"""Sweeps from the plan to the table, each in a fresh process: 1,024 and 10,000 designs of the 300-request Llama trace, larger workloads.

`wall_s` is the process from its start to the first table on disk: imports, plan, compilation, simulation, metrics, rows. `steady_s` is the
same sweep once more, compiled. With --prototype its bench.py runs before, between and after the sweeps of 1,024 designs. Writes
results/sweeps.tsv.

usage: python sweeps.py [--prototype DIR] [--repeats N] [--cases ...]
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

ROUNDS = 2  # fresh processes of the first case, between runs of the prototype
LLAMA = ("device=rtx_pro_6000", "scheduler=vllm_small", "workload=trace", "workload.format=llmservingsim")
AZURE = ("workload=trace", "workload.format=azure")  # on an H100
# Designs, and requests of each (None: all of the trace).
CASES: dict[str, tuple[tuple[str, ...], str, int, int | None]] = {
    "1,024 designs": (LLAMA, common.LLAMA_TRACE, 1_024, None),
    "10,000 designs": (LLAMA, common.LLAMA_TRACE, 10_000, None),
    "Azure, 300 requests": (AZURE, common.AZURE_TRACE, 1_024, 300),
    "Azure, 2,000 requests": (AZURE, common.AZURE_TRACE, 256, 2_000),
    "Azure, all requests": (AZURE, common.AZURE_TRACE, 64, None),
}


def plan(case: str) -> Any:
    """The designs of a case.

    Seats and KV blocks vary together, as in the prototype's bench.py; the Azure trace is played at different speeds instead, so that every
    design has a different workload.
    """
    import simjax

    base, file, designs, requests = CASES[case]
    words = [*base, f"workload.file={common.data_path(file)}", *([] if requests is None else [f"workload.num_requests={requests}"])]
    axes: dict[str, Any] = {"scheduler.max_num_seqs": np.linspace(32, 128, designs).astype(int)}
    if base == AZURE:
        axes["workload.rate_scale"] = np.linspace(0.5, 2.0, designs)
    else:
        axes["scheduler.num_gpu_blocks_override"] = np.linspace(4_000, 36_000, designs).astype(int)
    return simjax.SweepPlan.of(words, zipped=[axes])


def measure(case: str, options: Any) -> dict[str, Any]:
    """One row, measured in this process, which began at `options.began` (seconds since 1970)."""
    from simjax.engine.programs import compile_count
    from simjax.explore.run import run_sweep

    imported = time.time()
    with tempfile.TemporaryDirectory() as folder:
        swept = plan(case)
        planned = time.time()
        table = run_sweep(swept, Path(folder) / "first")
        done = time.time()
        peak_mib = common.peak_rss_mib()
        again = [common.seconds_of(lambda i=i: run_sweep(swept, Path(folder) / f"{i}")) for i in range(options.repeats)]
    rows = common.records(table)
    if (wrong := sum(row["status"] != "finished" for row in rows)) or len(swept.groups) != compile_count():
        raise SystemExit(f"sweeps: {wrong} designs of {case} have not finished, {compile_count()} programs for {len(swept.groups)} groups")
    ticks, steady_s = sum(row["ticks"] for row in rows), min(again)
    return {
        "what": case,
        "designs": len(rows),
        "requests": rows[0]["requests_total"],
        "slots": max(group.shape.slots for group in swept.groups),
        "width": max(group.width for group in swept.groups),
        "programs": compile_count(),
        "import_s": imported - options.began,
        "plan_s": planned - imported,
        "first_s": done - planned,
        "wall_s": done - options.began,
        "steady_s": steady_s,
        "designs_per_s": len(rows) / steady_s,
        "requests_per_s": sum(row["requests_total"] for row in rows) / steady_s,
        "ticks_mean": ticks / len(rows),
        "core_us_per_tick_and_design": steady_s * common.core_count() * 1e6 / ticks,
        "rss_peak_mib": peak_mib,
    }


def in_process(case: str, options: Any) -> dict[str, Any]:
    return common.in_process(__file__, case, options, "--began", time.time())


def prototype_rates(folder: Path) -> dict[str, float]:
    """Designs per second from each line of the prototype's bench.py: under `vmap`, and under `shard_map` over the cores."""
    command = [sys.executable, "bench.py", str(common.data_path(common.LLAMA_TRACE))]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout
    print("prototype's bench.py: done", flush=True)
    return {f"prototype, {what}": float(rate) for what, rate in re.findall(r"^(.*): (\d+) designs/s$", said, flags=re.MULTILINE)}


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the fastest process, with the best steady rate of all."""
    steady = min(rows, key=lambda line: line["steady_s"])
    kept = ("steady_s", "designs_per_s", "requests_per_s", "core_us_per_tick_and_design")
    return min(rows, key=lambda line: line["wall_s"]) | {name: steady[name] for name in kept}


def with_prototype(case: str, options: Any) -> list[dict[str, Any]]:
    """The row of a case measured between runs of the prototype, and the prototype's rows."""
    rates: dict[str, float] = {}
    rows = []
    for turn in range(ROUNDS + 1):
        for what, rate in prototype_rates(options.prototype).items():
            rates[what] = max(rate, rates.get(what, 0.0))
        if turn < ROUNDS:
            rows.append(in_process(case, options))
    row = best(rows)
    row["x_prototype"] = row["designs_per_s"] / max(rates.values())
    designs = {what: int(what.split()[-1]) for what in rates}
    return [row, *({"what": what, "designs": designs[what], "designs_per_s": rate} for what, rate in rates.items())]


def main() -> None:
    parser = common.arguments(__doc__, 8)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--one", help="measure this case in this process and print its row as JSON")
    parser.add_argument("--began", type=float, help="when this process was started, for --one")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    about = common.facts()
    rows, last = [], []
    for case in options.cases:
        if case == next(iter(CASES)) and options.prototype is not None:
            row, *last = with_prototype(case, options)
            rows.append(row)
        else:
            rows.append(in_process(case, options))
    common.write_table("sweeps", rows + last, about)


if __name__ == "__main__":
    main()
