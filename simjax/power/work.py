"""Work of the steps of a deployment: seconds that its bytes and FLOPs would take at the data sheet's bandwidth and peak.

Over the seconds in which the device is busy they are the achieved fractions of memory bandwidth and compute.
"""

from __future__ import annotations

from dataclasses import dataclass

from simjax.deployment import Deployment
from simjax.model import kv_bytes_per_token
from simjax.model.ops import Op, attention_flops, step_ops


@dataclass(frozen=True)
class StepWork:
    """Work of a step on each of the devices of a rank, in seconds at the data sheet's rates.

    Attributes:
        weights_s: reading the weights that every step reads.
        token_s: reading and writing the activations of a scheduled token.
        sequence_s: those of a sequence at the head.
        experts_s: reading all experts of the device; 0 without.
        expert_share: probability that a token picks a given expert.
        kv_s: reading or writing the keys and values of one token, all layers.
        token_compute_s, sequence_compute_s: matrix products of a token, and of a sequence at the head.
        pair_compute_s: attention of a query token to one key token, all layers.
    """

    weights_s: float
    token_s: float
    sequence_s: float
    experts_s: float
    expert_share: float
    kv_s: float
    token_compute_s: float
    sequence_compute_s: float
    pair_compute_s: float


def step_work(deployment: Deployment) -> StepWork:
    """The work of the steps of a deployment; routing to experts is taken to be uniform."""
    model, device, parallelism = deployment.part, deployment.device, deployment.parallelism
    ops = step_ops(model, parallelism.tensor, parallelism.expert, deployment.has_embedding, deployment.has_head, parallelism.data)
    bandwidth = device.memory_bandwidth_bytes_per_s
    of_tokens, of_head = [op for op in ops if not op.per_sequence], [op for op in ops if op.per_sequence]
    experts = [op for op in ops if op.experts]

    def compute_s(op: Op) -> float:
        return op.count * op.row_flops / device.peak(op.dtype or model.dtype)

    return StepWork(
        weights_s=sum(op.count * op.weight_bytes for op in ops) / bandwidth,
        token_s=sum(op.count * op.row_bytes for op in of_tokens) / bandwidth,
        sequence_s=sum(op.count * op.row_bytes for op in of_head) / bandwidth,
        experts_s=sum(op.count * op.experts * op.expert_bytes for op in experts) / bandwidth,
        expert_share=max((op.expert_share for op in experts), default=0.0),
        kv_s=kv_bytes_per_token(model, parallelism.tensor, deployment.kv_cache_dtype) / bandwidth,
        token_compute_s=sum(map(compute_s, of_tokens)),
        sequence_compute_s=sum(map(compute_s, of_head)),
        pair_compute_s=attention_flops(model, parallelism.tensor) / device.peak(model.dtype),
    )
