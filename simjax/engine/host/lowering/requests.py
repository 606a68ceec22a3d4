"""From workloads to the engine's tables: requests, contents that they share, and calls that wait for calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simjax.engine.params import PrefixParams, RequestParams, SessionParams
from simjax.engine.shape import cap_bucket, power_of_two, seat_bucket
from simjax.workload.contents.prefixes import Prefixes
from simjax.workload.contents.tree import private
from simjax.workload.models import ANY
from simjax.workload.sessions import Sessions
from simjax.workload.workload import Workload

ROUTER_STREAM = 42  # keeps the router's draws apart from the workload's, which have the same seed


def request_params(workloads: Sequence[Workload], size: int, seeds: Sequence[int], contents: bool = False) -> RequestParams:
    """V workloads as arrays, each padded to `size` requests; the seeds are those of the random router.

    What the contents of requests share goes with them where a workload knows, or for all when `contents` asks for it; so do sessions.
    """
    if [len(workload) for workload in workloads] == [size]:
        params = _as_they_are(workloads[0], seeds[0])
    else:
        params = _padded(workloads, size, seeds)
    if contents or any(workload.prefixes is not None for workload in workloads):
        params = replace(params, prefix=prefix_params(workloads, size))
    if any(workload.max_concurrency for workload in workloads):
        params = replace(params, open_s=opening_times(workloads))
    if any(workload.sessions is not None for workload in workloads):
        params = replace(params, sessions=session_params(workloads, size))
    return params


def request_models(workload: Workload, size: int) -> tuple[Any, Any]:
    """The models that the requests of one workload name, and their turns among those of the same model, int32[1, size] both."""
    assert workload.models is not None
    return _table([workload.models.index], size, np.int32, ANY), _table([workload.models.turn], size, np.int32)


def opening_times(workloads: Sequence[Workload]) -> Any:
    """Times in seconds at which the seats of V clients with caps open, float64[V, C]; infinity beyond the cap."""
    caps = [workload.max_concurrency or len(workload) for workload in workloads]
    opening = [workload.ramp_s * np.arange(cap) / cap for workload, cap in zip(workloads, caps, strict=True)]
    return _table(opening, cap_bucket(max(caps)), np.float64, np.inf)


def sizes_of(requests: RequestParams, workload: Workload, size: int) -> dict[str, Any]:
    """The fields of `EngineShape` that follow from a workload and its arrays, padded to `size` requests."""
    found: dict[str, Any] = {"capped": workload.max_concurrency > 0}
    if workload.concurrency:
        found["clients"] = min(seat_bucket(workload.concurrency), size)
    if requests.open_s is not None:
        found["clients"] = requests.open_s.shape[1]
    if requests.prefix is not None:
        found |= {"prefix_nodes": requests.prefix.start_tokens.shape[1], "prefix_path": _bound(requests.prefix.length)}
    if requests.sessions is not None:
        found |= {"fanout": _bound(requests.sessions.count)}
    return found


def _bound(lengths: Any) -> int:
    """A power of two that no length exceeds, so that workloads share programs."""
    return power_of_two(max(1, int(np.max(np.asarray(lengths)))))


def prefix_params(workloads: Sequence[Workload], size: int) -> PrefixParams:
    """The trees of contents of V workloads; where one knows nothing of its contents, each request has its own."""
    trees = [x.prefixes or private(x.prompt_tokens.astype(np.int64) + x.output_tokens) for x in workloads]
    nodes = power_of_two(max(tree.num_nodes for tree in trees) + 1)  # the last one stays empty
    longest = power_of_two(max(int(np.diff(tree.offsets).max()) for tree in trees))
    entries = power_of_two(max(len(tree.nodes) for tree in trees) + longest)
    return PrefixParams(
        start_tokens=_table([tree.start_tokens for tree in trees], nodes, np.int32),
        end_tokens=_table([tree.end_tokens for tree in trees], nodes, np.int32),
        nodes=_table([tree.nodes for tree in trees], entries, np.int32),
        offset=_table([tree.offsets[:-1] for tree in trees], size, np.int32),
        length=_table([np.diff(tree.offsets) for tree in trees], size, np.int32),
        shared=_table([_shared_nodes(tree) for tree in trees], size, np.int32),
    )


def _shared_nodes(tree: Prefixes) -> np.ndarray:
    """Leading nodes of each request's path that are on another one too, int[R]: none follows one that is not."""
    return np.add.reduceat(tree.sharers[tree.nodes] > 1, tree.offsets[:-1], dtype=np.int64)


def session_params(workloads: Sequence[Workload], size: int) -> SessionParams:
    """Calls that wait for calls in V workloads; in one without sessions none does."""
    calls = [workload.sessions or _no_sessions(len(workload)) for workload in workloads]
    widest = power_of_two(max(1, *(int(np.diff(x.offsets).max()) for x in calls)))
    edges = power_of_two(max(len(x.then) for x in calls) + widest)
    return SessionParams(
        session=_table([x.session for x in calls], size, np.int32),
        predecessors=_table([x.predecessors for x in calls], size, np.int32),
        offset=_table([x.offsets[:-1] for x in calls], size, np.int32),
        count=_table([np.diff(x.offsets) for x in calls], size, np.int32),
        then=_table([x.then for x in calls], edges, np.int32),
        delay_s=_table([x.delay_s for x in calls], edges, np.float64),
    )


def _no_sessions(n: int) -> Sessions:
    zero = np.zeros(n, np.int32)
    return Sessions(np.arange(n, dtype=np.int32), tuple(map(str, range(n))), zero, zero, np.zeros(n + 1, np.int32), zero[:0], np.zeros(0))


def _table(rows: Sequence[np.ndarray], length: int, dtype: type, fill: float = 0) -> Any:
    """Rows of V workloads as one array [V, length], padded. (Any: the engine's records name JAX arrays, and hold these on the host.)"""
    return np.stack([np.pad(np.asarray(x, dtype), (0, length - len(x)), constant_values=fill) for x in rows])


def _padded(workloads: Sequence[Workload], size: int, seeds: Sequence[int]) -> RequestParams:
    draws = [np.random.default_rng([ROUTER_STREAM, seed]).random(len(workload)) for workload, seed in zip(workloads, seeds, strict=True)]
    return RequestParams(
        arrival_s=_table([workload.arrival_s for workload in workloads], size, np.float64, np.inf),
        prompt_tokens=_table([workload.prompt_tokens for workload in workloads], size, np.int32, 1),
        output_tokens=_table([workload.output_tokens for workload in workloads], size, np.int32, 1),
        router_draw=_table(draws, size, np.float64),
        **_of_workloads(workloads),
    )


def _as_they_are(workload: Workload, seed: int) -> RequestParams:
    """A workload that needs no padding, without copies: a sweep may hold thousands."""
    columns: dict[str, Any] = {
        "arrival_s": np.asarray(workload.arrival_s, np.float64),
        "prompt_tokens": np.asarray(workload.prompt_tokens, np.int32),
        "output_tokens": np.asarray(workload.output_tokens, np.int32),
        "router_draw": np.random.default_rng([ROUTER_STREAM, seed]).random(len(workload)),
    }
    return RequestParams(**{name: column[None] for name, column in columns.items()}, **_of_workloads([workload]))


def _of_workloads(workloads: Sequence[Workload]) -> dict[str, Any]:
    """Leaves of `RequestParams` over V workloads."""
    return {
        "count": np.array([len(workload) for workload in workloads], np.int32),
        "think_s": np.array([workload.think_s for workload in workloads], np.float64),
    }
