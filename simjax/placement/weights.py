"""Which weights of an instance are in memory outside its devices, and how steps get them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from simjax.errors import SimjaxError
from simjax.placement.stores import Store

EMBEDDING, NORM, HEAD, EXPERTS = "embedding", "final_layernorm", "lm_head", "moe"


@dataclass(frozen=True)
class WeightPlacement:
    """A placement of weights. The entry of an operation comes before that of a block, and that before the default.

    Blocks that are elsewhere, and single operations of theirs, are streamed: copied before they are needed, while others compute. Routed
    experts that an entry of `layers` places (`moe`) are copied on demand, when the gate has chosen them.

    Attributes:
        stores: memories that the entries are about, by index; None stands for the device.
        default: of all weights without an entry.
        blocks: first block, last block and store of each entry; of several the last one counts.
        layers: operation and store of each entry.
        prefetch: blocks that are copied ahead of the one that computes, into buffers on the device. None: copies of a step begin with it
            and wait for no buffer, as LLMServingSim has them.
        cached_experts: routed experts of each layer, the most popular ones, that the device keeps.
        simplified: as LLMServingSim has it: every expert of a layer is copied in every step and the embedding as a whole, and the device
            has room for all weights all the same.

    Raises:
        SimjaxError: a number is out of range.
    """

    stores: tuple[Store, ...]
    default: int | None = None
    blocks: tuple[tuple[int, int, int | None], ...] = ()
    layers: tuple[tuple[str, int | None], ...] = ()
    prefetch: int | None = 1
    cached_experts: int = 0
    simplified: bool = False

    def __post_init__(self) -> None:
        if self.prefetch is not None and self.prefetch < 1:
            raise SimjaxError(f"weights.prefetch={self.prefetch}: it must be at least 1")
        if self.cached_experts < 0:
            raise SimjaxError(f"weights.cached_experts={self.cached_experts}: it must not be negative")

    @property
    def used(self) -> bool:
        """Whether some weights may be elsewhere than on the device."""
        return any(store is not None for store in (self.default, *(x[2] for x in self.blocks), *(x[1] for x in self.layers)))

    def store_of(self, name: str, block: int | None) -> int | None:
        """Store of an operation's weights, by index; None for the device."""
        for layer, store in reversed(self.layers):
            if layer == name:
                return store
        if block is not None:
            for first, last, store in reversed(self.blocks):
                if first <= block <= last:
                    return store
        return self.default

    def on_demand(self, name: str) -> bool:
        """Whether an operation's weights, where they are elsewhere, are copied when it is known which ones are needed."""
        return (name == EXPERTS and any(layer == EXPERTS for layer, _ in self.layers)) or (name == EMBEDDING and not self.simplified)

    def read_by(self, readers: Iterable[int]) -> WeightPlacement:
        """The placement with so many accelerators that read from each store at the same time."""
        stores = tuple(store.read_by(count) for store, count in zip(self.stores, readers, strict=True))
        return self if stores == self.stores else replace(self, stores=stores)


def block_ranges(text: str, blocks: int) -> tuple[tuple[int, int], ...]:
    """The ranges of blocks in a text such as `0-3,8`, first and last one of each; `all` for all of a model with so many.

    Raises:
        SimjaxError: it is no list of ranges, or the model has no such block.
    """
    if text.strip() == "all":
        return ((0, blocks - 1),)
    found: list[tuple[int, int]] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise SimjaxError(f"blocks={text}: it must be ranges of blocks, such as 0-3,8")
        found.append((int(first), int(last or first)))
    for one, other in found:
        if not one <= other < blocks:
            raise SimjaxError(f"blocks={text}: the model has blocks 0 to {blocks - 1}, and ranges go from the lower to the higher one")
    return tuple(found)
