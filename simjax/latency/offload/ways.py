"""Streamed weights of a step: the ways through copies and computations that may be the longest, found on the host.

A step computes the embedding, its blocks one after another, the last norm and the head. What it streams comes from each store in the same
order, one piece after another, from the beginning of the step on; a piece computes when it is there. With a bounded number of blocks ahead
a copy also waits for a buffer: that of block j is free when block j - p - 1 of those that are streamed has been computed. The time of such
a step is the longest way through the graph of its copies and computations. Those that copy the first block, or all up to some block,
compute up to a later one, copy from there on, and compute what is left, are all that matter where streamed blocks are spread evenly (a way
that goes to and fro gains nothing, as one of copying and computing takes longer); with other placements the time may come out a little
short, and of copies that wait for a buffer only the first one has its latency (microseconds, where copies take milliseconds).

Copies on demand (`simjax.latency.offload.demand`) have their store for themselves while they last: prefetched ones wait.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from simjax.deployment import Deployment
from simjax.latency.offload.times import WeightTimes
from simjax.latency.tables.lookups import lookup, numpy_of, row_of
from simjax.memory.pieces import pieces_of
from simjax.placement.weights import EMBEDDING, HEAD, NORM, WeightPlacement


class Way(NamedTuple):
    """A way: seconds of its copies, blocks that it computes, and whether embedding, last norm and copies on demand are on it."""

    copy_s: float
    blocks: int
    embedding: bool = False
    norm: bool = False
    demand: bool = False


class _Unit(NamedTuple):
    """What a step streams at once: its place among embedding (0), blocks (from 1 on), norm and head, and seconds by store."""

    place: int
    seconds: dict[int, float]


class _Before(NamedTuple):
    """The beginning of a way, up to the block whose buffer a copy waits for: copies, blocks, whether the embedding is on it."""

    copy_s: float
    blocks: int
    embedding: bool


def weight_times(deployment: Deployment, embedding_s: Any, norm_s: Any, demand_s: Any, max_tokens: int) -> WeightTimes | None:
    """The streamed weights of one deployment (C = 1); None where nothing is streamed. Call it inside `jax.enable_x64(True)`.

    Args:
        deployment: with its placement.
        embedding_s: f[max_tokens] or a scalar, seconds of the embedding.
        norm_s: likewise of the last norm.
        demand_s: likewise of copies on demand.
        max_tokens: most tokens of a step.
    """
    found = ways(deployment)
    if not found:
        return None
    blocks = deployment.part.num_hidden_layers
    xp = numpy_of(embedding_s, norm_s, demand_s)
    return WeightTimes(
        copy_s=row_of(np.array([way.copy_s for way in found])),
        layers=row_of(np.array([way.blocks / blocks for way in found])),
        ends=row_of(np.array([[way.embedding, way.norm, way.demand] for way in found], float)),
        ends_s=row_of(xp.stack([lookup(x + np.zeros(max_tokens))[0] for x in (embedding_s, norm_s, demand_s)])),
    )


def ways(deployment: Deployment) -> list[Way]:
    """The ways of a step of a deployment that may be its longest; none where it streams nothing."""
    placement, blocks = deployment.weights, deployment.part.num_hidden_layers
    if placement is None:
        return []
    units, demanded = _units(deployment)
    norm, head = blocks + 1, blocks + 2
    found: list[Way] = []
    for store in range(len(placement.stores)):
        mine = [(k, unit) for k, unit in enumerate(units) if store in unit.seconds]
        latency_s = placement.stores[store].latency_s
        arrived = np.cumsum([unit.seconds[store] for _, unit in mine])
        for i, (k, first) in enumerate(mine):
            copied_before = arrived[i] - first.seconds[store]
            waits_for = None if placement.prefetch is None else k - placement.prefetch - 1
            if i and (waits_for is None or waits_for < 0):
                continue  # from the beginning of the step on, the first one says it all
            computed = -1 if waits_for is None or waits_for < 0 else units[waits_for].place
            begun = [_Before(0.0, min(max(computed, 0), blocks), computed >= 0)]
            if waits_for is not None and computed >= 0:
                begun += [_copied_first(placement, units, j, computed, blocks) for j in sorted({0, waits_for})]
            for (_, last), until in zip(mine[i:], arrived[i:], strict=True):
                after = min(max(blocks - max(last.place, 1) + 1, 0), blocks)
                whole_norm = last.place <= norm or computed >= norm
                for x in begun:
                    copied_s = float(x.copy_s + latency_s + until - copied_before)
                    found.append(Way(copied_s, x.blocks + after, x.embedding or last.place == 0, whole_norm))
        if mine and store in demanded:
            found.append(Way(float(latency_s + arrived[-1]), 0, norm=mine[-1][1].place < head, demand=True))
    return longest(found)


def _copied_first(placement: WeightPlacement, units: list[_Unit], j: int, computed: int, blocks: int) -> _Before:
    """The way that copies all units up to `j` and then computes from there up to the place `computed`."""
    copied_s = max(
        placement.stores[store].latency_s + sum(unit.seconds.get(store, 0.0) for unit in units[: j + 1]) for store in units[j].seconds
    )
    first = units[j].place
    return _Before(copied_s, min(computed, blocks) - max(first, 1) + 1 if first <= blocks else 0, first == 0)


def longest(found: list[Way]) -> list[Way]:
    """The ways that are the longest for some time of a block, of those with the same ends."""
    kept: list[Way] = []
    for ends in dict.fromkeys(way[2:] for way in found):
        mine = sorted((way for way in found if way[2:] == ends), key=lambda way: (way.blocks, way.copy_s))
        hull: list[Way] = []
        for way in mine:
            while hull and (hull[-1].copy_s <= way.copy_s or (len(hull) > 1 and _never(hull[-2], hull[-1], way))):
                hull.pop()
            hull.append(way)
        kept += hull
    return kept


def _never(one: Way, middle: Way, other: Way) -> bool:
    """Whether a way with more blocks than one and fewer than the other is never the longest of the three."""
    left = (one.copy_s - middle.copy_s) * (other.blocks - middle.blocks)
    right = (middle.copy_s - other.copy_s) * (middle.blocks - one.blocks)
    return left >= right


def _units(deployment: Deployment) -> tuple[list[_Unit], set[int]]:
    """What a step streams, in order, and the stores from which it copies on demand."""
    placement, start = deployment.weights, 0 if deployment.stage is None else deployment.stage.start
    assert placement is not None
    last = deployment.part.num_hidden_layers
    # With buffers the last norm comes with the head: it is so small that a buffer of its own would only delay the head's copy.
    places = {EMBEDDING: 0, NORM: last + 1 if placement.prefetch is None else last + 2, HEAD: last + 2}
    units: dict[int, dict[int, float]] = {}
    demanded: set[int] = set()
    for piece in pieces_of(deployment):
        store = placement.store_of(piece.name, piece.block)
        if store is None:
            continue
        if placement.on_demand(piece.name):
            demanded.add(store)
            continue
        place = places[piece.name] if piece.block is None else piece.block - start + 1
        seconds = units.setdefault(place, {})
        seconds[store] = seconds.get(store, 0.0) + placement.stores[store].read_s(piece.size_bytes, piece.copies)
    return [_Unit(place, seconds) for place, seconds in sorted(units.items())], demanded
