"""Requests that have nothing in common for a router."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from jax import Array

from simjax.engine.params import ClusterParams, RouterParams

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

T = TypeVar("T")


class NoAffinity:
    """The part of arrivals that keeps the calls of a session together, where there are no sessions."""

    def stays(self: T, params: ClusterParams, request: Array, i: Array, picked: Bool[Array, ""], second: bool = False) -> T:
        """The record once a router, the one for second legs if `second`, has picked rank i for a request, if it has."""
        return self

    def with_affinity(
        self,
        params: ClusterParams,
        router: RouterParams,
        request: Array,
        score: Float64[Array, " N"],
        eligible: Bool[Array, " N"],
        second: bool = False,
    ) -> Float64[Array, " N"]:
        """A router's scores (the lowest wins) once the calls of a session stay together, if they are to."""
        return score
