"""The router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import Array

from simjax.cluster.routers import ROUTERS, CostWeights

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RouterParams:
    """The router, whose policies differ in the weights of their scores; scalars.

    Attributes:
        random: whether ties are broken by a draw instead of in turn.
        affinity: whether the calls of a session stay together.
        relative: whether the queue weighs by its place between the shortest and the longest one, not by the load.
        drawn: whether the rank is drawn, with odds that fall with the score.
        prefix_weight, queue_weight, kv_weight: weights of the part of a prompt that is not cached, of the load and of the KV cache's use.
        staleness_s: age at which the router renews its view of the ranks; 0: it always sees them as they are.
        prefill_load_scale, overlap_credit, active_weight, temperature: as in `CostWeights`; 0 for other routers.
        blocks_weight: weight of a rank's active blocks.
    """

    random: Bool[Array, ""]
    affinity: Bool[Array, ""]
    relative: Bool[Array, ""]
    drawn: Bool[Array, ""]
    prefix_weight: Float64[Array, ""]
    queue_weight: Float64[Array, ""]
    kv_weight: Float64[Array, ""]
    staleness_s: Float64[Array, ""]
    prefill_load_scale: Float64[Array, ""]
    overlap_credit: Float64[Array, ""]
    active_weight: Float64[Array, ""]
    temperature: Float64[Array, ""]
    blocks_weight: Float64[Array, ""]

    @staticmethod
    def of(
        router: str, weights: tuple[float, float, float] = (1.0, 1.0, 1.0), staleness_s: float = 0.0, costs: CostWeights | None = None
    ) -> RouterParams:
        """The parameters of a router by its name in `ROUTERS`, as arrays on the host.

        The weights, in the order of the attributes, are for routers whose weights the user gives, `costs` for those that go by cost.
        """
        rule, cost = ROUTERS[router], costs or CostWeights()
        used = weights if rule.weighted else (rule.prefix_weight, rule.queue_weight, rule.kv_weight)
        flags = (np.bool_(x) for x in (rule.random, rule.affinity, rule.relative, rule.compares))
        of_cost = (cost.prefill_load_scale, cost.overlap_credit, cost.active_weight, cost.temperature, 1.0) if rule.cost else (0.0,) * 5
        return RouterParams(*flags, *(np.float64(x) for x in (*used, staleness_s, *of_cost)))  # pyright: ignore[reportArgumentType]
