"""Clusters with preemptions and factors on all their parameters, and their derivatives in both modes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simjax.engine.differentiate import Outcome, outcome, outcome_reverse
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.latency.attention.coefficients import AttentionCoefficients
from simjax.latency.join import join_step_times
from simjax.latency.step_time import StepTime
from tests.engine.scenario import Limits, RouterPolicy, Scenario
from tests.engine.test_engine import busy_scenario
from tests.latency.step_times import example_step_time
from tests.quickly import quickly

ATTENTION = tuple(f.name for f in fields(AttentionCoefficients))
OTHERS = ("work", "host_s", "api_pre_s", "api_post_s", "arrival_s", "think_s", "table", "router")
ROUTER = ("prefix_weight", "queue_weight", "kv_weight", "staleness_s")  # compared with something, so without a derivative
NAMES = (*ATTENTION, *OTHERS)  # what the factors `theta` are for
SECONDS = np.array([not name.endswith(("skew", "tokens", "sequences", "router")) for name in NAMES])
ONES = np.ones(len(NAMES))
TICKS = 512

# At contexts of some dozens of tokens every one of them takes a share of the time that can be seen.
COEFFICIENTS = {
    "decode_floor_s": 4e-4, "decode_sequence_s": 1e-4, "decode_kv_s": 1e-5, "decode_skew": 0.3,
    "mixed_floor_s": 3e-4, "mixed_sequence_s": 2e-4, "mixed_kv_s": 1.2e-5,
    "chunk_tile_s": 3e-4, "chunk_kv_s": 2e-6, "empty_tile_s": 5e-5, "longest_s": 7e-6,
    "spill_s": 2e-5, "spill_tokens": 30.0, "spill_sequences": 3.0,
}  # fmt: skip
TIGHT = Limits(num_blocks=40, block_size=4, max_num_seqs=6, max_num_batched_tokens=24, api_pre_s=0.004, api_post_s=0.002)
SMALL = Limits(num_blocks=30, block_size=3, max_num_seqs=5, max_num_batched_tokens=16, async_scheduling=False, api_pre_s=0.003)


class Case(NamedTuple):
    """A cluster whose schedule has preemptions, on a program that other cases may share."""

    shape: EngineShape
    params: ClusterParams


def caching_scenario(sessions: bool, **changes) -> Scenario:
    """Two engines with small prefix caches, which preempt and evict; prompts begin alike, and those of later turns with earlier contents.

    With and without sessions, in which three calls follow one another and the others are alone, it is the same program.
    """
    base, rng = busy_scenario(), np.random.default_rng(5)
    trunks, contents, waits = rng.integers(0, 9, (3, 50)), [], []
    for r, (prompt, output) in enumerate(zip(base.prompt, base.output, strict=True)):
        own = np.arange(prompt + output) + 1000 * (r + 1)
        common = rng.integers(prompt + 1)
        own[:common] = trunks[r % 3][:common]
        later = sessions and r >= 14
        if later:
            before = contents[r - 7][:prompt]
            own[: len(before)] = before
        contents.append(own)
        waits.append(((r - 7, 0.013 + 0.001 * r),) if later else ())
    caching = {
        "limits": tuple(replace(limits, enable_prefix_caching=True) for limits in (TIGHT, SMALL)),
        "contents": tuple(contents),
        "waits": tuple(waits),
        "session": np.arange(28) % 7 if sessions else np.arange(28),
        "router": RouterPolicy.WEIGHTED,
        "weights": (1.0, 0.6, 0.3),
        "staleness_s": 0.05,
    }
    return replace(base, **caching | changes)


def step_time(rows: int, measured: bool) -> StepTime:
    """Step costs of different speed, all coefficients at work."""
    with jax.enable_x64(True):
        attention = AttentionCoefficients(**{name: jnp.array([value]) for name, value in COEFFICIENTS.items()})
        models = [replace(example_step_time(1.0 + 0.3 * i, measured), attention=attention) for i in range(rows)]
        stacked = join_step_times(models)
        if stacked.table is not None:
            stacked = replace(stacked, table=replace(stacked.table, mixed_s=10 * stacked.table.mixed_s))
        return jax.tree.map(np.asarray, stacked)


def case(scenario: Scenario, measured: bool = False, **changes) -> Case:
    """The scenario with a cost model of its own for each instance."""
    params, N = scenario.params(), len(scenario.limits)
    instances = replace(params.ranks, step_time=np.arange(N, dtype=np.int32))
    shape = scenario.shape(**{"log_rows": 0} | changes)
    return Case(shape, replace(params, ranks=instances, step_time=step_time(N, measured)))


@functools.cache
def cases() -> dict[str, Case]:
    # Steps with several chunks beside decodes, without which the coefficients that correct a table say nothing.
    limits = replace(TIGHT, max_num_batched_tokens=48, max_num_seqs=8, num_blocks=30)
    alone = busy_scenario(limits=(limits,), prompt=np.arange(28) % 11 + 4)
    loop = busy_scenario(limits=(TIGHT, SMALL), router=RouterPolicy.LEAST_LOADED, concurrency=7, think_s=0.011)
    return {
        "preempting": case(alone, measured=True),
        "synchronous": case(replace(alone, limits=(replace(limits, async_scheduling=False),)), measured=True),
        "one step at a time": case(alone, measured=True, leap=False),
        "closed loop": case(loop, clients=16),
        "capped": case(replace(loop, concurrency=0, think_s=0.0, max_concurrency=7)),
        "shared prefixes": case(caching_scenario(False, router=RouterPolicy.LONGEST_PREFIX, staleness_s=0.0), stale_view=True),
        "sessions": case(caching_scenario(True)),
        "closed loop, tied": case(replace(loop, arrival_s=np.zeros(28), think_s=0.0), clients=16),
    }


def moved(params: ClusterParams, theta: jax.Array) -> ClusterParams:
    """The parameters, each times its factor."""
    of = dict(zip(NAMES, theta, strict=True))
    old, requests, instances = params.step_time, params.requests, params.ranks
    sent = jnp.isfinite(requests.arrival_s)
    stretched_s = jnp.where(sent, jnp.where(sent, requests.arrival_s, 0.0) * of["arrival_s"], requests.arrival_s)
    sessions = requests.sessions
    if sessions is not None:
        sessions = replace(sessions, delay_s=sessions.delay_s * of["think_s"])
    table = old.table
    if table is not None:
        table = replace(table, mixed_s=table.mixed_s * of["table"], decode_s=table.decode_s * of["table"])
    return replace(
        params,
        step_time=StepTime(
            tokens_s=old.tokens_s * of["work"],
            sequences_s=old.sequences_s * of["work"],
            host_s=old.host_s * of["host_s"],
            attention=AttentionCoefficients(**{name: getattr(old.attention, name) * of[name] for name in ATTENTION}),
            table=table,
        ),
        ranks=replace(instances, api_pre_s=instances.api_pre_s * of["api_pre_s"], api_post_s=instances.api_post_s * of["api_post_s"]),
        requests=replace(requests, arrival_s=stretched_s, think_s=requests.think_s * of["think_s"], sessions=sessions),
        router=replace(params.router, **{name: getattr(params.router, name) * of["router"] for name in ROUTER}),
    )


def times(o: Outcome) -> jax.Array:
    """Arrival, first token and finish of all that finished, f64[3, R]; 0 for the others."""
    return jnp.where(o.finished, jnp.stack([o.arrival_s, o.first_token_s, o.finish_s]), 0.0)


@functools.cache
def forward(shape: EngineShape) -> Callable:
    """(params, theta) -> (jacobian f64[3, R, K], (times f64[3, R], outcome))."""

    def run(params: ClusterParams, theta: jax.Array):
        def f(theta):
            o = outcome(shape, moved(params, theta))
            return times(o), (times(o), o)

        return jax.jacfwd(f, has_aux=True)(theta)

    return jax.jit(run, compiler_options=quickly())


@functools.cache
def reverse(shape: EngineShape) -> Callable:
    """(params, theta, weights f64[3, R]) -> (gradient f64[K] of the weighted sum of all times, outcome)."""

    def run(params: ClusterParams, theta: jax.Array, weights: jax.Array):
        def f(theta):
            o = outcome_reverse(shape, TICKS, moved(params, theta))
            return jnp.sum(weights * times(o)), o

        return jax.grad(f, has_aux=True)(theta)

    return jax.jit(run, compiler_options=quickly())


def run_forward(case: Case, theta: np.ndarray = ONES) -> tuple[np.ndarray, np.ndarray, Outcome]:
    """Jacobian f64[3, R, K], times f64[3, R] and outcome, on the host."""
    with jax.enable_x64(True):
        jacobian, (at, o) = forward(case.shape)(case.params, jnp.asarray(theta))
    return np.asarray(jacobian), np.asarray(at), jax.tree.map(np.asarray, o)


def run_reverse(case: Case, weights: np.ndarray) -> tuple[np.ndarray, Outcome]:
    """Gradient f64[K] and outcome, on the host."""
    with jax.enable_x64(True):
        gradient, o = reverse(case.shape)(case.params, jnp.asarray(ONES), jnp.asarray(weights))
    return np.asarray(gradient), jax.tree.map(np.asarray, o)


def assert_same_schedule(one: Outcome, other: Outcome) -> None:
    for field in ("finished", "instance", "preemptions", "ticks", "steps"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
