"""The times of all requests as a differentiable function of the cluster's parameters.

The derivative is the pathwise one: the schedule is held. Which requests share a step, who is preempted, where a request is routed and how
long a leap is are integers, found by comparisons, and carry no gradient; what is left is a sum of step times and API times along that
schedule, whose derivative is exact almost everywhere, leaps and preemptions included. It does not see that a slower step lets one more
request in, or that an arrival a moment later misses a step: across such a change of schedule the times jump, and a finite difference
taken there says something else, however right both are. Where times tie (two clients whose pauses end together, an arrival at the very
moment at which a rank falls asleep) the derivative is the mean of those of the tied ones.

Forward mode (`outcome`) pays for every parameter, reverse mode (`outcome_reverse`) once for all of them. On two cores of a laptop-class CPU
a run of 300 requests (521 ticks) takes 3 ms; with 1, 8 and 19 tangents side by side 4, 8 and 16 ms, in reverse 10 ms. Compiling takes 2 s
and 5 to 10 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.accounting.leap_log import NoLog
from simjax.engine.columns import recorded
from simjax.engine.host.result import RequestLog
from simjax.engine.params import ClusterParams
from simjax.engine.programs import compiled
from simjax.engine.rank import NEVER
from simjax.engine.shape import EngineShape, power_of_two
from simjax.engine.simulate import DEFAULT_MAX_TICKS, advance, effort_for, pending, start
from simjax.engine.state import ClusterState
from simjax.engine.tick import tick
from simjax.errors import SimjaxError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32, Int64

FEWEST_TICKS = 256  # of a program for reverse mode: shorter runs share one


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outcome:
    """When requests arrived and were served, as a client saw it, and the integers that tell one schedule from another.

    Times of requests that have not finished, padding included, are `NEVER`, infinity. Their derivatives are zero, yet `inf - inf` and
    `0 * inf` are NaN: put a number in their place before any arithmetic, not after it, as in
    `jnp.where(o.finished, o.finish_s, 0.0) - jnp.where(o.finished, o.arrival_s, 0.0)`.

    Attributes:
        arrival_s: when the client sent it; in a closed loop or a session when the simulated client did.
        scheduled_s: start of the first step that held it.
        first_token_s, finish_s: when the client had the first and the last token.
        instance, preemptions: who served it and how often it was preempted; -1 and 0 where it has not finished.
        finished: the mask.
        ticks, steps: of the whole run. If these, `instance` and `preemptions` are the same in two runs, so in all likelihood is the
            schedule.
        overflow: int32[], flags of the buffers that were too small (`Overflow`), which ended the run; 0 if none was.
    """

    arrival_s: Float64[Array, " R"]
    scheduled_s: Float64[Array, " R"]
    first_token_s: Float64[Array, " R"]
    finish_s: Float64[Array, " R"]
    instance: Int32[Array, " R"]
    preemptions: Int32[Array, " R"]
    finished: Bool[Array, " R"]
    ticks: Int32[Array, ""]
    steps: Int64[Array, ""]
    overflow: Int32[Array, ""]


def outcome(shape: EngineShape, params: ClusterParams, max_ticks: int = DEFAULT_MAX_TICKS) -> Outcome:
    """The run to its end, for values and forward mode: `jax.jvp`, `jax.linearize`, `jax.jacfwd`; not `jax.grad`.

    Tangents that are pushed side by side (`jax.vmap` over tangents, what `jax.jacfwd` does) share one simulation: it depends on none of
    them. Call it inside `jax.enable_x64(True)` and a `jax.jit`.

    Args:
        shape: static sizes; no log is kept.
        params: leaves as numpy or jax arrays; float ones may be traced for derivatives. To stretch arrivals by a factor keep infinity, the
            padding, out of the product: `jnp.where(jnp.isfinite(a), jnp.where(jnp.isfinite(a), a, 0.0) * factor, a)`.
        max_ticks: bound on the number of ticks; what has not finished by then says so.
    """
    shape, params = _plain(shape), guarded(params)
    state = advance(shape, params, start(shape, params), jnp.asarray(max_ticks, jnp.int32)).state
    return read(shape, params, state)


def outcome_reverse(shape: EngineShape, ticks: int, params: ClusterParams) -> Outcome:
    """The first `ticks` ticks of the run, for reverse mode: `jax.grad`, `jax.vjp`.

    Ticks are taken in segments of about the root of their number. Kept are the states between segments and, for one segment at a time, run
    again on the way back, the masks and coefficients of its ticks: with 4,096 requests and 272 slots, 1.1 MB of memory for 2,048 ticks
    and 1.7 MB for 8,192 of one rank, 5.9 and 11.5 MB of four. (Keeping states within a segment too, and running every tick a third time,
    takes 1.5 to 1.9 times the memory and 1.2 to 1.8 times the time: a state is larger than what a tick's derivative needs.) Segments after
    the end of the run are skipped.

    Args:
        shape: as in `outcome`.
        ticks: static; see `ticks_needed`. With too few of them requests are left that have not finished.
        params: as in `outcome`.
    """
    shape, params = _plain(shape), guarded(params)
    length = math.isqrt(max(ticks, 1) - 1) + 1

    def one(state: ClusterState, _: None) -> tuple[ClusterState, None]:
        after = tick(shape, params, state, NoLog())[0]
        return replace(after, ticks=state.ticks + pending(params, state).astype(jnp.int32)), None

    def some(state: ClusterState) -> ClusterState:
        return jax.lax.scan(one, state, length=length)[0]

    @partial(jax.checkpoint, prevent_cse=False)  # a scan keeps the two runs of a segment apart by itself
    def segment(state: ClusterState, _: None) -> tuple[ClusterState, None]:
        return jax.lax.cond(pending(params, state), some, lambda state: state, state), None

    state, _ = jax.lax.scan(segment, start(shape, params), length=-(-ticks // length))
    return read(shape, params, state)


def ticks_needed(shape: EngineShape, params: ClusterParams) -> int:
    """Enough `ticks` for `outcome_reverse`, from a run of the cluster.

    A power of two, so that runs share programs, with at least a quarter to spare for parameters that lead to a longer schedule; the ticks
    that are not needed cost next to nothing.

    Args:
        shape: as in `outcome`.
        params: leaves as numpy or jax arrays.
    """
    with jax.enable_x64(True):
        shape, params = _plain(shape), jax.tree.map(jnp.asarray, params)
        run = compiled(partial(outcome, shape), ("outcome", shape), (params,), effort_for(shape))
        ticks = int(run(params).ticks)
    return max(power_of_two(ticks + ticks // 4 + 1), FEWEST_TICKS)


def _plain(shape: EngineShape) -> EngineShape:
    """The shape without a log."""
    if shape.tight:
        raise ValueError("an outcome cannot say that slots ran out: the shape must not be tight")
    if shape.priorities:
        raise SimjaxError("scheduling_policy=priority: derivatives through queues by priority are not simulated yet; compare runs instead")
    if shape.groups and shape.handovers:
        raise SimjaxError("disaggregation: derivatives through hand-overs of ranks in lockstep are not simulated yet; compare runs instead")
    return replace(shape, log_rows=0)


def guarded(params: ClusterParams) -> ClusterParams:
    """Parameters on the device whose infinite arrival times are constants: a tangent there could be infinite, and nothing arrives then."""
    params = jax.tree.map(jnp.asarray, params)
    arrival_s = params.requests.arrival_s
    return replace(params, requests=replace(params.requests, arrival_s=jnp.where(jnp.isfinite(arrival_s), arrival_s, NEVER)))


def read(shape: EngineShape, params: ClusterParams, state: ClusterState) -> Outcome:
    """The outcome in the state at the end of a run."""
    column = dict(zip(recorded(RequestLog, shape), state.outcome[: shape.requests].T, strict=True))
    finished = jnp.isfinite(column["finish_s"])
    arrival_s = state.arrivals.arrival_s(params, jnp.arange(shape.requests, dtype=jnp.int32))
    return Outcome(
        arrival_s=jnp.where(finished, arrival_s, NEVER),
        scheduled_s=column["scheduled_s"],
        first_token_s=column["first_token_s"],
        finish_s=column["finish_s"],
        instance=jnp.where(finished, column["instance"], -1).astype(jnp.int32),
        preemptions=jnp.where(finished, column["preemptions"], 0).astype(jnp.int32),
        finished=finished,
        ticks=state.ticks,
        steps=state.steps,
        overflow=state.overflow,
    )
