"""KV blocks by groups of layers, as vLLM's hybrid KV cache manager has them.

Layers of one kind (whole context, a window of W tokens, chunks of W tokens) form groups of equal size g: as many layers as the rarest kind
has, or as the most frequent one where that is less than half as many again. The last group of a kind is padded. One pool of equal blocks
backs all groups; a block holds `block_size` tokens of the g layers of one group. A request holds blocks in every group; a group with a
window gives back those that lie wholly before the next token's window (vLLM's `vllm/v1/core/kv_cache_utils.py` and
`single_type_kv_cache_manager.py`).

The engine has blocks that hold a token of all layers, and gives none back. What it is told is therefore a bound from below on what vLLM
holds, the better of two: every request keeps all of its tokens in all groups (as with `--disable-hybrid-kv-cache-manager`), or each of
`max_num_seqs` requests keeps the whole of its windows, the tokens of a step besides, and the rest of the pool is for the layers that see
all. States of recurrent layers are kept for `max_num_seqs` requests likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

from simjax.model import ModelSpec
from simjax.model.mixers import Attention, Recurrent

PADDED_BELOW = 1.5
"""Ratio of the most to the fewest layers of a kind below which groups have the size of the most."""


@dataclass(frozen=True)
class Window:
    """Groups of layers that see `tokens` tokens of the context: the last ones, or those of the current chunk."""

    tokens: int
    chunked: bool
    groups: int


@dataclass(frozen=True)
class KvGroups:
    """Groups of the layers of a model.

    Attributes:
        size: layers of a group.
        full: groups of layers that see the whole context.
        windows: the other groups.
        padding: layers that fill groups up.
        page_bytes: bytes of a token in a layer.
    """

    size: int
    full: int
    windows: tuple[Window, ...]
    padding: int
    page_bytes: int

    @property
    def count(self) -> int:
        """Number of groups."""
        return self.full + sum(window.groups for window in self.windows)

    def pool_blocks(self, available_bytes: int, block_size: int) -> int:
        """Blocks of the pool, vLLM's `num_gpu_blocks`."""
        return available_bytes // (self.size * self.page_bytes * block_size)

    def blocks_held(self, computed: int, block_size: int, new: int = 1) -> int:
        """Blocks that a request of `computed` tokens holds when it is about to compute `new` more."""
        whole = -(-(computed + new) // block_size)
        return self.full * whole + sum(x.groups * (whole - _skipped(x, computed) // block_size) for x in self.windows)

    def most_in_windows(self, requests: int, step_tokens: int, block_size: int) -> int:
        """Most blocks that so many requests hold in groups with a window, in steps of `step_tokens` tokens of all of them."""
        steps = -(-step_tokens // block_size)
        return sum(x.groups * (requests * (-(-(x.tokens - 1) // block_size) + 1) + steps) for x in self.windows)


def _skipped(window: Window, computed: int) -> int:
    """Tokens from the first on that no later query sees."""
    return computed // window.tokens * window.tokens if window.chunked else max(computed - window.tokens + 1, 0)


def kv_groups(model: ModelSpec, tensor_parallel_size: int, element_bytes: int) -> KvGroups | None:
    """The groups of the layers that cache keys and values on one rank; None where none does."""
    kinds: dict[tuple[int | None, bool], int] = {}
    page = 0
    for mixer, layers in model.groups:
        if not isinstance(mixer, Recurrent):
            kind = (mixer.window, isinstance(mixer, Attention) and mixer.chunked)
            kinds[kind] = kinds.get(kind, 0) + layers
            page = max(page, mixer.cache_bytes(tensor_parallel_size, element_bytes))
    if not kinds:
        return None
    fewest, most = min(kinds.values()), max(kinds.values())
    size = most if most < PADDED_BELOW * fewest else fewest
    groups = {kind: -(-layers // size) for kind, layers in kinds.items()}
    windows = tuple(Window(kind[0], kind[1], count) for kind, count in groups.items() if kind[0] is not None)
    padding = sum(groups[kind] * size - layers for kind, layers in kinds.items())
    return KvGroups(size, groups.get((None, False), 0), windows, padding, page)


def blocks_of_all_layers(groups: KvGroups, available_bytes: int, block_size: int, requests: int, step_tokens: int) -> int:
    """Blocks of a token of all layers that the engine may hand out: the bound of this module's head."""
    pool = groups.pool_blocks(available_bytes, block_size)
    kept = pool // groups.count
    if not groups.full or not groups.windows:
        return kept
    return max(kept, (pool - groups.most_in_windows(requests, step_tokens, block_size)) // groups.full)
