"""100 points through `simjax run -m`, side by side in one sweep, against the same arguments with Hydra's own sweeper, one job per point.

Each runs in a process of its own, timed from start to end, without plots, first with an empty compilation cache and again with the filled
one. The numbers of the 100 summary.json files must equal the rows of results.csv bit for bit. Writes results/hydra_multirun.tsv.

usage: python hydra_multirun.py [--repeats N]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import yaml

from simjax.metrics.rows import row_of_summary

KEYS = ("scheduler.max_num_seqs", "workload.rate")
WORDS = ["scheduler.max_num_seqs=4,8,12,16,24,32,48,64,96,128", "workload.rate=linspace(1,10,10)", "slo.ttft_s=1", "slo.tpot_s=0.05"]
SWEEPERS = {"simjax": [], "Hydra's basic sweeper": ["hydra/sweeper=basic"]}


def run(sweeper: str, out: Path, cache: Path) -> float:
    """Seconds of one multirun in a process of its own."""
    command = [sys.executable, "-m", "simjax", "run", "-m", *SWEEPERS[sweeper], *WORDS, "plots=false", f"hydra.sweep.dir={out}"]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    for name in ("JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL"):  # the second is set by importing jax, here
        environment.pop(name, None)
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=common.ROOT)
    if done.returncode:
        raise SystemExit(f"hydra_multirun: {sweeper}: {done.stderr}")
    return time.perf_counter() - began


def compare(jobs: Path, sweep: Path) -> tuple[int, int]:
    """Number of points, and of values of each, that agree to the last bit in the jobs' folders and the sweep's table; exits otherwise."""
    from simjax.explore.store.table import read_results

    rows, count = {tuple(row[key] for key in KEYS): row for row in common.records(read_results(sweep))}, 0
    folders = [path.parent for path in jobs.glob("*/summary.json")]
    if len(folders) != len(rows):
        raise SystemExit(f"hydra_multirun: {len(folders)} jobs, {len(rows)} rows")
    for folder in folders:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        row = rows.pop((config["scheduler"]["max_num_seqs"], config["workload"]["rate"]))
        summary = json.loads((folder / "summary.json").read_text())
        found = {"status": summary["status"], **row_of_summary(summary)}
        count = len(found)
        if wrong := [name for name, value in found.items() if row[name] != value]:
            raise SystemExit(f"hydra_multirun: {folder}: {', '.join(wrong)} differ from point {row['point']} of the table")
    return len(folders), count


def files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def main() -> None:
    parser = common.arguments(__doc__, 2)
    options = parser.parse_args()
    about = common.facts()
    cold: dict[str, float] = {}
    warm: dict[str, list[float]] = {sweeper: [] for sweeper in SWEEPERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = {sweeper: folder / f"{i}" for i, sweeper in enumerate(SWEEPERS)}
        for sweeper, place in places.items():
            cold[sweeper] = run(sweeper, place / "cold", place / "cache")
            print(f"{sweeper}, empty cache: {cold[sweeper]:.2f} s", flush=True)
        for turn in range(options.repeats):
            for sweeper, place in places.items():
                warm[sweeper].append(run(sweeper, place / f"warm{turn}", place / "cache"))
                print(f"{sweeper}: {warm[sweeper][-1]:.2f} s", flush=True)
        sweep, jobs = (place / "warm0" for place in places.values())
        points, compared = compare(jobs, sweep)
        written = {sweeper: files(place / "warm0") for sweeper, place in places.items()}
    first = next(iter(SWEEPERS))
    rows = [
        {
            "sweeper": sweeper,
            "points": points,
            "empty_cache_s": cold[sweeper],
            "warm_cache_s": min(warm[sweeper]),
            "points_per_s": points / min(warm[sweeper]),
            "x_simjax": min(warm[sweeper]) / min(warm[first]),
            "x_simjax_empty_cache": cold[sweeper] / cold[first],
            "files": written[sweeper],
            "numbers_compared": points * compared,
            "numbers_different": 0,
        }
        for sweeper in SWEEPERS
    ]
    common.write_table("hydra_multirun", rows, about)
    print(f"{points} points: Hydra's own sweeper takes {rows[1]['x_simjax']:.1f} times as long")


if __name__ == "__main__":
    main()
