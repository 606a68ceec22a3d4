"""Sweeps with faults: one that is killed half way and resumed, and one in which every twentieth point is invalid.

`simjax run -m` of some thousand points gets `kill -9` once half of its rows are written; `sweep.resume=DIR` must then run only the rest,
and the table must equal that of an undisturbed sweep byte for byte. The second sweep has points of every kind that cannot be simulated; it
must finish, with a reason for each. Writes results/resume.tsv and results/invalid.tsv.

usage: python resume.py [--points N]
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import common

SEATS, GOOD = 16, {"model": "llama-3.1-8b", "cluster.tensor_parallel_size": 1, "scheduler.max_num_seqs": 64, "workload.rate": 4.0}
WRONG: list[dict[str, Any]] = [
    {"model": "llama-3.1-70b"},  # does not fit
    {"cluster.tensor_parallel_size": 3},
    {"scheduler.max_num_seqs": 0},
    {"workload.rate": -1.0},
    {"model": "llama-3.1-9b"},
]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "simjax", "run", *words]


def quietly(words: list[str]) -> float:
    """Run a command to its end; returns its seconds."""
    began = time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=common.ROOT)
    if done.returncode:
        raise SystemExit(f"resume: {' '.join(words)}: {done.stderr}")
    return time.perf_counter() - began


def whole_rows(folder: Path) -> dict[str, str]:
    """The rows of a table, by point, which may be incomplete while the sweep runs."""
    path = folder / "results.csv"
    lines = path.read_text().splitlines(keepends=True)[1:] if path.exists() else []
    return {line.partition(",")[0]: line for line in lines if line.endswith("\n")}


def killed(words: list[str], folder: Path, wanted: int) -> tuple[float, int]:
    """Kill the sweep as soon as the table has the given number of rows; returns the seconds until then and the exit status."""
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=common.ROOT)
    while len(whole_rows(folder)) < wanted:
        if process.poll() is not None:
            raise SystemExit("resume: the sweep ended before it could be killed; take more points")
        time.sleep(0.01)
    process.kill()  # SIGKILL: the process cannot react
    return time.perf_counter() - began, process.wait()


def kill_and_resume(folder: Path, points: int) -> list[dict[str, Any]]:
    """Rows for the undisturbed, the killed and the resumed sweep."""
    sweep = [f"scheduler.max_num_seqs=linspace(16,256,{SEATS})", f"workload.rate=linspace(1,16,{points // SEATS})", "plots=false"]
    whole, cut = folder / "whole", folder / "cut"
    whole_s = quietly(command("-m", *sweep, f"out={whole}"))
    total = len(whole_rows(whole))
    rows = [{"what": "undisturbed", "seconds": whole_s, "done_before": 0, "done_after": total, "points": total}]
    cut_s, status = killed(command("-m", *sweep, f"out={cut}"), cut, total // 2)
    before = whole_rows(cut)
    rows.append({"what": f"killed (exit status {status})", "seconds": cut_s, "done_before": 0, "done_after": len(before), "points": total})
    resumed_s = quietly(command(f"sweep.resume={cut}", "plots=false"))
    after = whole_rows(cut)
    rows.append({"what": "resumed", "seconds": resumed_s, "done_before": len(before), "done_after": len(after), "points": total})
    if any(after[point] != line for point, line in before.items()):
        raise SystemExit("resume: a row that existed before has changed")
    for name in ("points.csv", "results.csv", "pareto.csv"):
        if (whole / name).read_bytes() != (cut / name).read_bytes():
            raise SystemExit(f"resume: {name} differs from that of the undisturbed sweep")
    rows[-1]["table"] = "byte for byte that of the undisturbed one"
    return rows


def with_wrong_points(folder: Path, points: int) -> list[dict[str, Any]]:
    """A row for each reason, with the number of points; and one for those that finished."""
    with (folder / "points.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(GOOD))
        writer.writeheader()
        for i in range(points):
            wrong = WRONG[i // 20 % len(WRONG)] if i % 20 == 0 else {}
            writer.writerow(GOOD | {"scheduler.max_num_seqs": 16 + i % 48, "workload.rate": 1.0 + i % 7} | wrong)
    out = folder / "out"
    seconds = quietly(command("-m", f"sweep.points={folder / 'points.csv'}", "plots=false", f"out={out}"))
    with (out / "results.csv").open(newline="") as file:
        counts = Counter((row["status"], row["reason"]) for row in csv.DictReader(file))
    finished = counts[("finished", "")]
    explained = sum(count for (_, reason), count in counts.items() if reason)
    if counts.total() != points or explained != len(range(0, points, 20)) or finished + explained != points:
        raise SystemExit(f"resume: {counts.total()} rows of {points} points, {finished} of them finished")
    rows = [{"status": status, "points": count, "reason": reason} for (status, reason), count in counts.most_common()]
    return [{**row, "seconds": seconds if i == 0 else None} for i, row in enumerate(rows)]


def main() -> None:
    parser = common.arguments(__doc__, 1)
    parser.add_argument("--points", type=int, default=4_000)
    options = parser.parse_args()
    about = common.facts()
    with tempfile.TemporaryDirectory() as folder:
        rows = kill_and_resume(Path(folder), options.points)
    common.write_table("resume", rows, about)
    with tempfile.TemporaryDirectory() as folder:
        rows = with_wrong_points(Path(folder), options.points)
    common.write_table("invalid", rows, about)


if __name__ == "__main__":
    main()
