"""Device memory that weights leave which are elsewhere, and what they take of the memory where they are."""

from __future__ import annotations

from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.memory.pieces import Piece, pieces_of
from simjax.placement.weights import EMBEDDING, EXPERTS, HEAD, NORM


def moved_bytes(deployment: Deployment) -> dict[int, float]:
    """Bytes of the weights of one rank, or of one pp stage of it, in each store of its placement, by index."""
    placement = deployment.weights
    if placement is None:
        return {}
    found: dict[int, float] = {}
    for piece in pieces_of(deployment):
        store = placement.store_of(piece.name, piece.block)
        if store is not None:
            found[store] = found.get(store, 0.0) + _outside(deployment, piece)
    return found


def freed_bytes(deployment: Deployment) -> int:
    """Bytes that weights which are elsewhere leave free on a device, its buffers taken off.

    Streamed blocks need a buffer for the one that computes and for each that is copied ahead; experts on demand one for those of a layer
    that the device does not keep. A matrix that is embedding and output head leaves if both do.
    """
    placement = deployment.weights
    if placement is None or placement.simplified or not placement.used:
        return 0
    model = deployment.model
    units: dict[tuple[str, int | None], float] = {}
    freed = buffer = 0.0
    matrices: dict[str, bool] = {}
    tied = model.tie_word_embeddings and deployment.has_embedding and deployment.has_head
    for piece in pieces_of(deployment):
        outside = placement.store_of(piece.name, piece.block) is not None
        if piece.name in (EMBEDDING, HEAD):
            matrices[piece.name] = outside
            if tied and (piece.name == EMBEDDING or not all(matrices.values())):
                continue
        if not outside:
            continue
        size = _outside(deployment, piece)
        freed += size
        if placement.on_demand(piece.name):
            buffer = max(buffer, size if piece.name == EXPERTS else 0.0)
        else:
            unit = ("block", piece.block) if piece.block is not None else (HEAD if piece.name == NORM else piece.name, None)
            units[unit] = units.get(unit, 0.0) + size
    sizes = list(units.values())
    ahead = len(sizes) if placement.prefetch is None else placement.prefetch + 1
    staged = max((sum(sizes[i : i + ahead]) for i in range(len(sizes))), default=0.0)
    return int(freed - staged - buffer)


def check_placement(deployment: Deployment) -> None:
    """Refuse a placement of what the model does not have, or that the step times cannot follow.

    Raises:
        SimjaxError: as said.
    """
    placement, model = deployment.weights, deployment.model
    if placement is None:
        return
    if deployment.grouped or deployment.exchanges:
        raise SimjaxError(
            "weights: ranks of a mixture of experts that step together have all weights on their devices; others are not simulated"
        )
    names = {piece.name for stage in deployment.stages for piece in pieces_of(stage)}
    for name, _ in placement.layers:
        if name not in names:
            has = ", ".join(sorted(names))
            raise SimjaxError(f"weights: {model.name} has no operation '{name}' with weights; it has {has}")
    for first, last, _ in placement.blocks:
        if not 0 <= first <= last < model.num_hidden_layers:
            raise SimjaxError(f"weights: blocks {first}-{last}: {model.name} has blocks 0 to {model.num_hidden_layers - 1}")
    if placement.cached_experts > model.num_experts:
        raise SimjaxError(f"weights.cached_experts={placement.cached_experts}: {model.name} has {model.num_experts} experts")
    if placement.cached_experts and deployment.parallelism.expert > 1:
        raise SimjaxError("weights.cached_experts: experts that are on ranks of their own are kept all or none; leave one of them out")


def _outside(deployment: Deployment, piece: Piece) -> float:
    """Bytes of a piece that leave the device where it is placed elsewhere: on demand the router and the experts that it keeps stay."""
    placement = deployment.weights
    assert placement is not None
    if piece.name != EXPERTS or not placement.on_demand(EXPERTS) or placement.simplified:
        return piece.size_bytes
    return max(piece.experts - placement.cached_experts, 0) * piece.expert_bytes
