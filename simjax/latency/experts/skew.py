"""The load of experts as a smooth function of the power to which their popularity is taken (`ParallelEffects.expert_skew`).

The load is a table over tokens that takes too long, and jumps too much (the load balancer's placement is whole numbers), to be traced. So a
number is taken at its word, and a traced one gets a cubic spline through tables at powers that are a factor of 1.65 apart: derivatives of
step times by the power are those of the spline. Between its knots it is within 1 % of the load itself for popularities up to Zipf's law of
exponent 1 (tests/latency/test_skew.py).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simjax.deployment import Deployment
from simjax.latency.experts.load import ExpertLoad, load_of
from simjax.model import ModelSpec
from simjax.parallel.parallelism import Parallelism

KNOTS = np.linspace(-2.0, 2.0, 9)
"""Logarithms of the powers at which tables are made; the range of `simjax.latency.priors` in a fit."""


@lru_cache(maxsize=1)
def _curve() -> np.ndarray:
    """Coefficients of the cubic splines that are one at a knot and zero at the others: f64[4, pieces, len(KNOTS)], highest power first."""
    from scipy.interpolate import CubicSpline  # here, not at the top: it takes as long to import as all of JAX

    return CubicSpline(KNOTS, np.eye(len(KNOTS))).c


def skewed_load(deployment: Deployment, tokens: np.ndarray, skew: Any) -> ExpertLoad | None:
    """`load_of` where the popularity of experts is taken to the power `skew`, a number or a traced scalar."""
    popularity = deployment.parallelism.experts.popularity
    if not popularity.varies or (not isinstance(skew, jax.Array) and skew == 1.0):
        return load_of(deployment, tokens)
    if not isinstance(skew, jax.Array):
        return load_of(_with_power(deployment, float(skew)), tokens)
    weights = _weights(jnp.log(skew))
    tables = _tables(_Key(deployment), tuple(tokens.tolist()))
    pairs, distinct = (jnp.tensordot(weights, table, 1) for table in tables[:2])
    return ExpertLoad(pairs, distinct, tables[2])


def _with_power(deployment: Deployment, skew: float) -> Deployment:
    parallelism, experts = deployment.parallelism, deployment.parallelism.experts
    popularity = replace(experts.popularity, power=experts.popularity.power * skew)
    return replace(deployment, parallelism=replace(parallelism, experts=replace(experts, popularity=popularity)))


def _weights(at: jax.Array) -> jax.Array:
    """How much the tables at the knots count at a logarithm within them, f64[len(KNOTS)]."""
    at = jnp.clip(at, KNOTS[0], KNOTS[-1])
    piece = jnp.clip(jnp.searchsorted(jnp.asarray(KNOTS), at, side="right") - 1, 0, len(KNOTS) - 2)
    beyond = at - jnp.asarray(KNOTS)[piece]
    cubic = jnp.asarray(_curve())[:, piece]  # [4, knots], highest power first
    return ((cubic[0] * beyond + cubic[1]) * beyond + cubic[2]) * beyond + cubic[3]


class _Key:
    """A deployment under a name for a cache: what its load depends on, for deployments themselves cannot be hashed."""

    def __init__(self, deployment: Deployment) -> None:
        model: ModelSpec = deployment.model
        parallelism: Parallelism = deployment.parallelism
        self.deployment, self._facts = deployment, (parallelism, model.num_experts, model.num_experts_per_tok, model.num_moe_layers)

    def __hash__(self) -> int:
        return hash(self._facts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._facts == other._facts


@lru_cache(maxsize=32)
def _tables(key: _Key, tokens: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs and distinct experts at each knot, f64[len(KNOTS), T] both, and mean pairs, f64[T]."""
    loads = [load_of(_with_power(key.deployment, float(np.exp(knot))), np.array(tokens)) for knot in KNOTS]
    found = [load for load in loads if load is not None]
    return np.stack([x.pairs for x in found]), np.stack([x.distinct for x in found]), found[0].mean_pairs
