"""Figure 8: Llama-3.1-70B on four H100, beside three other simulators, and the time that each simulator takes.

Step times are the shipped profile's (experiments/validation/joint.py, `figure_8`), nothing is fitted. `seconds` runs the command line in
processes of their own, at first with empty caches.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from a6000 import ARTIFACT
from joint import FIGURE_8, figure_8
from table import Compared, read_tsv

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ARTIFACT / "figure_8"
TRACE = ARTIFACT / "datasets" / "sharegpt_req300_rate10_llama.jsonl"
OPTIONS = ("model=llama-3.1-70b", "device=h100", "cluster.tensor_parallel_size=4", "scheduler.max_num_batched_tokens=2048")
EAGER = ("scheduler.enforce_eager=true", "scheduler.async_scheduling=false")
COLUMNS = ("throughput_tok_s", "mean_ttft_ms", "mean_tpot_ms")


def rows() -> list[Compared]:
    """Throughput and means."""
    measured, ours = figure_8({"priors": None})
    (theirs,) = read_tsv(FOLDER / "peer_parsed" / "SD_latency.tsv").to_dict("records")
    return [
        Compared("8", name, float(measured[name]), float(theirs[column]), float(ours[name]))
        for name, column in zip(FIGURE_8, COLUMNS, strict=True)
    ]


def others() -> str:
    """All simulators of the figure: errors in percent and seconds as the artifact has them, and simjax on this machine."""
    found = read_tsv(FOLDER / "reference" / "SD_latency.tsv").set_index("framework")
    seconds = read_tsv(FOLDER / "reference" / "SD_sim_time.tsv").set_index("framework")["simulation_time_s"]
    measured = found.loc["vLLM", list(COLUMNS)].to_numpy(float)
    lines = ["| simulator | tokens/s, off % | TTFT, off % | TPOT, off % | time, s |", "| --- | ---: | ---: | ---: | ---: |"]
    means = {name: found.loc[name, list(COLUMNS)].to_numpy(float) for name in found.index if name != "vLLM"}
    peer = read_tsv(FOLDER / "peer_parsed" / "SD_latency.tsv")
    means = {"LLMServingSim": peer[list(COLUMNS)].to_numpy(float)[0]} | means
    for name, values in means.items():
        lines.append(_line(name, values, measured, f"{seconds[name]:,.1f}"))
    first, again = seconds_of_runs()
    ours = [float(x.ours or 0.0) for x in rows()]
    return "\n".join([*lines, _line("simjax", ours, measured, f"{first:.1f}; {again:.1f} when repeated")])


def seconds_of_runs() -> tuple[float, float]:
    """Seconds of processor time (all threads, start and compilation included) of `simjax run` with empty caches, and of the same again."""
    taken = []
    with tempfile.TemporaryDirectory() as caches:
        env = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": f"{caches}/jax",
            "SIMJAX_CACHE": f"{caches}/simjax",
            "PYTHONPATH": str(ROOT),
        }
        for name in ("first", "again"):
            words = [*OPTIONS, *EAGER, "workload=trace", f"workload.file={TRACE}", "plots=false", f"out={caches}/{name}"]
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-m", "simjax", "run", *words], env=env, check=True, capture_output=True)
            after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
            taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            print(f"figure 8, {name}: {taken[-1]:.1f} CPU s, {wall_s:.1f} s by the clock", file=sys.stderr)
    return taken[0], taken[1]


def _line(name: str, values: list[float], measured: list[float], time_s: str) -> str:
    off = [f"{100.0 * (x / y - 1.0):+.1f}" for x, y in zip(values, measured, strict=True)]
    return "| " + " | ".join([name, *off, time_s]) + " |"
