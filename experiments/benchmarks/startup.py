"""Time before the first run: reading, step times, tracing, compiling, first call; the command line with a cold and a warm cache.

Every case runs in a process of its own. Writes results/startup.tsv.

usage: python startup.py [--prototype DIR] [--repeats N]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import common

CASES = ("llama-300", "azure-2023-conv", "llama-300 prototype", "four instances, least_loaded")


def measure(case: str, options: Any) -> dict[str, Any]:
    """One row, in this process; the imports have happened."""
    import jax

    from simjax.cluster.latency_source import LatencySource
    from simjax.cluster.timing import cluster_timing
    from simjax.engine.host.lower import lower
    from simjax.engine.simulate import simulate

    with jax.enable_x64(True):
        t0 = time.perf_counter()
        if case == "llama-300 prototype":
            workload = common.trace(common.LLAMA_TRACE)
            prototype = common.load_prototype(options.prototype, workload, slots=128)
            times = common.interleaved({"run": prototype}, options.repeats)["run"]
            return {"case": case, "trace_and_compile_s": prototype.compile_s, "first_ms": times.first * 1e3, "steady_ms": times.best * 1e3}
        if case == "llama-300":
            cluster, workload = common.measured_cluster(), common.trace(common.LLAMA_TRACE)
        elif case == "azure-2023-conv":
            cluster, workload = common.h100_cluster(), common.trace(common.AZURE_TRACE)
        else:
            cluster, workload = common.h100_cluster(4, "least_loaded"), common.synthetic(300, 24.0)
        t1 = time.perf_counter()
        timings = cluster_timing(cluster.instances, LatencySource())
        t2 = time.perf_counter()
        low = lower(cluster, timings, workload)
        t3 = time.perf_counter()
        bare = lower(cluster, timings, workload, log=False)
        program = common.compile_program(bare.shape, bare.params)
        times = common.interleaved({"run": program}, options.repeats)["run"]
        # `simulate` has its own cache of programs: its first call traces and compiles again.
        whole = common.interleaved({"run": lambda: simulate(low.shape, low.params)}, options.repeats)["run"]
    return {
        "case": case,
        "requests": len(workload),
        "read_s": t1 - t0,
        "predicted_s": t2 - t1,
        "arrays_s": t3 - t2,
        "trace_s": program.trace_s,
        "compile_s": program.compile_s,
        "trace_and_compile_s": program.trace_s + program.compile_s,
        "first_ms": times.first * 1e3,
        "steady_ms": times.best * 1e3,
        "simulate_first_s": whole.first,
        "simulate_ms": whole.best * 1e3,
    }


def command_line() -> list[dict[str, Any]]:
    """`simjax run` in fresh processes, first with empty caches and then again: 300 requests by default, and the Llama trace with both kinds
    of step times.
    """
    trace = ["workload=trace", f"workload.file={common.data_path(common.LLAMA_TRACE)}", "device=rtx_pro_6000", "scheduler=vllm_small"]
    kinds = {
        "by default": ["workload.num_requests=300"],
        "a profile": trace,
        "measured tables": [*trace, f"profile.bundle_root={common.data_path('llmservingsim/profiles')}"],
    }
    rows = []
    for kind, options in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "simjax", "run", *options, "plots=false", f"out={folder}/out"]
            for case in ("empty caches", "again"):
                rows.append({"case": f"simjax run, {kind}, {case}", "requests": 300} | timed(command, folder))
    with tempfile.TemporaryDirectory() as folder:
        rows.append({"case": "python -c 'import simjax.job'"} | timed([sys.executable, "-c", "import simjax.job"], folder))
    return rows


def timed(command: list[str], caches: str) -> dict[str, float]:
    """Seconds of a process with its caches in a folder, by the clock and of the processor."""
    environment = os.environ | {"XDG_CACHE_HOME": caches}
    for name in ("JAX_COMPILATION_CACHE_DIR", "SIMJAX_CACHE", "TF_CPP_MIN_LOG_LEVEL"):  # the last is set by importing jax, here
        environment.pop(name, None)
    began, before = time.perf_counter(), os.times()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=common.ROOT)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"process_s": time.perf_counter() - began, "processor_s": used}


def main() -> None:
    parser = common.arguments(__doc__, 5)
    parser.add_argument("--one", help="measure this case in this process and print its row as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    about = common.facts()
    rows = []
    for case in CASES:
        if options.prototype is None and "prototype" in case:
            continue
        rows.append(common.in_process(__file__, case, options))
    common.write_table("startup", rows + command_line(), about)


if __name__ == "__main__":
    main()
