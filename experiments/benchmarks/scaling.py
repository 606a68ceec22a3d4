"""Ticks, time and memory against the number of requests R: synthetic chat on one H100 at a rate that it can serve.

Every R runs in a process of its own, whose peak resident size is the memory figure. Writes results/scaling.tsv.

usage: python scaling.py [--repeats N] [--sizes 512 4096 ...] [--rate REQUESTS_PER_S]
"""

from __future__ import annotations

import json
from typing import Any

import common
import jax
import numpy as np

SIZES = (512, 4_096, 16_384, 32_768, 131_072)


def measure(requests: int, rate: float, repeats: int) -> dict[str, Any]:
    """One row, in this process."""
    from simjax.engine.simulate import simulate

    workload = common.synthetic(requests, rate)
    low = common.lowered(common.h100_cluster(), workload)
    bare = common.lowered(common.h100_cluster(), workload, log=False)
    imported_mib = common.peak_rss_mib()
    run_s = []

    def run() -> None:
        run_s.append(simulate(low.shape, low.params).run_s)

    with jax.enable_x64(True):
        program = common.compile_program(bare.shape, bare.params)
        result = simulate(low.shape, low.params, max_ticks=1)
        compile_s = result.compile_s
        compiled_mib = common.peak_rss_mib()
        result = simulate(low.shape, low.params)
        times = common.interleaved({"simulate": run, "no log": program}, repeats)
        memory = program.advance.memory_analysis()
    finished = result.requests
    return {
        "requests": requests,
        "padded": low.shape.requests,
        "steps": result.steps,
        "ticks": result.ticks,
        "ticks_per_request": result.ticks / requests,
        "ticks_per_step": result.ticks / result.steps,
        "compile_s": compile_s,
        "simulate_s": times["simulate"].best,
        "outside_run_s": times["simulate"].best - min(run_s),
        "no_log_s": times["no log"].best,
        "us_per_tick": times["simulate"].best * 1e6 / result.ticks,
        "arguments_mib": memory.argument_size_in_bytes / 2**20,
        "temporary_mib": memory.temp_size_in_bytes / 2**20,
        "rss_imported_mib": imported_mib,
        "rss_compiled_mib": compiled_mib,
        "rss_peak_mib": common.peak_rss_mib(),
        "drain_s": float(np.max(finished.finish_s) - np.max(finished.arrival_s)),
    }


def main() -> None:
    parser = common.arguments(__doc__, 3)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument(
        "--rate", type=float, default=12.0, help="requests/s; drain_s (last arrival to last finish) shows whether it can be finished"
    )
    parser.add_argument("--one", type=int, help="measure this size in this process and print its row as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.rate, options.repeats)))
        return
    about = f"{common.facts()}; {options.rate:g} requests/s"
    rows = [common.in_process(__file__, size, options, "--rate", options.rate) for size in options.sizes]
    for row in rows:
        row["x_first_per_tick"] = row["us_per_tick"] / rows[0]["us_per_tick"]
    common.write_table("scaling", rows, about)


if __name__ == "__main__":
    main()
