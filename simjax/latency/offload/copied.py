"""Bytes of the weights that a step copies to one device."""

from __future__ import annotations

from simjax.deployment import Deployment
from simjax.latency.offload.demand import missed_experts
from simjax.memory.offload import moved_bytes
from simjax.memory.pieces import pieces_of
from simjax.placement.weights import EMBEDDING, EXPERTS


def streamed_bytes(deployment: Deployment) -> float:
    """What every step copies, whatever it computes."""
    placement = deployment.weights
    if placement is None:
        return 0.0
    pieces = [x for x in pieces_of(deployment) if placement.store_of(x.name, x.block) is not None]
    return float(sum(x.size_bytes for x in pieces if not placement.on_demand(x.name) or placement.simplified))


def demanded_bytes(deployment: Deployment, tokens: int) -> float:
    """What a step of so many tokens copies besides, expected: rows of the embedding, and experts that the device does not keep."""
    placement, model = deployment.weights, deployment.part
    if placement is None or placement.simplified:
        return 0.0
    found = 0.0
    for piece in pieces_of(deployment):
        if placement.store_of(piece.name, piece.block) is None or not placement.on_demand(piece.name):
            continue
        if piece.name == EMBEDDING:
            found += tokens * model.hidden_size * model.dtype_bytes
        elif piece.name == EXPERTS:
            found += float(missed_experts(deployment, tokens)[-1]) * piece.expert_bytes
    return found


def copied(deployment: Deployment) -> str:
    """What is elsewhere, and what steps copy of it, in words."""
    gib = lambda size: f"{size / 2**30:.3g} GiB"
    stages = deployment.stages
    outside = max(sum(moved_bytes(x).values()) for x in stages)
    always, one = max(map(streamed_bytes, stages)), max(demanded_bytes(x, 1) for x in stages)
    besides = f", and {gib(one)} more in a step of one token" if one else ""
    return f"{gib(outside)} of a device's weights are elsewhere; every step copies {gib(always)} of them{besides}"
