"""Paths of the KV cache between the instances of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LONGEST_PATH = 4
"""H, most links of a path: out of an instance, out of its node, into the other's node, into the other instance."""


@dataclass(frozen=True)
class TransferPaths:
    """What a transfer between two instances crosses; pairs are [from, to], N instances, L links.

    Attributes:
        bytes_per_token: float64[N, N], KV cache of a token that goes over the path, over all ranks of the instances.
        setup_s, per_block_s: float64[N, N], seconds in addition to those of the bytes, and for each block.
        path: int32[N, N, H], links in order; the last link, L-1, has infinite capacity and stands for no link, wherever it is.
        capacity: float64[L], bytes per second that all transfers on a link get together, after its efficiency.
        link_names: names of the links, for tables and plots.
    """

    bytes_per_token: np.ndarray
    setup_s: np.ndarray
    per_block_s: np.ndarray
    path: np.ndarray
    capacity: np.ndarray
    link_names: tuple[str, ...]

    def alone_s(self, sender: int, receiver: int, blocks: np.ndarray, block_size: np.ndarray) -> np.ndarray:
        """Seconds of transfers of that many blocks of so many tokens each, every one with its path to itself."""
        rate = self.capacity[self.path[sender, receiver]].min()
        moving_s = blocks * block_size * self.bytes_per_token[sender, receiver] / rate
        return self.setup_s[sender, receiver] + blocks * self.per_block_s[sender, receiver] + moving_s
