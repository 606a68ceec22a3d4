"""Designs with prefix caches in one program, side by side and one after the other, with loops compiled whole, as `simjax run` does.

Three sets of designs that differ in their rate: 300 requests that share nothing, without and with prefix caches, and 300 that share system
prompts, on four instances behind `longest_prefix`. Processor times of a batch, the best of the repetitions, and of its compilation, which
have the same load from other work. Prints a table and writes nothing; the last column counts designs of which any time, token count or tick
differs between the two ways.

usage: python in_turn.py [--repeats N] [--designs N]
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

from simjax.engine.control.whole_loops import make_loops_whole

make_loops_whole()

import jax  # noqa: E402
import numpy as np  # noqa: E402

import simjax  # noqa: E402
from simjax.batch.design import RunOptions, design_of  # noqa: E402
from simjax.cluster.configured.cluster import configured_cluster  # noqa: E402
from simjax.cluster.latency_source import latency_source  # noqa: E402
from simjax.cluster.timing import cluster_timing  # noqa: E402
from simjax.engine.batch import run_batch, run_in_turn  # noqa: E402
from simjax.engine.host.batch import Batch, make_batch  # noqa: E402
from simjax.engine.programs import Effort  # noqa: E402
from simjax.engine.state import ClusterState  # noqa: E402
from simjax.workload import build_workload  # noqa: E402

SETS = {
    "nothing shared, cache off": ["workload.num_requests=300", "scheduler.enable_prefix_caching=false"],
    "nothing shared, cache on": ["workload.num_requests=300", "scheduler.enable_prefix_caching=true"],
    "system prompts, 4 instances": [
        "workload=shared_prefix",
        "workload.num_requests=300",
        "cluster.router=longest_prefix",
        "cluster.instances=4",
        "scheduler.num_gpu_blocks_override=2500",
    ],
}
ALL_TICKS = 10**7


def designs(words: list[str], count: int) -> Batch:
    """A batch at `count` rates from 4 requests/s on."""
    lowered = []
    for i in range(count):
        config = simjax.compose([*words, f"workload.rate={4 + 0.2 * i:g}"])
        cluster, workload = configured_cluster(config), build_workload(config.workload)
        timing = cluster_timing(cluster.instances, latency_source(config.profile))
        lowered.append(design_of(cluster, timing, workload, RunOptions()).lowered)
    return make_batch(lowered)


def measured(function: Any, params: Any, repeats: int) -> tuple[float, float, ClusterState]:
    """Seconds of the processor to compile and to run, and the final states on the host."""
    limit = jax.device_put(np.int32(ALL_TICKS))
    began = time.process_time()
    program = jax.jit(function).lower(params, limit).compile(compiler_options=Effort.MEDIUM.options("cpu"))
    compile_s, run_s = time.process_time() - began, np.inf
    for _ in range(repeats):
        began = time.process_time()
        state, going = jax.block_until_ready(program(params, limit))
        run_s = min(run_s, time.process_time() - began)
    if bool(np.any(np.asarray(going))):
        raise SystemExit("a design of the batch has not finished")
    return compile_s, run_s, jax.device_get(state)


def seen(state: ClusterState) -> list[np.ndarray]:
    """What each design of a batch has for its requests and in all, as numbers of one array."""
    totals = np.stack([state.ticks, state.steps, state.num_finished], axis=1)
    outcome = state.outcome[:, :-1]  # without the row that takes what is written for no request
    return [np.concatenate([mine.ravel(), total]) for mine, total in zip(outcome, totals, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--designs", type=int, default=16)
    options = parser.parse_args()
    print("| designs | way | compile CPU s | CPU ms per design | CPU us per tick | designs that differ |")
    print("|---|---|---|---|---|---|")
    for what, words in SETS.items():
        batch = designs(words, options.designs)
        with jax.enable_x64(True):
            params = jax.device_put(batch.params)
            ways = {"side by side": partial(run_batch, batch.shape, 1), "in turn": partial(run_in_turn, batch.shape)}
            found = {way: measured(function, params, options.repeats) for way, function in ways.items()}
        first = found["side by side"][2]
        for way, (compile_s, run_s, state) in found.items():
            same = [np.array_equal(x, y, equal_nan=True) for x, y in zip(seen(first), seen(state), strict=True)]
            each_ms, tick_us = 1e3 * run_s / options.designs, 1e6 * run_s / int(state.ticks.sum())
            print(f"| {what} | {way} | {compile_s:.1f} | {each_ms:.2f} | {tick_us:.2f} | {same.count(False)} |", flush=True)


if __name__ == "__main__":
    main()
