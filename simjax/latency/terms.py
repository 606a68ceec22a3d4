"""The terms of a step's time, as any latency source states them, and their assembly into a `StepTime`.

A fitted profile, a roofline and measured tables differ in where their seconds come from. They have in common the parts of a step: work that
depends on the number of scheduled tokens, collectives between ranks, work that depends on the number of scheduled sequences, attention and
the host. A compiler (`simjax.latency.profiles.compile` or `simjax.latency.tables.compile_tables`) fills in `StepTerms`, and `assemble`
turns them into a `StepTime`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from simjax.deployment import Deployment
from simjax.latency.attention.coefficients import AttentionCoefficients
from simjax.latency.attention.table import AttentionTable
from simjax.latency.attention.windows import WindowedAttention
from simjax.latency.groups.union import UnionTerms, gathered_s, group_times
from simjax.latency.offload.demand import demand_s
from simjax.latency.offload.ways import weight_times
from simjax.latency.pim.compile_pim import pim_times
from simjax.latency.profiles.profile import CollectiveEfficiency, HostOverheads
from simjax.latency.step_time import StepTime
from simjax.latency.tables.lookups import lookup, placed, row_of
from simjax.model import kv_bytes_per_token
from simjax.network.collectives import all_reduce_over_nodes_s, all_reduce_s
from simjax.network.stages import boundary_s, link_between, rows_of

ALL_REDUCES_PER_LAYER = 2  # after o_proj and after the MLP
TOKEN_ID_BYTES = 4


@dataclass(frozen=True)
class StepTerms:
    """Seconds of the parts of a step of one deployment; numpy arrays, or JAX arrays where they are traced.

    Attributes:
        dense_s: f[T], token-wise operations of a step of 1 to T tokens, all calls together.
        layer_s: f[T], token-wise operations of one layer where a source measures a layer as a whole; they come on top of `dense_s`.
        collectives_s: f[T], collectives of one layer; 0 on a single rank.
        sequences_s: f[S], operations per sequence (lm_head and sampler) of a step of 1 to S sequences.
        attention: coefficients of all layers, scalars.
        host: time outside the kernels.
        table: measured attention of all layers with a leading axis of 1, None where the coefficients stand alone.
        correction: factor f[T] on the token-wise terms for the time that they take together and none of them takes alone.
        kernels: kernels of a step, for steps that the host launches one by one.
        until_kv_s: f[T], operations of a step up to the first layer's keys and values (embedding, norm, qkv_proj), for steps that send
            them before they end.
        windows: attention of layers that see a part of the context, scalars; None where there are none.
        ends_s: f[T] each, what of `dense_s` are the embedding and the last norm, for steps that stream weights.
        union: experts and exchanges of MoE layers whose ranks exchange tokens, which are then no part of `dense_s` and `layer_s`.
    """

    dense_s: Any
    layer_s: Any
    collectives_s: Any
    sequences_s: Any
    attention: AttentionCoefficients
    host: HostOverheads
    table: AttentionTable | None = None
    correction: Any = 1.0
    kernels: int = 0
    until_kv_s: Any = 0.0
    union: UnionTerms | None = None
    windows: WindowedAttention | None = None
    ends_s: tuple[Any, Any] = (0.0, 0.0)


def assemble(terms: StepTerms, deployment: Deployment) -> StepTime:
    """The `StepTime` (C = 1) of the terms; call it inside `jax.enable_x64(True)`.

    Of several pp stages the first has the host time of a step, for it waits for the scheduler; the last has that of its sequences.
    """
    if deployment.stage is None and deployment.parallelism.pipeline > 1:
        raise ValueError("each of Deployment.stages has step times of its own")
    host, layers = terms.host, deployment.part.num_hidden_layers
    tokens_s = (terms.dense_s + layers * (terms.layer_s + terms.collectives_s)) * terms.correction
    group = None if terms.union is None else group_times(terms.union, deployment, len(tokens_s), terms.correction)
    if group is not None and not deployment.grouped:  # its own tokens are the union
        union = terms.union
        assert union is not None
        tokens_s, group = tokens_s + union.experts_s * terms.correction + union.exchange_s, None
    weights = None
    if deployment.weights is not None:
        on_demand_s, (first_s, last_s) = demand_s(deployment, len(tokens_s)), terms.ends_s
        tokens_s = tokens_s + on_demand_s
        weights = weight_times(deployment, first_s * terms.correction, last_s * terms.correction, on_demand_s, len(tokens_s))
    sequences_s = terms.sequences_s + deployment.has_head * host.sequence_s * np.arange(1, len(terms.sequences_s) + 1)
    exposed_s = host.step_s * (1.0 - host.overlap) if deployment.async_scheduling else host.step_s
    exposed_s = deployment.has_embedding * exposed_s
    until_sent_s = None
    if deployment.kv_stream is not None:
        sent_s, last_s = stream_s(deployment, len(tokens_s))
        tokens_s, until_sent_s = tokens_s + last_s, lookup(exposed_s + terms.until_kv_s + sent_s + last_s)
    return StepTime(
        tokens_s=lookup(tokens_s),
        sequences_s=lookup(sequences_s),
        host_s=row_of(exposed_s + host.layer_s * layers),
        attention=jax.tree.map(row_of, terms.attention),
        table=jax.tree.map(placed, terms.table),
        launch_s=_launch_s(terms, exposed_s, deployment.launches),
        stream_s=until_sent_s,
        send_s=_send_s(deployment, len(tokens_s)),
        group=group,
        windows=jax.tree.map(row_of, terms.windows),
        weights=weights,
        pim=pim_times(deployment),
    )


def _send_s(deployment: Deployment, max_tokens: int) -> jax.Array | None:
    """`StepTime.send_s` of a pp stage, f64[1, T+1], 0 of the last one; None without pp stages."""
    stage, model, tensor = deployment.stage, deployment.model, deployment.parallelism.tensor
    if stage is None:
        return None
    if stage.last:
        return lookup(np.zeros(max_tokens))
    link = link_between(deployment.device.node, deployment.link, tensor, stage.count, stage.number, stage.number + 1)
    rows = rows_of(np.arange(1, max_tokens + 1), not deployment.launches[0])
    return lookup(boundary_s(rows, float(model.hidden_size * model.dtype_bytes), tensor, link, deployment.link))


def stream_s(deployment: Deployment, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds in which steps of 1 to `max_tokens` tokens send what they computed over `deployment.kv_stream`, f64[max_tokens] both.

    As in LLMServingSim: every layer sends the keys and values of the step's tokens once they are computed, one message after another, while
    the computation goes on; after the sampler a last small message sends its output. With L layers that need b each, messages of s and the
    first one ready at q, the last layer's arrives at max(q + L s, q + (L - 1) b + s), so that a step of c takes
    max(c, q + L s) + the last message. (The other bound, which holds for b > s, exceeds c by no more than a norm and qkv_proj take longer
    than the last norm, lm_head and the sampler, and is left out.) All-reduces over the same links are not delayed by the messages.

    Returns:
        Seconds of the messages of all layers, and of the last one.
    """
    link, model, tokens = deployment.kv_stream, deployment.model, np.arange(1.0, max_tokens + 1)
    assert link is not None
    kv_bytes = kv_bytes_per_token(model, deployment.parallelism.tensor, deployment.kv_cache_dtype)
    layers_s = model.num_hidden_layers * link.latency_s + tokens * kv_bytes / link.bandwidth_bytes_per_s
    return layers_s, link.latency_s + tokens * TOKEN_ID_BYTES / link.bandwidth_bytes_per_s


def layer_collectives_s(deployment: Deployment, max_tokens: int, efficiency: CollectiveEfficiency | None = None) -> Any:
    """Seconds of the collectives of one layer in steps of 1 to `max_tokens` tokens, f[max_tokens]; 0 on a single rank.

    Where MoE layers exchange tokens instead, the mean over the layers without the exchange (`simjax.latency.groups.union`).

    Args:
        deployment: model, link and number of ranks.
        max_tokens: most tokens of a step.
        efficiency: how the collectives compare with the link's data sheet; as the data sheet says when None.
    """
    model, efficiency = deployment.model, efficiency or CollectiveEfficiency()
    message_bytes = np.arange(1, max_tokens + 1) * float(model.hidden_size * model.dtype_bytes)
    memory_bytes_per_s = deployment.device.memory_bandwidth_bytes_per_s
    link, ranks, nodes = efficiency.of(deployment.link), deployment.parallelism.tensor, deployment.nodes
    if deployment.exchanges:
        one_s = all_reduce_s(message_bytes, ranks, link, memory_bytes_per_s, efficiency.hops)
        shared = deployment.parallelism.expert > 1
        experts = deployment.part.num_moe_layers / max(deployment.part.num_hidden_layers, 1)
        after_s = gathered_s(deployment, message_bytes, link) if shared else one_s
        return one_s + (1.0 - experts) * one_s + experts * after_s
    if nodes == 1:
        return ALL_REDUCES_PER_LAYER * all_reduce_s(message_bytes, ranks, link, memory_bytes_per_s, efficiency.hops)
    # As the data sheet says: the efficiency is that of links within a node. Ranks share the adapters of a node that has fewer.
    between = deployment.device.node.inter_link_of(ranks)
    return ALL_REDUCES_PER_LAYER * all_reduce_over_nodes_s(
        message_bytes, nodes, ranks // nodes, link, between, memory_bytes_per_s, efficiency.hops
    )


def _launch_s(terms: StepTerms, exposed_s: Any, launches: tuple[bool, bool]) -> jax.Array | None:
    """`StepTime.launch_s`; None where CUDA graphs launch every step, or launching takes no time."""
    launch_s = terms.host.launch_s
    if not any(launches) or (isinstance(launch_s, float | int) and launch_s == 0):
        return None
    return row_of((launch_s * terms.kernels + exposed_s) * np.asarray(launches, dtype=float))
