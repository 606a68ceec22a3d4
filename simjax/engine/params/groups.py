"""Groups of ranks that step together. Legend: N ranks, G groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GroupParams:
    """Groups of ranks that step together, vLLM's names.

    Attributes:
        of_rank: group of each rank, -1 for one that is padding.
        first, size: a group has ranks [first, first + size).
        sync_interval: forwards between two questions of the ranks whether any has unfinished requests.
        syncs_first: whether the first forward of a wave is followed by one too.
        prefill_schedule_interval: forwards from one that may hold prompts to the next.
        most_captured: most tokens for which a CUDA graph was captured.
        alone: whether its only rank steps by itself; None where none does.
    """

    of_rank: Int32[Array, " N"]
    first: Int32[Array, " G"]
    size: Int32[Array, " G"]
    sync_interval: Int32[Array, " G"]
    syncs_first: Bool[Array, " G"]
    prefill_schedule_interval: Int32[Array, " G"]
    most_captured: Int32[Array, " G"]
    alone: Bool[Array, " G"] | None = None
