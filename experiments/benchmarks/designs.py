"""Many designs at once: the 300-request Llama trace on 256 engines that differ in seats, KV blocks and, in a second table row, in load.

`vmap` over the compiled simulation against one simulation after the other in the same process, and against the prototype under `vmap`.
Every design's outcome must equal that of its single run. Writes results/designs.tsv.

usage: python designs.py [--prototype DIR] [--repeats N] [--designs N]
"""

from __future__ import annotations

import dataclasses
from typing import Any

import common
import hlo
import jax
import jax.numpy as jnp
import numpy as np
from common import Program

from simjax.engine.lower import Lowered
from simjax.engine.params import ClusterParams


def sweep(low: Lowered, designs: int, load: bool) -> tuple[ClusterParams, ClusterParams]:
    """Parameters with a leading axis where designs differ, and the tree of those axes: seats and KV blocks as in the prototype's bench.py;
    `load` also plays the trace at 0.5 to 1.5 times its rate.
    """
    seats = np.linspace(32, 128, designs).astype(np.int32)[:, None]
    blocks = np.linspace(4_000, 36_000, designs).astype(np.int32)[:, None]
    params = dataclasses.replace(low.params, instances=dataclasses.replace(low.params.instances, max_num_seqs=seats, num_blocks=blocks))
    axes: Any = jax.tree.map(lambda _: None, low.params)
    axes = dataclasses.replace(axes, instances=dataclasses.replace(axes.instances, max_num_seqs=0, num_blocks=0))
    if load:
        pace = np.linspace(2.0, 2 / 3, designs)[np.random.default_rng(0).permutation(designs)]
        arrival_s = low.params.requests.arrival_s[None] * pace[:, None]
        params = dataclasses.replace(params, requests=dataclasses.replace(params.requests, arrival_s=arrival_s))
        axes = dataclasses.replace(axes, requests=dataclasses.replace(axes.requests, arrival_s=0))
    return params, axes


def single(params: ClusterParams, axes: ClusterParams, i: int) -> ClusterParams:
    """The parameters of design i."""
    return jax.tree.map(lambda axis, x: x if axis is None else x[i], axes, params, is_leaf=lambda x: x is None)


def one_by_one(program: Program, params: list[ClusterParams]) -> list[Any]:
    """Final states of the single runs of a program that was compiled for parameters of these shapes."""
    return [dataclasses.replace(program, params=design)() for design in params]


def check_equal(states: Any, singles: dict[int, Any], count: int) -> float:
    """Largest relative difference between designs of a batch and their single runs, over `count` requests; stops beyond 1e-9."""
    outcome, ticks = np.asarray(states.outcome), np.asarray(states.ticks)
    differs = max(common.relative_difference(outcome[i, :count], np.asarray(state.outcome[:count])) for i, state in singles.items())
    if differs > 1e-9 or any(int(state.ticks) != ticks[i] for i, state in singles.items()):
        raise SystemExit(f"designs: a batched run differs from its single run by {differs:g}")
    return differs


def measure(
    what: str, low: Lowered, designs: int, load: bool, repeats: int, device: Any = None, check: int | None = None
) -> dict[str, Any]:
    """One row, with `check` (None: all) of the designs run by themselves too. Call it inside `jax.enable_x64(True)`."""
    params, axes = sweep(low, designs, load)
    batch = common.compile_program(low.shape, params, device, axes)
    alone = common.compile_program(low.shape, low.params, device)
    chosen = np.unique(np.linspace(0, designs - 1, check or designs).astype(int)).tolist()
    each = [jax.device_put(single(params, axes, i), device) for i in chosen]
    states = batch()
    differs = check_equal(states, dict(zip(chosen, one_by_one(alone, each), strict=True)), int(low.params.requests.count))
    times = common.interleaved({"batch": batch, "single": lambda: one_by_one(alone, each)}, repeats)
    ticks = np.asarray(states.ticks)
    return {
        "what": what,
        "designs": designs,
        "ticks_mean": float(ticks.mean()),
        "ticks_max": int(ticks.max()),
        "trace_and_compile_s": batch.trace_s + batch.compile_s,
        "batch_s": times["batch"].best,
        "designs_per_s": designs / times["batch"].best,
        "us_per_tick_and_design": times["batch"].best * 1e6 / ticks.sum(),
        "single_designs_per_s": len(chosen) / times["single"].best,
        "x_single": designs / times["batch"].best / (len(chosen) / times["single"].best),
        "kernels": hlo.loop_kernels(batch.advance.as_text()).total,
        "differs": differs,
    }


def prototype_row(options: Any) -> dict[str, Any]:
    """The prototype under `vmap` on the same limits, its own step costs."""
    prototype = common.load_prototype(options.prototype, common.trace(common.LLAMA_TRACE), slots=128)
    n = options.designs
    seats, blocks = jnp.linspace(32, 128, n).astype(jnp.int32), jnp.linspace(4_000, 36_000, n).astype(jnp.int32)
    theta = jnp.tile(prototype.params[3], (n, 1))
    params = prototype.Params(seats, jnp.full((n,), 2048, jnp.int32), blocks, theta)
    run = jax.jit(jax.vmap(prototype.run)).lower(params).compile()
    _, ticks = run(params)
    best = common.interleaved({"run": lambda: jax.block_until_ready(run(params))}, options.repeats)["run"].best
    return {
        "what": "prototype",
        "designs": n,
        "ticks_mean": float(np.mean(ticks)),
        "ticks_max": int(np.max(ticks)),
        "batch_s": best,
        "designs_per_s": n / best,
        "us_per_tick_and_design": best * 1e6 / float(np.sum(ticks)),
    }


def main() -> None:
    parser = common.arguments(__doc__, 3)
    parser.add_argument("--designs", type=int, default=256)
    options = parser.parse_args()
    about = common.facts()
    low = common.lowered(common.measured_cluster(), common.trace(common.LLAMA_TRACE), log=False)
    with jax.enable_x64(True):
        rows = [
            measure("seats and blocks", low, options.designs, False, options.repeats),
            measure("seats, blocks and load", low, options.designs, True, options.repeats),
        ]
        if options.prototype is not None:
            rows.append(prototype_row(options))
            for row in rows:
                row["x_prototype"] = row["designs_per_s"] / rows[-1]["designs_per_s"]
    common.write_table("designs", rows, about)


if __name__ == "__main__":
    main()
