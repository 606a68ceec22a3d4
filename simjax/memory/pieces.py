"""The weights of one rank in the pieces in which they can be placed: embedding, operations of each block, last norm and output head.

Names are those of the op catalogues (`simjax.model.ops`), which LLMServingSim's cluster files have too.
"""

from __future__ import annotations

from dataclasses import dataclass

from simjax.deployment import Deployment
from simjax.model.ops import step_ops
from simjax.model.sizes import shard
from simjax.placement.weights import EMBEDDING, HEAD, NORM


@dataclass(frozen=True)
class Piece:
    """Weights that are placed together.

    Attributes:
        name: of the operation that needs them.
        block: block of the whole model that they belong to; None for the ends of the model.
        size_bytes: of all copies.
        copies: tensors, each of which is copied for itself.
        experts: routed experts among them.
        expert_bytes: what each of these has.
    """

    name: str
    block: int | None
    size_bytes: float
    copies: int = 1
    experts: int = 0
    expert_bytes: float = 0.0


def pieces_of(deployment: Deployment) -> tuple[Piece, ...]:
    """The pieces of a rank, or of one pp stage of it, in the order in which a step needs them.

    Their bytes are those of `simjax.model.weight_bytes`, but for an output matrix that is the embedding as well, which counts twice here,
    biases of experts and the copies that latent attention keeps.
    """
    model, sizes = deployment.model, deployment.parallelism
    part = shard(model, sizes.tensor, sizes.expert, sizes.experts.redundant, sizes.data)
    stage = deployment.stage
    start, end = (0, model.num_hidden_layers) if stage is None else (stage.start, stage.end)
    matrix = part.vocab * model.hidden_size * model.dtype_bytes
    found = [Piece(EMBEDDING, None, matrix)] if deployment.has_embedding else []
    for block in range(start, end):
        ops = step_ops(model.layers(block, block + 1), sizes.tensor, sizes.expert, False, False, sizes.data)
        for op in ops:
            size = op.count * (op.weight_bytes + part.experts * op.expert_bytes * bool(op.experts))
            if size:
                experts = part.experts if op.experts else 0
                found.append(Piece(op.name, block, size, op.count + bool(experts), experts, op.expert_bytes if experts else 0.0))
    if deployment.has_head:
        found += [Piece(NORM, None, model.hidden_size * model.dtype_bytes), Piece(HEAD, None, matrix)]
    return tuple(found)
