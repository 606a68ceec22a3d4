"""Clusters whose ranks have a KV tier, for both simulators, and the strategy that draws them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.engine.params import ClusterParams, TierParams
from simjax.engine.shape import EngineShape
from tests.engine.scenario import Scenario

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
