"""The order of vLLM's priority policy: by priority, small first, then arrival. Requests that arrive at once go by their number."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.arrivals import Arrivals
from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.params import ClusterParams, RankParams
from simjax.engine.rank import NEVER

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

_LEAST = -(2**31)


class Keys(NamedTuple):
    """What requests are compared by, in this order; arrays of one shape."""

    priority: Int32[Array, " A"]
    arrival_s: Float64[Array, " A"]
    request: Int32[Array, " A"]


def keys_of(params: ClusterParams, arrivals: Arrivals, limits: RankParams, request: Int32[Array, " A"]) -> Keys:
    """Keys of requests in a rank with those limits; without the policy all have the same priority, which is first come, first served."""
    assert limits.by_priority is not None
    priority = jnp.where(limits.by_priority, params.request("priority", request), 0)
    return Keys(priority, arrivals.arrival_s(params, request), request)


def first_of(keys: Keys, among: Bool[Array, " A"]) -> Bool[Array, " A"]:
    """The mask of the most urgent of some requests; empty if there are none."""
    for key, most in zip(keys, (INT32_MAX, NEVER, INT32_MAX), strict=True):
        among &= key == jnp.min(jnp.where(among, key, jnp.asarray(most, key.dtype)))
    return among


def last_of(keys: Keys, among: Bool[Array, " A"]) -> Bool[Array, " A"]:
    """The mask of the least urgent of some requests; empty if there are none."""
    for key, least in zip(keys, (_LEAST, -NEVER, _LEAST), strict=True):
        among &= key == jnp.max(jnp.where(among, key, jnp.asarray(least, key.dtype)))
    return jax.lax.stop_gradient(among)
