"""From the engine's arrays at the end of a run to records on the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np

from simjax.engine.columns import completed, read_rows
from simjax.engine.handover.table import Handovers, NoHandovers, Phase
from simjax.engine.host.batch import Batch
from simjax.engine.host.lower import Lowered
from simjax.engine.host.ranks import of_instances
from simjax.engine.host.result import NEVER, HandoverLog, InstanceLog, LeapLog, RequestLog, Result, Status
from simjax.engine.kv.held_blocks import HeldBlocks
from simjax.engine.params import ClusterParams, RankParams
from simjax.engine.priority.progress import NoProgress
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState


def leap_log(shape: EngineShape, pieces: list[np.ndarray]) -> LeapLog:
    """The recorded leaps; each piece is float64[K, F] of the columns of `LeapLog`."""
    return LeapLog(**read_rows(LeapLog, shape, np.concatenate(pieces)))


def schedule(shape: EngineShape, params: ClusterParams) -> np.ndarray | None:
    """Times at which a client with a cap would have sent the requests without it, float64[R]; None without a cap."""
    served = int(params.workload)
    return np.array(params.requests.arrival_s[served, : int(params.requests.count[served])]) if shape.capped else None


def instance_log(shape: EngineShape, limits: RankParams, state: ClusterState) -> InstanceLog:
    """Totals of the ranks; 0 where a subsystem that would count is not there."""
    return completed(InstanceLog, len(np.asarray(limits.num_blocks)), {"num_blocks": limits.num_blocks, **state.instance_columns()})


def batch_results(batch: Batch, designs: Mapping[int, Lowered], state: ClusterState, going: np.ndarray) -> list[Result]:
    """Results of some designs of a batch, without leaps, as their single runs give them.

    Runs of one workload share their arrays of lengths.

    Args:
        batch: what ran, on the host.
        designs: the single designs that are asked for, by their place in the batch.
        state: its final state, leaves [B, ...].
        going: bool[B], which of them could go on.
    """
    counts = {b: int(design.params.requests.count[0]) for b, design in designs.items()}
    done = np.asarray(state.num_finished)
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
        log, handovers = handover_log(batch.shape, params, mine, request_log(batch.shape, params, mine, status))
        prompt, output = lengths.setdefault(id(params.requests), (log.prompt_tokens, log.output_tokens))
        log = replace(log, prompt_tokens=prompt, output_tokens=output)
        totals = instance_log(batch.shape, design.params.ranks, mine)
        facts = {"sessions": design.sessions, "stationary": design.stationary, "due_s": schedule(batch.shape, design.params)}
        facts |= {"handovers": handovers, "classes": design.classes}
        result = Result(status, log, None, totals, int(mine.ticks), int(mine.steps), **facts)
        several = design.shape.several_ranks
        results.append(of_instances(result, np.asarray(design.params.ranks.instance)) if several else result)
    return results


def request_log(shape: EngineShape, params: ClusterParams, state: ClusterState, status: Status) -> RequestLog:
    """Every request's outcome, those included that a run left in a rank, in a queue, or unsent."""
    served = int(params.workload)
    count = int(params.requests.count[served])
    outcome = read_rows(RequestLog, shape, np.asarray(state.outcome)[:count])
    finished = np.isfinite(outcome["finish_s"])
    log = RequestLog(
        **outcome,
        prompt_tokens=np.asarray(params.requests.prompt_tokens[served, :count]),
        output_tokens=np.asarray(params.requests.output_tokens[served, :count]),
        arrival_s=np.array(state.arrivals.arrival_s(params, np.arange(count))),  # pyright: ignore[reportArgumentType]
        finished=finished,
    )
    if not finished.all():
        _add_queued(shape, state, log, np.inf if status == Status.STALLED else float(np.max(np.asarray(state.ranks.plan.start_s))))
        _add_preempted(params, state, log)
        _add_running(params, state, log)
    return log


def handover_log(
    shape: EngineShape, params: ClusterParams, state: ClusterState, requests: RequestLog
) -> tuple[RequestLog, HandoverLog | None]:
    """The outcome of every request, and its hand-over.

    The engine records the decode instance's part of a request with two legs: what it has in common with one leg becomes that of both.
    """
    if isinstance(state.handovers, NoHandovers):
        return requests, None
    found = read_rows(HandoverLog, shape, np.asarray(state.handovers.outcome)[: len(requests.finished)])
    if not requests.finished.all():
        _add_rows(state.handovers, found)
    two = found["prefill_instance"] >= 0
    log = HandoverLog(
        **found,
        decode_scheduled_s=np.where(two, requests.scheduled_s, NEVER),
        decode_cached_tokens=np.where(two, requests.cached_tokens, 0).astype(np.int32),
    )
    scheduled_s = np.where(two, log.prefill_scheduled_s, requests.scheduled_s)
    cached = np.where(two, log.prefill_cached_tokens, requests.cached_tokens).astype(np.int32)
    return replace(requests, scheduled_s=scheduled_s, cached_tokens=cached), log


def _add_rows(table: Handovers, found: dict[str, np.ndarray]) -> None:
    """Add what is known of hand-overs that a run was cut in."""
    rows = np.flatnonzero((np.asarray(table.phase) != Phase.FREE) & np.isfinite(np.asarray(table.finish_s)))
    request = np.asarray(table.request)[rows]
    for name, values in table.log_columns().items():
        found[name][request] = np.asarray(values)[rows]


def _add_queued(shape: EngineShape, state: ClusterState, log: RequestLog, cut_s: float) -> None:
    """Add the instance of requests in a queue when the run was cut at `cut_s`; those not sent by then never were."""
    count, ranks = len(log.finished), state.ranks
    routes = np.asarray(state.routes) if shape.has_routes else np.arange(count)[None]
    for i, (head, tail) in enumerate(zip(np.asarray(ranks.head), np.asarray(ranks.tail), strict=True)):
        queued = routes[i, head:tail]
        log.instance[queued[log.arrival_s[queued] <= cut_s]] = i
    log.arrival_s[~log.finished & (log.arrival_s > cut_s)] = NEVER


def _add_preempted(params: ClusterParams, state: ClusterState, log: RequestLog) -> None:
    """Add what is known of requests in a queue by priority that have run before."""
    if isinstance(state.progress, NoProgress):
        return
    kept = {name: np.asarray(values)[: len(log.finished)] for name, values in state.progress.columns().items()}
    mine = (kept["num_tokens"] > 0) & ~log.finished
    log.preemptions[mine] = kept["preemptions"][mine]
    log.scheduled_s[mine] = kept["scheduled_s"][mine]
    if "cached_tokens" in kept:
        log.cached_tokens[mine] = kept["cached_tokens"][mine]
    log.first_token_s[mine] = (kept["first_token_s"] + np.asarray(params.ranks.api_post_s)[log.instance])[mine]


def _add_running(params: ClusterParams, state: ClusterState, log: RequestLog) -> None:
    """Add what is known of the requests still in a rank, from their slots."""
    ranks = state.ranks
    slots = jax.tree.map(np.asarray, ranks.slots)
    post_s = np.asarray(params.ranks.api_post_s)
    for i, (running, preempted) in enumerate(zip(np.asarray(ranks.num_running), np.asarray(ranks.num_preempted), strict=True)):
        inside = slice(0, int(running + preempted))
        request = slots.request[i, inside]
        log.instance[request] = i
        log.preemptions[request] = slots.preemptions[i, inside]
        if isinstance(slots.held, HeldBlocks):
            log.cached_tokens[request] = slots.held.cached_tokens[i, inside]
        log.scheduled_s[request] = slots.scheduled_s[i, inside]
        log.first_token_s[request] = slots.first_token_s[i, inside] + post_s[i]
