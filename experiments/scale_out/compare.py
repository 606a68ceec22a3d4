"""One sweep in one process and in parts, as jobs of a Hydra launcher; the joined tables must agree bit for bit.

    python experiments/scale_out/compare.py --launcher joblib --parts 4
    python experiments/scale_out/compare.py --launcher submitit_local --parts 2 sweep=sizing model=qwen3-32b

Arguments that are options of `simjax run` replace the sweep; arguments that begin with `hydra` go to the launcher only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from simjax.explore.store.table import read_results

SWEEP = ("device=h100,h200", "scheduler.max_num_seqs=32,64,128", "workload.rate=linspace(2,20,10)")


class Compared(NamedTuple):
    """Number of points, seconds in one process and as jobs, and the columns in which the tables differ."""

    points: int
    one_s: float
    jobs_s: float
    differing: list[str]


def compare(launcher: str, parts: int, options: Sequence[str], folder: Path) -> Compared:
    """Simulate a sweep both ways.

    Args:
        launcher: a choice of hydra/launcher.
        parts: number of parts of the sweep, one job each.
        options: options of the sweep, and settings of Hydra for the jobs.
        folder: folder for the results, in `one` and `jobs`.
    """
    shared = [*(word for word in options if not word.startswith("hydra")), "plots=false"]
    settings = [word for word in options if word.startswith("hydra")]
    shards = ",".join(f"{part}/{parts}" for part in range(1, parts + 1))
    one_s = _run([*shared, f"out={folder / 'one'}"])
    jobs_s = _run([*shared, f"hydra/launcher={launcher}", *settings, f"sweep.shard={shards}", f"hydra.sweep.dir={folder / 'jobs'}"])
    one, jobs = read_results(folder / "one"), read_results(folder / "jobs")
    return Compared(len(one), one_s, jobs_s, differing(one, jobs))


def differing(first: pd.DataFrame, second: pd.DataFrame) -> list[str]:
    """The columns in which two tables differ in any bit; all of them if the tables have different rows or columns."""
    if list(first.columns) != list(second.columns) or len(first) != len(second):
        return sorted({*map(str, first.columns), *map(str, second.columns)})
    return [str(name) for name in first.columns if not first[name].equals(second[name])]


def _run(options: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "simjax", "run", "-m", *options], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Compare, print a line, and exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launcher", default="joblib", help="a choice of hydra/launcher")
    parser.add_argument("--parts", type=int, default=4, help="jobs")
    parser.add_argument("options", nargs="*", default=list(SWEEP), help="the sweep, and settings of Hydra")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = compare(given.launcher, given.parts, given.options, Path(folder))
    same = f"differ in {', '.join(done.differing)}" if done.differing else "are the same, bit for bit"
    print(f"{done.points} points, {given.parts} jobs of {given.launcher}: the tables {same}; {done.one_s:.1f} s in one process, ", end="")
    print(f"{done.jobs_s:.1f} s as jobs")
    sys.exit(bool(done.differing))


if __name__ == "__main__":
    main()
