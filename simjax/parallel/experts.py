"""The experts of each rank of an EP group, by vLLM's rules of placement, and what the gates choose."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from simjax.errors import SimjaxError, closest
from simjax.model import ModelSpec
from simjax.parallel.eplb import initial, rebalanced, slots_each
from simjax.parallel.popularity import Popularity

PLACEMENTS = ("linear", "round_robin")
ALL_GATHER, HIGH_THROUGHPUT, LOW_LATENCY = "allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency"
LLMSERVINGSIM = "llmservingsim"
"""Not vLLM's: the exchange as LLMServingSim simplifies it, to compare with its outputs."""
ALL2ALL_BACKENDS = (ALL_GATHER, HIGH_THROUGHPUT, LOW_LATENCY, LLMSERVINGSIM)
"""How the ranks of a data-parallel group exchange tokens in MoE layers (vLLM's `all2all_backend`, its default first)."""
_INTERLEAVED = (None, "deepep_low_latency", "nixl_ep")  # all-to-all kernels that know of interleaved experts, and none


@dataclass(frozen=True)
class Experts:
    """How the experts of a mixture of experts are placed on the ranks of an EP group and used; names are vLLM's.

    Attributes:
        placement: `expert_placement_strategy`, linear or round_robin.
        eplb: whether the load balancer places them (`enable_eplb`).
        redundant: `num_redundant_experts`, copies that the load balancer may use.
        rearranged: whether the load balancer has rearranged the experts already; False is its placement before the first time.
        popularity: what the gates choose.
        all2all_backend: one of `ALL2ALL_BACKENDS`, for data-parallel groups.
        dbo: whether such a group overlaps the exchange of one half of a step with the computation of the other one (`enable_dbo`).

    Raises:
        SimjaxError: a value is out of range.
    """

    placement: str = "linear"
    eplb: bool = False
    redundant: int = 0
    rearranged: bool = True
    popularity: Popularity = field(default_factory=Popularity)
    all2all_backend: str = ALL_GATHER
    dbo: bool = False

    def __post_init__(self) -> None:
        if self.all2all_backend not in ALL2ALL_BACKENDS:
            known = closest(self.all2all_backend, list(ALL2ALL_BACKENDS))
            raise SimjaxError(f"cluster.all2all_backend={self.all2all_backend}: there is no such backend; {known}")
        if self.placement not in PLACEMENTS:
            known = closest(self.placement, list(PLACEMENTS))
            raise SimjaxError(f"cluster.expert_placement_strategy={self.placement}: there is no such strategy; {known}")
        if self.redundant < 0:
            raise SimjaxError(f"cluster.num_redundant_experts={self.redundant}: it must not be negative")
        if self.redundant and not self.eplb:
            raise SimjaxError(f"cluster.num_redundant_experts={self.redundant}: only with cluster.enable_eplb=true, as in vLLM")

    @property
    def unbalanced(self) -> Experts:
        """The same without the load balancer."""
        return replace(self, eplb=False, redundant=0, rearranged=True)

    def check(self, model: ModelSpec, ranks: int) -> None:
        """Check that a model can be run so on an EP group of `ranks` ranks.

        Raises:
            SimjaxError: it has no experts to share, other ones than the popularity, or the load balancer has nothing to do.
        """
        if not model.is_moe:
            if ranks > 1:
                raise SimjaxError(f"cluster.enable_expert_parallel=true: {model.name} has no experts")
            return
        self.popularity.check(model.num_experts)
        if self.eplb and ranks == 1:
            raise SimjaxError("cluster.enable_eplb=true: only with expert parallelism over several ranks, as in vLLM")
        if self.eplb:
            slots_each(model.num_experts, ranks, self.redundant)

    def slots(self, chosen: np.ndarray, ranks: int) -> np.ndarray:
        """Experts in the slots of each rank, i[L, ranks, slots], -1 for an empty one.

        Args:
            chosen: probability that a token chooses an expert, f[L, E].
            ranks: ranks of the EP group.

        Raises:
            SimjaxError: experts and copies do not divide among the ranks under the load balancer.
        """
        layers, experts = chosen.shape
        if self.eplb:
            if not self.rearranged:
                return np.stack([initial(experts, ranks, self.redundant)] * layers)
            return np.stack([rebalanced(layer, ranks, self.redundant) for layer in chosen])
        return np.stack([placed(experts, ranks, placement_in_effect(self.placement))] * layers)


def placement_in_effect(
    strategy: str, groups: int = 1, redundant: int = 0, eplb: bool = False, all_to_all: str | None = None, data: int = 1
) -> str:
    """The placement that vLLM carries out: round_robin only under conditions, and linear otherwise, without a word.

    Args:
        strategy: `expert_placement_strategy`.
        groups: groups of experts of the model (`n_group`).
        redundant: `num_redundant_experts`.
        eplb: `enable_eplb`.
        all_to_all: all-to-all kernels, None without any.
        data: `data_parallel_size`; without data parallelism there are no all-to-all kernels.
    """
    kernels = None if data == 1 else all_to_all
    interleaved = groups > 1 and redundant == 0 and not eplb and kernels in _INTERLEAVED
    return strategy if interleaved else "linear"


def placed(experts: int, ranks: int, placement: str = "linear") -> np.ndarray:
    """Experts of each rank, i[ranks, slots], -1 for an empty slot (vLLM's `determine_expert_map`).

    linear: consecutive ones, E // ranks each and one more for the first E mod ranks; round_robin: expert e on rank e mod ranks.
    """
    most = -(-experts // ranks)
    found = np.full((ranks, most), -1)
    for rank in range(ranks):
        if placement == "round_robin":
            mine = np.arange(rank, experts, ranks)
        else:
            start = rank * (experts // ranks) + min(rank, experts % ranks)
            mine = np.arange(start, start + experts // ranks + (rank < experts % ranks))
        found[rank, : len(mine)] = mine
    return found
