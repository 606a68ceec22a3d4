"""Clusters whose ranks have a KV tier, for both simulators, and the strategy that draws them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from simjax.engine.params import ClusterParams, TierParams
from simjax.engine.shape import EngineShape
from tests.engine.scenario import Scenario
from tests.engine.strategies import sharing
from tests.reference.instance import RefInstance
from tests.reference.tiers import RefTier

SLOTS, JOBS = 64, 48


@dataclass(frozen=True)
class Tier:
    """The tier of a rank, and the links to it; names as in `TierParams`."""

    capacity_blocks: int = 32
    block_bytes: float = 1.0
    store_bytes_per_s: float = 1.0
    load_bytes_per_s: float = 1.0
    setup_s: float = 0.0
    per_block_s: float = 0.0
    load_after_step: bool = True


@dataclass(frozen=True)
class TieredScenario(Scenario):
    """A scenario with a tier behind the KV cache of each rank."""

    tiers: tuple[Tier, ...] = (Tier(),)
    empty_pass_s: float = 1e-3

    def shape(self, **changes) -> EngineShape:
        return super().shape(**{"kv_tiers": True, "tier_jobs": JOBS, "slots": SLOTS, **changes})

    def params(self) -> ClusterParams:
        dtypes = {"capacity_blocks": np.int32, "load_after_step": bool}
        names = [f.name for f in dataclasses.fields(Tier)]
        columns = {x: np.array([getattr(tier, x) for tier in self.tiers], dtypes.get(x, np.float64)) for x in names}
        tiers: Any = TierParams(**columns, empty_pass_s=np.float64(self.empty_pass_s))  # pyright: ignore[reportArgumentType]
        return dataclasses.replace(super().params(), tiers=tiers)

    def reference_instances(self) -> list[RefInstance]:
        return [
            dataclasses.replace(instance, tier=self._reference_tier(tier))
            for instance, tier in zip(super().reference_instances(), self.tiers, strict=True)
        ]

    def _reference_tier(self, tier: Tier) -> RefTier:
        known = {name: value for name, value in dataclasses.asdict(tier).items() if name != "capacity_blocks"}
        return RefTier(num_chunks=tier.capacity_blocks, empty_pass_s=self.empty_pass_s, **known)


RATES = (30.0, 200.0, 3000.0)  # blocks of a byte each: from a few steps for a block to a few dozen blocks in a step


@st.composite
def tiered(draw: st.DrawFn, instances: int = 1, sessions: bool = False) -> TieredScenario:
    """Scenarios of `sharing` with tiers, from one that holds a block to one that holds all."""
    drawn = draw(sharing(instances=instances, sessions=sessions))
    limits = tuple(dataclasses.replace(x, async_scheduling=False, enable_prefix_caching=True) for x in drawn.limits)
    fields: dict[str, Any] = {f.name: getattr(drawn, f.name) for f in dataclasses.fields(drawn)} | {"limits": limits}
    tiers = tuple(
        Tier(
            capacity_blocks=draw(st.integers(1, 60)),
            store_bytes_per_s=draw(st.sampled_from(RATES)),
            load_bytes_per_s=draw(st.sampled_from(RATES)),
            setup_s=draw(st.sampled_from([0.0, 0.0013, 0.021])),
            per_block_s=draw(st.sampled_from([0.0, 0.00071])),
            load_after_step=draw(st.booleans()),
        )
        for _ in limits
    )
    return TieredScenario(**fields, tiers=tiers, empty_pass_s=draw(st.sampled_from([0.001, 0.0137])))
