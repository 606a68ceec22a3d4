"""From the engine's arrays at the end of a run to records on the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np

from simjax.engine.host.batch import Stack
from simjax.engine.host.lower import Lowered
from simjax.engine.host.result import NEVER, LeapLog, RequestLog, Result, Status
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.engine.state import CACHED_FIELD, ClusterState, outcome_fields
from simjax.engine.tick import CACHED_BLOCKS, leap_fields


def leap_log(shape: EngineShape, pieces: list[np.ndarray]) -> LeapLog:
    """The logged leaps; each piece is float64[K, F] of `leap_fields`."""
    columns = dict(zip(leap_fields(shape), np.concatenate(pieces).T, strict=True))
    columns.setdefault(CACHED_BLOCKS, np.zeros_like(columns["instance"]))
    return LeapLog(**{name: x if name.endswith("_s") else x.astype(np.int32) for name, x in columns.items()})


def batch_results(batch: Stack, designs: Mapping[int, Lowered], state: ClusterState, going: np.ndarray) -> list[Result]:
    """Results of some designs of a batch, without leaps, as their single runs give them.

    Runs of one workload share their arrays of lengths.

    Args:
        batch: what ran, on the host.
        designs: the single designs that are asked for, by their place in the batch.
        state: its final state, leaves [B, ...].
        going: bool[B], which of them could go on.
    """
    counts = {b: int(design.params.requests.count[0]) for b, design in designs.items()}
    done = np.asarray(state.done)
    if all(done[b] == count for b, count in counts.items()):
        state = replace(state, ranks=None, routes=None)  # pyright: ignore[reportArgumentType]
    host, lengths, results = jax.device_get(state), {}, []
    for b, design in designs.items():
        finished = done[b] == counts[b]
        status = Status.FINISHED if finished else Status.TICK_LIMIT if going[b] else Status.STALLED
        mine = jax.tree.map(lambda x, b=b: x[b], host)
        params = design.params
        if not finished:
            params = replace(params, ranks=jax.tree.map(lambda x, b=b: x[b], batch.params.ranks))
        log = request_log(batch.shape, params, mine, status)
        prompt, output = lengths.setdefault(id(params.requests), (log.prompt_tokens, log.output_tokens))
        log = replace(log, prompt_tokens=prompt, output_tokens=output)
        N = design.shape.ranks
        blocks = np.asarray(design.params.ranks.num_blocks)
        ticks, steps = int(mine.ticks), int(mine.steps)
        peak, evicted = mine.peak_blocks[:N], evicted_blocks(mine)[:N]
        results.append(Result(status, log, None, blocks, peak, ticks, steps, 0.0, 0.0, evicted, design.sessions))
    return results


def evicted_blocks(state: ClusterState) -> np.ndarray:
    """int32[N]: cached blocks that were taken for something else."""
    return np.zeros_like(np.asarray(state.peak_blocks)) if state.cache is None else np.asarray(state.cache.evicted)


def request_log(shape: EngineShape, params: ClusterParams, state: ClusterState, status: Status) -> RequestLog:
    """Every request's outcome, those included that a run left in the engines, in a queue, or unsent."""
    served = int(params.workload)
    count = int(params.requests.count[served])
    outcome = dict(zip(outcome_fields(shape), np.asarray(state.outcome)[:count].T, strict=True))
    finished = np.isfinite(outcome["finish_s"])
    log = RequestLog(
        instance=np.where(finished, outcome["instance"], -1).astype(np.int32),
        prompt_tokens=np.asarray(params.requests.prompt_tokens[served, :count]),
        output_tokens=np.asarray(params.requests.output_tokens[served, :count]),
        cached_tokens=np.where(finished, outcome.get(CACHED_FIELD, 0), 0).astype(np.int32),
        arrival_s=np.array(_sent_s(params, state)[:count]),
        scheduled_s=outcome["scheduled_s"].copy(),
        first_token_s=outcome["first_token_s"].copy(),
        finish_s=outcome["finish_s"],
        preemptions=np.where(finished, outcome["preemptions"], 0).astype(np.int32),
        finished=finished,
    )
    if not finished.all():
        _add_queued(shape, state, log, np.inf if status == Status.STALLED else float(np.max(np.asarray(state.ranks.plan.start_s))))
        _add_running(params, state, log)
    return log


def _sent_s(params: ClusterParams, state: ClusterState) -> np.ndarray:
    """When each request was sent."""
    dynamic = state.loop or state.calls
    return np.asarray(params.requests.arrival_s[int(params.workload)] if dynamic is None else dynamic.arrival_s)


def _add_queued(shape: EngineShape, state: ClusterState, log: RequestLog, cut_s: float) -> None:
    """Requests still in a queue when the run was cut at `cut_s`: whose; and those not sent by then: never sent."""
    count, e = len(log.finished), state.ranks
    routes = np.asarray(state.routes) if shape.listed else np.arange(count)[None]
    for i, (head, tail) in enumerate(zip(np.asarray(e.head), np.asarray(e.tail), strict=True)):
        queued = routes[i, head:tail]
        log.instance[queued[log.arrival_s[queued] <= cut_s]] = i
    log.arrival_s[~log.finished & (log.arrival_s > cut_s)] = NEVER


def _add_running(params: ClusterParams, state: ClusterState, log: RequestLog) -> None:
    """Requests still in an engine: what is known of them so far, read from their slots."""
    e = state.ranks
    slots = jax.tree.map(np.asarray, e.slots)
    post_s = np.asarray(params.ranks.api_post_s)
    for i, (n, parked) in enumerate(zip(np.asarray(e.n), np.asarray(e.parked), strict=True)):
        inside = slice(0, int(n + parked))
        request = slots.request[i, inside]
        log.instance[request] = i
        log.preemptions[request] = slots.preemptions[i, inside]
        if slots.holding is not None:
            log.cached_tokens[request] = slots.holding.cached_tokens[i, inside]
        log.scheduled_s[request] = slots.scheduled_s[i, inside]
        log.first_token_s[request] = slots.first_token_s[i, inside] + post_s[i]
