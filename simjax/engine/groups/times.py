"""Times that the plans of a group have in common: those of one member are those of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.params import ClusterParams, GroupParams

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


def rules_of(params: ClusterParams) -> GroupParams:
    """The parameters of the groups of a cluster that has them."""
    assert params.groups is not None
    return params.groups


def for_group(
    params: ClusterParams, times: dict[str, Array], changed: Bool[Array, " N"], i: Int32[Array, ""]
) -> tuple[dict[str, Array], Bool[Array, " N"]]:
    """The same where rank i is the only one whose plan may have changed."""
    of_rank = rules_of(params).of_rank
    return {name: jnp.broadcast_to(x[i], changed.shape) for name, x in times.items()}, jnp.any(changed) & (of_rank == of_rank[i])


def for_groups(params: ClusterParams, times: dict[str, Array], changed: Bool[Array, " N"]) -> tuple[dict[str, Array], Bool[Array, " N"]]:
    """Times of the plans, arrays over N, once those of the changed ranks hold for their groups, and the ranks whose plans have changed.

    Of a group one rank may have changed, or several that have the same times.
    """
    of_rank = rules_of(params).of_rank
    source = (of_rank[:, None] == of_rank[None, :]) & changed[None, :]
    some, first = jnp.any(source, axis=1), jnp.argmax(source, axis=1)
    return {name: jnp.where(some, x[first], x) for name, x in times.items()}, some
