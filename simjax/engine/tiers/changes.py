"""What a step of a task changes in the tables of a tier: runs, the request, its copies, the books."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.tiers.sight import Deed, Sight
from simjax.engine.tiers.table import (
    COPY,
    END,
    FIRST,
    LEFT,
    MARK,
    MARKED,
    NEXT,
    NODE,
    PIECES,
    PREV,
    REQUEST,
    RIGHT,
    SEEN,
    STORED,
    TURN,
    TURN_OF,
    USE,
    WRITTEN,
    TierTable,
)
from simjax.engine.tiers.task import Under


def with_runs(tiers: TierTable, i: Array | int, under: Under, s: Sight, d: Deed) -> TierTable:
    """The tiers after the step, as far as runs go."""
    c, run, new = under.run, s.run, d.new
    x = jnp.where(d.marks, s.tail, jnp.where(s.leave, s.anchor_prev, under.anchor))
    y = jnp.where(d.marks, 0, jnp.where(s.leave, under.anchor, s.anchor_next))
    relinks = d.moves & (jnp.where(s.leave, x, y) != c)
    unlinks = relinks | d.removes
    left_of_new = jnp.where(d.cuts, run.left, under.left)
    in_node = d.makes & ~d.marks
    tiers = tiers.with_runs(
        i,
        [
            (new, NODE, jnp.where(d.cuts, run.node, jnp.where(d.marks, MARK, s.place.node)), d.makes),
            (new, FIRST, jnp.where(d.cuts, run.first, jnp.where(d.marks, 0, under.at)), d.makes),
            (new, END, jnp.where(d.cuts, d.cut_at, jnp.where(d.marks, 0, d.to)), d.makes),
            (new, USE, jnp.where(d.cuts, run.use, WRITTEN), d.makes),
            (new, COPY, jnp.where(d.cuts, run.copy, jnp.where(d.marks, 0, under.number)), d.makes),
            (new, TURN, jnp.where(d.cuts, run.turn, jnp.where(d.marks, s.book["turn"] + 1, s.mine)), d.makes),
            (new, PREV, jnp.where(d.cuts, c, x), d.makes),
            (new, NEXT, jnp.where(d.cuts, run.after, y), d.makes),
            (new, LEFT, jnp.where(d.marks, 0, left_of_new), d.makes),
            (new, RIGHT, jnp.where(d.marks, 0, c), d.makes),
            (jnp.where(d.cuts, c, x), NEXT, new, d.makes),
            (jnp.where(d.cuts, run.after, y), PREV, new, d.makes),
            (
                jnp.where(d.gone, run.left, left_of_new),
                RIGHT,
                jnp.where(d.gone, run.right, new),
                (in_node & (left_of_new > 0)) | (d.gone & (run.left > 0)),
            ),
            (jnp.where(d.gone, run.right, c), LEFT, jnp.where(d.gone, run.left, new), (in_node & (c > 0)) | (d.gone & (run.right > 0))),
            (c, FIRST, d.cut_at, d.cuts),
            (c, END, run.end - d.taken, d.takes & ~d.gone),
            (run.prev, NEXT, run.after, unlinks),
            (run.after, PREV, run.prev, unlinks),
            (x, NEXT, c, relinks),
            (y, PREV, c, relinks),
            (c, PREV, x, relinks),
            (c, NEXT, jnp.where(d.removes, s.book["spare"], y), unlinks),
            (c, TURN, jnp.where(s.leave, s.book["turn"], s.mine), d.moves),
            (c, USE, d.new_use, d.act),
        ],
    )
    heads = (in_node & (left_of_new == 0)) | (d.gone & (run.left == 0))
    node = jnp.where(heads, jnp.where(d.gone, run.node, s.place.node), tiers.nodes.shape[1])
    return dataclasses.replace(tiers, nodes=tiers.nodes.at[i, node].set(jnp.where(d.gone, run.right, new), mode="drop"))


def freed(s: Sight, d: Deed) -> Array:
    """Whether a piece of a copy is done with."""
    return d.done & (s.stored | s.loaded)


def sent_off(s: Sight, d: Deed) -> Array:
    """Whether a piece of a copy begins."""
    return d.inserts | (d.done & s.load)


def with_request(tiers: TierTable, under: Under, s: Sight, d: Deed, going: Array) -> tuple[TierTable, Array]:
    """The tiers after the step, as far as the request goes; and whether its row has no room for what it has used."""
    uses = (s.store & (d.walked_gap | d.act)) | (s.load & d.act)
    low, high, lacks = _with_span(s.low, s.high, under.at, d.to, uses)
    forgets = (d.done & s.leave & (s.mark == 0)) | s.unmark
    offered = d.done & s.store & under.granted
    row = s.row.at[STORED].set(jnp.where(offered | (d.done & s.load), under.end, s.row[STORED]))
    row = row.at[MARKED].set(jnp.where(d.marks, d.new, jnp.where(forgets, 0, s.mark)))
    row = row.at[TURN_OF].set(jnp.where(d.marks, s.book["turn"] + 1, s.mine))
    row = row.at[PIECES].add(sent_off(s, d).astype(jnp.int32) - freed(s, d).astype(jnp.int32))
    row = row.at[SEEN::2].set(jnp.where(forgets, 0, low)).at[SEEN + 1 :: 2].set(jnp.where(forgets, 0, high))
    none = tiers.requests.shape[0] - 1
    requests = tiers.requests.at[jnp.where(going, under.request, none)].set(row)
    return dataclasses.replace(tiers, requests=requests), uses & lacks


def with_copies(tiers: TierTable, i: Array | int, under: Under, s: Sight, d: Deed) -> tuple[TierTable, Array]:
    """The tiers after the step, as far as pieces of copies go; and whether there is no room for one."""
    none, pieces = tiers.requests.shape[0] - 1, tiers.pieces[i]
    vacant = pieces[:, REQUEST] == none
    begins, ends = sent_off(s, d), freed(s, d)
    of_store = d.inserts.astype(jnp.int32)
    bounds = (jnp.where(d.inserts, under.at, under.begin), jnp.where(d.inserts, d.to, under.end))
    piece = jnp.stack([under.request, *bounds, of_store, under.number, -of_store])
    piece = jnp.where(ends, jnp.array([none, 0, 0, 0, 0, 0], jnp.int32), piece)
    vacancy = jnp.argmax(vacant).astype(jnp.int32)
    at = jnp.where(begins | ends, jnp.where(ends, under.piece, vacancy), pieces.shape[0])
    tiers = dataclasses.replace(
        tiers, pieces=tiers.pieces.at[i, at].set(piece, mode="drop"), landed_s=tiers.landed_s.at[i, at].set(jnp.inf, mode="drop")
    )
    return tiers, begins & ~jnp.any(vacant)


def _with_span(low: Array, high: Array, begin: Array, end: Array, wanted: Array) -> tuple[Array, Array, Array]:
    """Bounds of disjoint spans (0 of empty ones) with one more united with them, if that is wanted; and whether there is no room for it."""
    used = high > low
    meets = used & (low <= end) & (high >= begin) & wanted
    begin = jnp.minimum(begin, jnp.min(jnp.where(meets, low, INT32_MAX)))
    end = jnp.maximum(end, jnp.max(jnp.where(meets, high, 0)))
    kept = used & ~meets
    at = jnp.argmin(kept).astype(jnp.int32)
    here = (jnp.arange(low.shape[0], dtype=jnp.int32) == at) & wanted
    low, high = (jnp.where(here, x, jnp.where(kept, old, 0)) for x, old in ((begin, low), (end, high)))
    return low, high, jnp.all(kept)
