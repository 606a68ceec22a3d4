"""Times of what data-parallel ranks of a mixture of experts do together, from a deployment and the seconds of its experts.

Under expert parallelism the tensor-parallel ranks of a data-parallel rank share its tokens before they dispatch them to the whole EP group,
and gather them again afterwards (vLLM's sequence-parallel MoE). Without it the data-parallel ranks gather all tokens, every device computes
its part of all experts, and a reduce-scatter between data-parallel and an all-reduce between tensor-parallel ranks sum the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simjax.deployment import Deployment
from simjax.hardware import LinkSpec
from simjax.latency.experts.dual_batch import DECODE_TOKENS, OTHER_TOKENS
from simjax.latency.groups.times import FULL, NEVER, NONE, PIECEWISE, GroupTimes
from simjax.latency.profiles.profile import CollectiveEfficiency, ParallelEffects
from simjax.latency.tables.lookups import lookup, row_of
from simjax.model.precision import EXPERTS
from simjax.network.all_to_all import ROUND_TOKENS, DeepEpEfficiency, Group, exchange_s
from simjax.network.collectives import all_gather_s, reduce_scatter_s
from simjax.parallel.experts import ALL_GATHER, HIGH_THROUGHPUT, LLMSERVINGSIM, LOW_LATENCY

_MANY = 2.0**20


@dataclass(frozen=True)
class UnionTerms:
    """Seconds of experts and exchanges of all layers.

    Attributes:
        experts_s: f[K], experts of a step with the tokens of `knots`.
        exchange_s: f[T], dispatch and combine, by tokens of the rank with the most.
        token_s: what each token of the union adds.
    """

    experts_s: Any
    exchange_s: Any
    token_s: Any = 0.0


def knots(data: int, max_tokens: int) -> np.ndarray:
    """Tokens of the union for which `GroupTimes.experts_s` has entries: all up to `max_tokens`, then every `data`-th, i[K]."""
    coarse = max_tokens + data * np.arange(1, max_tokens - max_tokens // data + 1)
    return np.concatenate([np.arange(1, max_tokens + 1), coarse])


def nothing(deployment: Deployment, max_tokens: int) -> UnionTerms:
    """The terms of ranks that step together and exchange no tokens."""
    return UnionTerms(np.zeros(len(knots(deployment.parallelism.data, max_tokens))), np.zeros(max_tokens))


def backend_of(deployment: Deployment) -> str:
    """The backend that exchanges tokens: DeepEP's kernels are for expert-parallel ranks, others gather."""
    backend = deployment.parallelism.experts.all2all_backend
    return backend if deployment.parallelism.expert > 1 else ALL_GATHER


def shares(deployment: Deployment) -> tuple[float, float]:
    """Of the rows of all ranks, the share that reaches a device, and the share that it routes."""
    group, backend, parallelism = _group(deployment), backend_of(deployment), deployment.parallelism
    routed = 1.0 / (parallelism.expert if parallelism.expert > 1 else parallelism.data)
    if backend == HIGH_THROUGHPUT:
        return group.distinct(group.ranks) / group.ranks, routed
    return (group.experts_per_token / group.ranks if backend == LOW_LATENCY else 1.0), routed


def exchange_terms(
    deployment: Deployment,
    max_tokens: int,
    efficiency: CollectiveEfficiency | None = None,
    parallel: ParallelEffects | None = None,
    xp: Any = np,
) -> tuple[Any, Any]:
    """`UnionTerms.exchange_s` and `UnionTerms.token_s` of a deployment.

    Args:
        deployment: whose they are.
        max_tokens: most tokens of a step of a rank.
        efficiency: how collectives compare with the link within a node.
        parallel: how exchanges compare with what links and kernels are taken to reach.
        xp: numpy, or jax.numpy where these are traced.
    """
    device, layers, backend = deployment.device, deployment.part.num_moe_layers, backend_of(deployment)
    tokens = np.arange(1.0, max_tokens + 1)
    if backend == LLMSERVINGSIM:
        return layers * _simplified_s(deployment, tokens), 0.0
    group, intra = _group(deployment), (efficiency or CollectiveEfficiency()).of(deployment.link)
    inter = device.node.inter_link_of(deployment.parallelism.num_devices // deployment.parallelism.pipeline)
    faster = parallel or ParallelEffects()
    kernels = DeepEpEfficiency().scaled(faster.exchange_bandwidth, faster.exchange_latency)
    if backend == ALL_GATHER:  # a ring over the links
        ring = CollectiveEfficiency(faster.exchange_bandwidth, faster.exchange_latency)
        intra, inter = ring.of(intra), ring.of(inter)
    share = deployment.parallelism.tensor if deployment.parallelism.expert > 1 else 1  # of the tokens of a data-parallel rank

    def seconds(most: Any, total: Any) -> Any:
        return sum(exchange_s(backend, group, most, total, intra, inter, device.memory_bandwidth_bytes_per_s, kernels, xp))

    least_s = seconds(0.0, 0.0)
    return layers * seconds(np.ceil(tokens / share), 0.0 * tokens), layers * (seconds(0.0, _MANY) - least_s) / _MANY


def gathered_s(deployment: Deployment, message_bytes: np.ndarray, link: LinkSpec) -> np.ndarray:
    """Seconds in which the tensor-parallel ranks of an expert-parallel group gather their shares of the rows again, f[T]."""
    if backend_of(deployment) == LLMSERVINGSIM:
        return 0.0 * message_bytes
    return all_gather_s(message_bytes / deployment.parallelism.tensor, deployment.parallelism.tensor, link)


def group_times(terms: UnionTerms, deployment: Deployment, max_tokens: int, correction: Any = 1.0) -> GroupTimes:
    """The terms as `GroupTimes` (C = 1); call it inside `jax.enable_x64(True)`.

    Args:
        terms: seconds of experts and exchanges.
        deployment: whose they are.
        max_tokens: most tokens of a step of a rank.
        correction: factor f[T] on the work of a step by its tokens, which the experts have by the mean of the ranks.
    """
    experts, parallelism = deployment.parallelism.experts, deployment.parallelism
    decodes, others = (not launched for launched in deployment.launches)
    least = (DECODE_TOKENS, OTHER_TOKENS) if experts.dbo else (NEVER, NEVER)
    if not isinstance(correction, float):
        mean = np.clip(knots(parallelism.data, max_tokens) / parallelism.data, 1, max_tokens)
        correction = jnp.interp(mean, np.arange(1.0, max_tokens + 1), correction)
    return GroupTimes(
        ranks=_whole(parallelism.data),
        fine_tokens=_whole(max_tokens),
        experts_s=lookup(terms.experts_s * correction),
        exchange_s=lookup(terms.exchange_s),
        token_s=row_of(terms.token_s),
        round_tokens=_whole(ROUND_TOKENS * parallelism.tensor if backend_of(deployment) == LOW_LATENCY else NEVER),
        graphs=_whole([FULL if decodes else NONE, PIECEWISE if others else NONE]),
        halves=_whole(least),
        simplified=row_of(experts.all2all_backend == LLMSERVINGSIM, bool),
    )


def _group(deployment: Deployment) -> Group:
    model, parallelism, node = deployment.model, deployment.parallelism, deployment.device.node
    devices = parallelism.tensor * parallelism.data
    on_node = devices // node.nodes_for(devices)
    shared = parallelism.expert > 1
    return Group(
        ranks=parallelism.expert if shared else parallelism.data,
        ranks_per_node=on_node if shared else max(on_node // parallelism.tensor, 1),
        hidden_size=model.hidden_size,
        experts=model.num_experts,
        experts_per_token=model.num_experts_per_tok,
        dispatch_bytes=2 if model.format_of(EXPERTS) is None or model.computed_in is None else 1,
    )


def _simplified_s(deployment: Deployment, tokens: np.ndarray) -> np.ndarray:
    """Seconds of LLMServingSim's all-gather and reduce-scatter of a layer in steps of so many tokens of each rank, f[T].

    A rank dispatches an even share of one rank's tokens, hidden states and router logits; what it sums are as many rows. Ranks of several
    dimensions go through the inner one, the tensor-parallel ranks, and then through the outer one.
    """
    model, parallelism, device = deployment.model, deployment.parallelism, deployment.device
    ranks, fp = parallelism.expert, model.dtype_bytes
    dispatched = np.maximum(tokens // ranks, 1.0) * (model.hidden_size + model.num_experts) * fp
    combined = tokens * model.hidden_size * fp
    inner = parallelism.tensor if ranks > parallelism.data else 1
    sizes = ((inner, deployment.link), (ranks // inner, device.node.inter_link if parallelism.data > 1 else deployment.link))
    seconds = 0.0 * tokens
    for size, link in reversed(sizes):  # gathered from the outside, so that the inner ranks pass on what they have
        seconds = seconds + all_gather_s(dispatched, size, link)
        dispatched = dispatched * size
    for size, link in sizes:
        seconds = seconds + reduce_scatter_s(combined, size, link, device.memory_bandwidth_bytes_per_s)
        combined = combined / size
    return seconds


def _whole(value: Any) -> jax.Array:
    return row_of(value, np.int32)
