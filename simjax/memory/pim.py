"""The KV cache where decode attention is in memory that computes, and what cannot be there."""

from __future__ import annotations

from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.model import state_bytes_per_sequence
from simjax.model.mixers import Attention, Latent


def check_pim(deployment: Deployment) -> None:
    """Refuse decode attention in memory where its time is not known.

    Raises:
        SimjaxError: as said.
    """
    if deployment.pim is None:
        return
    model = deployment.model
    mixers = [mixer for mixer, _ in model.groups]
    plain = len(mixers) == 1 and isinstance(mixers[0], Attention) and not mixers[0].window
    if not plain or state_bytes_per_sequence(model) or isinstance(mixers[0], Latent):
        raise SimjaxError(
            f"pim: {model.name} has layers other than grouped-query attention over the whole context, which are not simulated"
        )
    others = {
        "data-parallel ranks that step together": deployment.grouped or deployment.exchanges,
        "pp stages": deployment.parallelism.pipeline > 1,
        "speculative decoding": deployment.speculation is not None,
        "streamed weights (weights.*)": deployment.weights is not None,
    }
    if (found := next((name for name, there in others.items() if there), None)) is not None:
        raise SimjaxError(f"pim: decode attention in memory does not go with {found} yet")
