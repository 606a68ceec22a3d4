"""Requests, what they share, and which of them wait for which.

Legend: V workloads, R requests, C clients, M prefix nodes, K entries of all paths, X waits of all calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefixParams:
    """Contents that requests share: a radix tree of M prefix nodes in tokens, see `simjax.workload.contents.prefixes`.

    The last prefix node is empty and stands where a path has ended. A path is a slice of `nodes`, which is long enough for a slice of the
    longest path to start anywhere.

    Attributes:
        start_tokens, end_tokens: run of tokens of each prefix node.
        nodes: prefix nodes of all paths, root first.
        offset, length: path of each request, nodes[offset : offset + length].
        shared: leading nodes of that path that are on another one too.
    """

    start_tokens: Int32[Array, "V M"]
    end_tokens: Int32[Array, "V M"]
    nodes: Int32[Array, "V K"]
    offset: Int32[Array, "V R"]
    length: Int32[Array, "V R"]
    shared: Int32[Array, "V R"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SessionParams:
    """Calls that wait for calls, see `simjax.workload.sessions`.

    Attributes:
        session: session of each request.
        predecessors: number of calls that must finish before a request is sent.
        offset, count: the calls that wait for a request are then[offset : offset + count]; the tables are padded like `PrefixParams.nodes`.
        then, delay_s: such a call, and the pause before it.
    """

    session: Int32[Array, "V R"]
    predecessors: Int32[Array, "V R"]
    offset: Int32[Array, "V R"]
    count: Int32[Array, "V R"]
    then: Int32[Array, "V X"]
    delay_s: Float64[Array, "V X"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RequestParams:
    """V workloads on the device, padded to R with requests that never arrive.

    Attributes:
        arrival_s: arrivals, sorted; infinity for padding, for the later requests of a closed loop and for calls that wait for
            others and have no recorded arrival, before which they are not sent.
        prompt_tokens, output_tokens: lengths, 1 in the padding.
        router_draw: draws of the random router, in [0, 1).
        count: number of requests that are no padding.
        think_s: pause of a closed-loop client between an answer and its next request.
        open_s: time from which each seat of a client with a cap may be taken, infinity for those beyond the cap; None without a cap.
        prefix: contents that requests share; None when no rank caches prefixes.
        sessions: calls that wait for calls; None when there are none.
        model: model that a request names, -1 for none; None where any rank serves any request.
        model_turn: number of earlier requests that name the same model; None likewise.
        priority: priority of each request, small ones first; None where no rank schedules by it.
    """

    arrival_s: Float64[Array, "V R"]
    prompt_tokens: Int32[Array, "V R"]
    output_tokens: Int32[Array, "V R"]
    router_draw: Float64[Array, "V R"]
    count: Int32[Array, " V"]
    think_s: Float64[Array, " V"]
    open_s: Float64[Array, "V C"] | None = None
    prefix: PrefixParams | None = None
    sessions: SessionParams | None = None
    model: Int32[Array, "V R"] | None = None
    model_turn: Int32[Array, "V R"] | None = None
    priority: Int32[Array, "V R"] | None = None
