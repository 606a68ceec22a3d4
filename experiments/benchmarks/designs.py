"""The batch program against its width: the 300-request Llama trace on instances that differ in seats and KV blocks, 1 to 1,024 in a batch.

On one core, and with one batch on each core, as sweeps run (`simjax.batch.execute`). Every design is also run by itself: the benchmark
exits if any bit differs. The sizes of one half of the table are timed in turn in one process. Writes results/designs.tsv.

usage: python designs.py [--prototype DIR] [--repeats N] [--sizes 1 16 256 ...]
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import batches
import common
import jax
import jax.numpy as jnp
import numpy as np

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
ROUND_S = 0.2  # a timed round takes about this many seconds at least
PROTOTYPE_SIZE = 512  # where the prototype is fastest


class OnCores:
    """A program run on each of the cores at once, over and over, by as many threads."""

    def __init__(self, program: Callable[[], Any], cores: int, pool: ThreadPoolExecutor) -> None:
        self.program, self.cores, self.pool = program, cores, pool
        self.first_s = common.seconds_of(program)
        self.turns = max(1, math.ceil(ROUND_S / min(common.seconds_of(program) for _ in range(3))))

    def _turns(self) -> None:
        with jax.enable_x64(True):  # the x64 switch is per thread
            for _ in range(self.turns):
                self.program()

    def __call__(self) -> None:
        for done in [self.pool.submit(self._turns) for _ in range(self.cores)]:
            done.result()


def measure(cores: int, options: Any) -> list[dict[str, Any]]:
    """The rows of all sizes, in this process and on its cores; and those of single runs one after the other, and of the prototype."""
    low = common.lowered(common.measured_cluster(), common.trace(common.LLAMA_TRACE), log=False)
    rows: dict[str, dict[str, Any]] = {}
    runs: dict[str, OnCores] = {}
    with jax.enable_x64(True), ThreadPoolExecutor(cores) as pool:
        alone = common.compile_program(low.shape, low.params)
        rows["one by one"] = row(cores, "one by one", 1, alone.trace_s, alone.compile_s, int(alone().ticks))
        runs["one by one"] = OnCores(alone, cores, pool)
        for size in options.sizes:
            designs = batches.spread(low, size)
            program = batches.compile_batch(designs)
            runs[f"{size}"] = OnCores(program, cores, pool)
            state = program()
            rows[f"{size}"] = row(cores, f"{size}", size, program.trace_s, program.compile_s, int(np.sum(state.ticks)))
            rows[f"{size}"] |= {"kernels": program.kernels.total, "bits_differ": batches.different(state, designs)}
        if options.prototype is not None:
            run, ticks = prototype(options)
            runs["prototype"] = OnCores(run, cores, pool)
            rows["prototype"] = row(cores, "prototype", PROTOTYPE_SIZE, None, None, ticks)
        times = common.interleaved(runs, options.repeats)
    for what, run in runs.items():
        rows[what] |= rates(rows[what], run, times[what].best / run.turns)
    best = rows["prototype"]["designs_per_s"] if options.prototype is not None else None
    for line in rows.values():
        line["x_one_by_one"] = line["designs_per_s"] / rows["one by one"]["designs_per_s"]
        line["x_prototype"] = None if best is None else line["designs_per_s"] / best
    return list(rows.values())


def row(cores: int, batch: str, designs: int, trace_s: float | None, compile_s: float | None, ticks: int) -> dict[str, Any]:
    """The columns known before timing; `ticks` is the sum over all designs."""
    return {"cores": cores, "batch": batch, "designs": designs, "trace_s": trace_s, "compile_s": compile_s, "ticks": ticks}


def rates(line: dict[str, Any], run: OnCores, steady_s: float) -> dict[str, Any]:
    """The timed columns; `us_per_tick_and_design` is the time of one core."""
    return {
        "first_s": run.first_s,
        "steady_s": steady_s,
        "designs_per_s": run.cores * line["designs"] / steady_s,
        "ticks_per_s": run.cores * line["ticks"] / steady_s,
        "us_per_tick_and_design": steady_s * 1e6 / line["ticks"],
    }


def prototype(options: Any) -> tuple[Callable[[], Any], int]:
    """The prototype under `vmap` with the same limits and its own step times; and the ticks of all its designs."""
    found = common.load_prototype(options.prototype, common.trace(common.LLAMA_TRACE), slots=128)
    n = PROTOTYPE_SIZE
    seats, blocks = jnp.linspace(32, 128, n).astype(jnp.int32), jnp.linspace(4_000, 36_000, n).astype(jnp.int32)
    params = found.Params(seats, jnp.full((n,), 2048, jnp.int32), blocks, jnp.tile(found.params[3], (n, 1)))
    run = jax.jit(jax.vmap(found.run)).lower(params).compile()
    return lambda: jax.block_until_ready(run(params)), int(jnp.sum(run(params)[1]))


def in_process(cores: int, options: Any) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--cores", cores, "--repeats", options.repeats, "--sizes", *options.sizes]
    if options.prototype is not None:
        command += ["--prototype", options.prototype]
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    print(f"designs on {cores} cores: done", flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = common.arguments(__doc__, 5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="designs side by side")
    parser.add_argument("--cores", type=int, help="measure on this number of cores in this process and print the rows as JSON")
    options = parser.parse_args()
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # before JAX looks at the machine
        print(json.dumps(measure(options.cores, options)))
        return
    about, cores = common.facts(), common.core_count()
    rows = [line for count in dict.fromkeys((1, cores)) for line in in_process(count, options)]
    common.write_table("designs", rows, about)
    if wrong := [line for line in rows if line.get("bits_differ")]:
        raise SystemExit(f"designs: {len(wrong)} batches give other numbers than single runs")


if __name__ == "__main__":
    main()
