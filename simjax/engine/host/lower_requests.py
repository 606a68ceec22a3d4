"""From workloads to the engine's tables of requests, of what they share and of who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simjax.engine.params import PrefixParams, RequestParams, SessionParams
from simjax.engine.shape import power_of_two
from simjax.workload.contents.tree import private
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
    if any(workload.sessions is not None for workload in workloads):
        params = replace(params, sessions=session_params(workloads, size))
    return params


def longest_path(requests: RequestParams) -> int:
    """Nodes of the longest path, padded so that workloads share programs; 0 without contents."""
    return 0 if requests.prefix is None else power_of_two(int(np.max(np.asarray(requests.prefix.length))))


def largest_fanout(requests: RequestParams) -> int:
    """Most calls that wait for one call, padded; at least 1 with sessions, 0 without."""
    return 0 if requests.sessions is None else power_of_two(max(1, int(np.max(np.asarray(requests.sessions.count)))))


def prefix_params(workloads: Sequence[Workload], size: int) -> PrefixParams:
    """The trees of contents of V workloads; where one knows nothing of its contents, each request has its own."""
    trees = [private(x.prompt_tokens.astype(np.int64) + x.output_tokens) if x.prefixes is None else x.prefixes for x in workloads]
    nodes = power_of_two(max(tree.num_nodes for tree in trees) + 1)  # the last one stays empty
    longest = power_of_two(max(int(np.diff(tree.offsets).max()) for tree in trees))
    entries = power_of_two(max(len(tree.nodes) for tree in trees) + longest)
    row = lambda x, length: np.pad(np.asarray(x, np.int32), (0, length - len(x)))  # noqa: E731
    return PrefixParams(
        start_tokens=host(np.stack([row(tree.start_tokens, nodes) for tree in trees])),
        end_tokens=host(np.stack([row(tree.end_tokens, nodes) for tree in trees])),
        nodes=host(np.stack([row(tree.nodes, entries) for tree in trees])),
        offset=host(np.stack([row(tree.offsets[:-1], size) for tree in trees])),
        length=host(np.stack([row(np.diff(tree.offsets), size) for tree in trees])),
    )


def session_params(workloads: Sequence[Workload], size: int) -> SessionParams:
    """Who waits for whom in V workloads; in one without sessions nobody."""
    calls = [_nobody(len(workload)) if workload.sessions is None else workload.sessions for workload in workloads]
    widest = power_of_two(max(1, *(int(np.diff(x.offsets).max()) for x in calls)))
    edges = power_of_two(max(len(x.then) for x in calls) + widest)
    row = lambda x, length: np.pad(np.asarray(x), (0, length - len(x)))  # noqa: E731
    return SessionParams(
        session=host(np.stack([row(x.session, size) for x in calls])),
        predecessors=host(np.stack([row(x.predecessors, size) for x in calls])),
        offset=host(np.stack([row(x.offsets[:-1], size) for x in calls])),
        count=host(np.stack([row(np.diff(x.offsets), size) for x in calls])),
        then=host(np.stack([row(x.then, edges) for x in calls])),
        delay_s=host(np.stack([row(x.delay_s, edges) for x in calls])),
    )


def _nobody(n: int) -> Sessions:
    zero = np.zeros(n, np.int32)
    return Sessions(np.arange(n, dtype=np.int32), tuple(map(str, range(n))), zero, zero, np.zeros(n + 1, np.int32), zero[:0], np.zeros(0))


def _padded(workloads: Sequence[Workload], size: int, seeds: Sequence[int]) -> RequestParams:
    V = len(workloads)
    arrival_s, draws = np.full((V, size), np.inf), np.zeros((V, size))
    prompt, output = np.ones((V, size), np.int32), np.ones((V, size), np.int32)
    for v, (workload, seed) in enumerate(zip(workloads, seeds, strict=True)):
        n = len(workload)
        arrival_s[v, :n], prompt[v, :n], output[v, :n] = workload.arrival_s, workload.prompt_tokens, workload.output_tokens
        draws[v, :n] = np.random.default_rng([ROUTER_STREAM, seed]).random(n)
    return RequestParams(
        arrival_s=host(arrival_s),
        prompt_tokens=host(prompt),
        output_tokens=host(output),
        router_draw=host(draws),
        count=host(np.array([len(workload) for workload in workloads], np.int32)),
        think_s=host(np.array([workload.think_s for workload in workloads], np.float64)),
    )


def _as_they_are(workload: Workload, seed: int) -> RequestParams:
    """A workload that needs no padding, without copies: a sweep may hold thousands."""
    return RequestParams(
        arrival_s=host(np.asarray(workload.arrival_s, np.float64)[None]),
        prompt_tokens=host(np.asarray(workload.prompt_tokens, np.int32)[None]),
        output_tokens=host(np.asarray(workload.output_tokens, np.int32)[None]),
        router_draw=host(np.random.default_rng([ROUTER_STREAM, seed]).random(len(workload))[None]),
        count=host(np.array([len(workload)], np.int32)),
        think_s=host(np.array([workload.think_s], np.float64)),
    )


def host(array: Any) -> Any:
    """A numpy array where a record of the engine names a JAX one: the program that takes the record converts it."""
    return array
