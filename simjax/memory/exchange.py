"""Memory that data-parallel ranks of a mixture of experts need to exchange tokens, bytes of one device.

In vLLM's dummy run every rank of the group has `max_num_batched_tokens` tokens. Its default backend gathers the hidden states of all of
them on every device, which also sums as many rows before they are scattered again; the experts go through them in chunks. DeepEP's kernels
have buffers of a fixed size instead: of high throughput 1 GiB within the node and 1 GiB between nodes (VLLM_DEEPEP_BUFFER_SIZE_MB), of low
latency room for 256 tokens of each expert, sent and received, twice (DeepEP's `get_low_latency_rdma_size_hint`: 2.1 GB for 288 experts of
7168 elements and 128 tokens, as its benchmark prints).
"""

from __future__ import annotations

from simjax.deployment import Deployment
from simjax.network.all_to_all import ROUND_TOKENS
from simjax.parallel.experts import HIGH_THROUGHPUT, LOW_LATENCY

CHUNK_TOKENS = 16 * 1024
"""Rows that the experts take at once, vLLM's VLLM_FUSED_MOE_CHUNK_SIZE."""
_HIGH_THROUGHPUT_BYTES = 2**30
_LOW_LATENCY_COPIES, _ELEMENT_BYTES = 4, 2


def gathered_rows(deployment: Deployment, tokens: int) -> int:
    """Rows of all ranks that a device has beside its own in a step of `tokens` tokens of each; 0 where ranks step alone.

    Of high throughput these are the rows that reach the device in the dummy run, as many on each.
    """
    parallelism = deployment.parallelism
    if not deployment.grouped or _kernels(deployment) == LOW_LATENCY:
        return 0
    if _kernels(deployment) == HIGH_THROUGHPUT:
        return tokens * min(deployment.model.num_experts_per_tok, parallelism.data)
    return tokens * parallelism.data


def rows_at_once(deployment: Deployment, tokens: int) -> int:
    """Rows that the experts of a device take at once in a step of `tokens` tokens of each rank."""
    if not deployment.grouped:
        return tokens
    if _kernels(deployment) == LOW_LATENCY:  # room for every token of a round on every expert, of which the device has its part
        group = deployment.parallelism.expert
        return ROUND_TOKENS * group * -(-deployment.model.num_experts // group) // deployment.model.num_experts_per_tok
    return max(tokens, min(gathered_rows(deployment, tokens), CHUNK_TOKENS))


def buffer_bytes(deployment: Deployment) -> int:
    """Bytes of DeepEP's buffers; 0 without them."""
    model, kernels = deployment.model, _kernels(deployment)
    if not deployment.grouped:
        return 0
    if kernels == HIGH_THROUGHPUT:
        devices, node = deployment.parallelism.expert, deployment.device.node
        return _HIGH_THROUGHPUT_BYTES * (1 if node.nodes_for(devices) == 1 else 2)
    if kernels == LOW_LATENCY:
        return _LOW_LATENCY_COPIES * model.num_experts * ROUND_TOKENS * model.hidden_size * _ELEMENT_BYTES
    return 0


def _kernels(deployment: Deployment) -> str | None:
    """The DeepEP kernels that are in use, which are for expert-parallel ranks."""
    backend = deployment.parallelism.experts.all2all_backend
    return backend if deployment.parallelism.expert > 1 and backend in (HIGH_THROUGHPUT, LOW_LATENCY) else None
