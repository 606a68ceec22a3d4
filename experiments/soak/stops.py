"""Interrupts: SIGINT or SIGTERM at a random moment of a run, a sweep, a front or a calibration, in a process of its own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mistakes import Soak

CHECKOUT = Path(__file__).resolve().parents[2]
SWEEP = ["run", "-m", "workload.rate=linspace(2,8,12)", "scheduler.max_num_seqs=16,64", "workload.num_requests=400", "plots=false", "out=s"]
COMMANDS = {
    "run": ["run", "workload.num_requests=40000", "workload.rate=7", "scheduler.max_num_seqs=77", "out=o"],
    "sweep": SWEEP,
    "pareto": ["pareto", "s"],
    "sensitivity": ["sensitivity", "workload.num_requests=50", "seeds=2", "out=o"],
}
# `python -m simjax` that listens to SIGINT: jobs that a shell starts in the background ignore it, and so do their own processes.
LISTENING = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("simjax", run_name="__main__", alter_sys=True)
"""
EARLIEST_S = 0.15  # before, the interpreter itself has not begun to run simjax
_DEADLINE_S = 60.0


def start(words: Sequence[str], work: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """`simjax WORDS` in a process that listens to SIGINT, as one that a shell starts in the foreground does."""
    return subprocess.Popen(
        [sys.executable, "-c", LISTENING, *words], cwd=work, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **(environment or {})},
    )  # fmt: skip


def run(soak: Soak, count: int, seed: int) -> None:
    """Interrupt `count` processes, then let the sweep among them go on to its end."""
    draw = random.Random(seed)
    lengths: dict[str, float] = {}
    for number in range(count):
        name = list(COMMANDS)[number % len(COMMANDS)] if number else "sweep"
        words = COMMANDS[name] if name != "sweep" or not (soak.work / "s" / "sweep.json").exists() else ["run", "sweep.resume=s"]
        if name == "pareto" and not (soak.work / "s" / "results.csv").exists():
            words = COMMANDS["run"]
        wait = draw.uniform(EARLIEST_S, lengths.get(name, 8.0))
        sent = draw.choice([signal.SIGINT, signal.SIGTERM])
        began = time.monotonic()
        process = start(words, soak.work)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(sent)
        sent_at = time.monotonic()
        try:
            _, err = process.communicate(timeout=_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
        took = time.monotonic() - sent_at
        what = f"{sent.name} after {wait:.2f} s of {' '.join(words)}: exit code {process.returncode}, {err[-400:]!r}"
        soak.count("interrupts")
        if process.returncode == 0 or sent_at - began < wait - 0.01:
            lengths[name] = sent_at - began
            soak.count("interrupts_after_the_end")
        elif process.returncode == -sent and not err:  # as the signal itself ends a program; nothing has begun
            soak.count("interrupts_before_simjax_listens")
        else:
            told = err.splitlines()[-1:] and err.splitlines()[-1].startswith(("simjax: interrupted; ", "simjax: terminated; "))
            soak.count("interrupts_without_their_line", not told or process.returncode != 128 + sent, what)
            soak.figures["interrupts_slowest_s"] = max(soak.figures["interrupts_slowest_s"], round(took))
        soak.count("interrupts_with_traceback", "Traceback" in err or "internal error" in err, what)
        soak.count("interrupts_that_crash", process.returncode < 0 and process.returncode != -sent, what)
        left = [str(path) for path in soak.work.rglob("*") if path.name.endswith((".unfinished", ".lock")) and path.name[0] in ".s"]
        soak.count("interrupts_with_files_left_behind", bool(left), f"{what}: {left}")
        soak.check_outside(what)
        shutil.rmtree(soak.work / "o", ignore_errors=True)
    _finish(soak)


def _finish(soak: Soak) -> None:
    """The interrupted sweep, resumed, has the table of one that nobody interrupted."""
    for words in (["run", "sweep.resume=s"] if (soak.work / "s" / "sweep.json").exists() else SWEEP, [*SWEEP[:-1], "out=whole"]):
        process = start(words, soak.work)
        _, err = process.communicate()
        soak.count("resumed_sweeps_with_traceback", process.returncode != 0, err[-400:])
    tables = [path.read_bytes() if path.exists() else b"" for path in (soak.work / "s/results.csv", soak.work / "whole/results.csv")]
    soak.count("resumed_sweeps_that_differ", tables[0] != tables[1])
    for name in ("s", "whole"):
        shutil.rmtree(soak.work / name, ignore_errors=True)
