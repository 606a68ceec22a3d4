"""Work of the steps of a deployment: seconds that its bytes and FLOPs would take at the data sheet's bandwidth and peak.

Over the seconds in which the device is busy they are the achieved fractions of memory bandwidth and compute.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from simjax.deployment import Deployment
from simjax.model import kv_bytes_per_token
from simjax.model.ops import EMBEDDING, Op, attention_flops, step_ops


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
    """The work of the steps of a deployment without drafts; routing to experts is taken to be uniform."""
    return _work(deployment)


def work_with_drafts(deployment: Deployment) -> StepWork:
    """The work of the steps of a deployment that drafts K tokens a step, if it does: that of the model and of the drafter.

    The drafter's passes are those of its time (`simjax.latency.speculation.drafts`): one over all tokens, K - 1 over a token of each
    sequence, and K times the head; the model's head has 1 + K rows of each sequence. Every pass is taken to read the keys of the whole
    step and to write as many, as only the first one does of chunks, and to read as many experts. N-grams cost nothing.
    """
    drafts, work = deployment.speculation, step_work(deployment)
    if drafts is None:
        return work
    k = drafts.num_speculative_tokens
    rows = {"sequence_s": (1 + k) * work.sequence_s, "sequence_compute_s": (1 + k) * work.sequence_compute_s}
    model = drafts.drafter(deployment.model)
    if model is None:
        return replace(work, **rows)
    drafter = _work(replace(deployment, model=model, speculation=None), embedding=model is drafts.model)
    later = max(k - 1, 0)
    return StepWork(
        weights_s=work.weights_s + k * drafter.weights_s,
        token_s=work.token_s + drafter.token_s,
        sequence_s=rows["sequence_s"] + later * drafter.token_s + k * drafter.sequence_s,
        experts_s=work.experts_s + k * drafter.experts_s,
        expert_share=max(work.expert_share, drafter.expert_share),
        kv_s=work.kv_s + k * drafter.kv_s,
        token_compute_s=work.token_compute_s + drafter.token_compute_s,
        sequence_compute_s=rows["sequence_compute_s"] + later * drafter.token_compute_s + k * drafter.sequence_compute_s,
        pair_compute_s=work.pair_compute_s + drafter.pair_compute_s,
    )


def _work(deployment: Deployment, embedding: bool = True) -> StepWork:
    """The work of one pass of a model."""
    model, device, parallelism = deployment.part, deployment.device, deployment.parallelism
    ops = step_ops(model, parallelism.tensor, parallelism.expert, deployment.has_embedding, deployment.has_head, parallelism.data)
    ops = [op for op in ops if embedding or op.name not in EMBEDDING]
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
