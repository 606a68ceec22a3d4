"""Admission with KV tiers: a waiting request takes a seat, begins to load what a tier has of it, or is passed over.

A tick deals with one request. The slots behind the running requests have those that wait and have a slot, which are preempted ones and
ones that others have overtaken, and then those that load or have loaded, in the order in which their loads began.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.accounting.totals import Overflow
from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.kv.held_blocks import HeldBlocks
from simjax.engine.kv.holding import watch_held
from simjax.engine.kv.lookup import look_up
from simjax.engine.kv.prefix_cache import PrefixCache
from simjax.engine.kv.prefix_tree import RankTree
from simjax.engine.kv.touch import touch
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Slots
from simjax.engine.scheduler.formation import capped
from simjax.engine.scheduler.waiting import queued_s, seen_s
from simjax.engine.shape import EngineShape
from simjax.engine.tiers.lookup import look_up_tier
from simjax.engine.tiers.record import passes_of, tiers_of, with_tiers
from simjax.engine.tiers.table import HIT_TOKENS, PIECES, STORED, TierTable
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


class Beginning(NamedTuple):
    """A load that begins in a tick, if one does: its request and the bounds of its blocks."""

    begins: Bool[Array, ""]
    request: Int32[Array, ""]
    begin: Int32[Array, ""]
    end: Int32[Array, ""]


class _Next(NamedTuple):
    """The request that admission looks at.

    Attributes:
        exists: whether the formation sees one.
        loaded: it has loaded its blocks.
        in_slots, at: whether it is in the slots, and its place there; that behind all of them for the head of the queue.
        request, num_tokens: which; its tokens to compute before its next output token.
        old: its slot.
        others: whether other requests have loaded their blocks.
        next_s: times at which the head of the queue and the request behind it are queued, infinity for none, float64[2].
    """

    exists: Array
    loaded: Array
    in_slots: Array
    at: Array
    request: Array
    num_tokens: Array
    old: Slots
    others: Array
    next_s: Array


def _next(shape: EngineShape, params: ClusterParams, turn: Turn) -> _Next:
    state, rank, passes = turn.state, turn.rank, passes_of(turn)
    slots, position = rank.slots, rank.slots.position
    end = rank.num_running + rank.num_preempted
    waiting = rank.num_preempted - passes.loading
    ready = state.tiers.loading(turn) & (tiers_of(turn).requests[slots.request, PIECES] == 0)
    first = jnp.min(jnp.where(ready, position, position.shape[0]))
    loaded = first < position.shape[0]
    waits = passes.passed < waiting
    in_slots = loaded | waits
    at = jnp.minimum(jnp.where(loaded, first, jnp.where(waits, rank.num_running + passes.passed, end)), position.shape[0] - 1)
    old: Slots = jax.tree.map(lambda x: x[at], slots)
    place = rank.head + jnp.arange(2, dtype=jnp.int32)
    listed = state.routes[turn.i, place] if shape.has_routes else place
    known = jnp.minimum(listed, shape.requests - 1)
    next_s = jnp.where(place < rank.tail, queued_s(shape, params, turn, known), NEVER)
    request = jnp.minimum(jnp.where(in_slots, old.request, known[0]), shape.requests - 1)
    prompt = params.request("prompt_tokens", request)
    exists = in_slots | (next_s[0] <= seen_s(shape, turn))
    others = jnp.sum(ready, dtype=jnp.int32) > 1
    return _Next(exists, loaded, in_slots, at, request, jnp.where(in_slots, old.num_tokens, prompt), old, others, next_s)


def admit_tiered(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Deal with the next waiting request: those whose loads are there come first."""
    limits, f, rank, passes, table = turn.limits, turn.formation, turn.rank, passes_of(turn), tiers_of(turn)
    one = _next(shape, params, turn)
    tree, size = RankTree.of(params, limits, turn.kv_row), limits.block_size
    open_ = ~turn.waits & turn.due & (f.preempted == 0) & (f.token_budget > 0) & (f.seats < limits.max_num_seqs)
    considered = open_ & one.exists
    fresh = considered & ~one.loaded
    own = table.requests[one.request, PIECES] > 0
    kv = turn.kv
    assert isinstance(kv, PrefixCache)
    hits, free_hits = look_up(tree, kv.contents(), one.request, tree.full(one.num_tokens - 1), fresh & ~own)
    found = look_up_tier(tree, table, one.request, hits, tree.full(one.num_tokens), fresh & ~own)
    shared = jnp.where(one.loaded, blocks_of(one.old.num_computed_tokens, size), hits - free_hits)
    skips = fresh & (own | found.in_use)
    loads = fresh & ~skips & (found.blocks > 0)
    runs = considered & ~skips & ~loads
    held = (hits + jnp.where(loads, found.blocks, 0)) * size
    computed = jnp.where(one.loaded, jnp.minimum(one.old.num_computed_tokens, one.num_tokens - 1), held)

    # What it asks for.
    need = capped(one.num_tokens - computed, limits, f.alone)
    chunk = jnp.minimum(need, f.token_budget)
    blocks = jnp.maximum(blocks_of(computed + jnp.where(loads, 0, chunk), size) - shared, 0)
    whole = jnp.maximum(blocks_of(one.num_tokens, size) - shared, 0)
    margin = jnp.where(f.seats > 0, limits.watermark_blocks, 0)
    later = f.reserved + _kept_for_loads(turn)
    room = limits.num_blocks - f.blocks - margin
    whole_fits = ~limits.reserve_full_isl | (whole <= room)
    fits = whole_fits & (blocks + jnp.where(loads, later, 0) <= room)
    takes = runs & fits & (limits.enable_chunked_prefill | (chunk == need))
    begins = loads & fits
    done = takes | begins | skips

    # Where it goes.
    end, waiting = rank.num_running + rank.num_preempted, rank.num_preempted - passes.loading
    from_queue = done & ~one.in_slots
    to = jnp.where(takes, rank.num_running, jnp.where(begins, end - one.in_slots.astype(jnp.int32), rank.num_running + waiting))
    moves = takes | begins | from_queue
    new = _renewed(params, turn, one, takes, begins, computed, held, hits * size, chunk)
    slots = _moved(rank.slots, one.at, to, new, moves)
    queued = from_queue.astype(jnp.int32)
    taken = takes.astype(jnp.int32)
    rank = dataclasses.replace(
        rank,
        slots=slots,
        num_running=rank.num_running + taken,
        num_preempted=rank.num_preempted + queued - taken,
        head=rank.head + queued,
        queued_tokens=rank.queued_tokens - jnp.where(from_queue, one.num_tokens, 0).astype(jnp.int64),
    )
    passed = passes.passed + skips.astype(jnp.int32)
    loading = passes.loading + begins.astype(jnp.int32) - (takes & one.loaded).astype(jnp.int32)
    rank = dataclasses.replace(rank, passes=dataclasses.replace(passes, passed=passed, loading=loading))
    next_s = jnp.where(from_queue, one.next_s[1], one.next_s[0])
    visible = next_s <= seen_s(shape, turn)
    another = jnp.where(one.loaded & takes, one.others, False) | (passed < rank.num_preempted - loading) | visible
    seats = f.seats + taken
    too_big = considered & ~done & ~fits
    stays = ((seats >= limits.max_num_seqs) | too_big) & (f.preempted == 0) & ~f.holding
    formation = dataclasses.replace(
        f,
        seats=seats,
        token_budget=f.token_budget - jnp.where(takes, chunk, 0),
        blocks=f.blocks + jnp.where(takes | begins, blocks, 0),
        continues=f.continues | (done & another),
        refused=one.exists & ~done,
        stays=stays,
        blocked=stays,
        next_queued_s=jnp.where(visible, NEVER, next_s),
    )
    first_time = ~jnp.isfinite(one.old.scheduled_s) | from_queue
    table = _noted(table, one.request, fresh, begins & first_time, found.blocks * size)
    overflow = turn.state.overflow | jnp.where(from_queue & (end >= shape.slots), (Overflow.TIERS | Overflow.SLOTS).value, 0)
    turn = with_tiers(dataclasses.replace(turn, rank=rank, formation=formation), table).with_state(overflow=overflow)
    turn = dataclasses.replace(turn, beginning=Beginning(begins, one.request, hits, hits + found.blocks))
    return _holding(params, turn, tree, one, to, jnp.where((takes & ~one.loaded) | begins, hits, 0), takes, begins, considered & one.loaded)


def _kept_for_loads(turn: Turn) -> Int32[Array, ""]:
    """Blocks that requests which load, or have loaded and have no seat, will need in addition."""
    slots, size = turn.rank.slots, turn.limits.block_size
    left = blocks_of(slots.num_tokens, size) - blocks_of(slots.num_computed_tokens, size)
    return jnp.sum(jnp.where(turn.state.tiers.loading(turn), left, 0), dtype=jnp.int32)


def _renewed(
    params: ClusterParams, turn: Turn, one: _Next, takes: Array, begins: Array, computed: Array, held: Array, cached: Array, chunk: Array
) -> Slots:
    """The slot of the request in its new place: `cached` tokens are there, `held` will be once it has loaded."""
    old, fresh = one.old, ~one.in_slots
    output = params.request("output_tokens", one.request)
    assert isinstance(old.held, HeldBlocks)
    first = fresh | ~jnp.isfinite(old.scheduled_s)
    blocks = select(one.loaded, old.held, old.held.emptied())
    cached = jnp.where((begins | (takes & ~one.loaded)) & first, cached, jnp.where(fresh, 0, old.held.cached_tokens))
    return dataclasses.replace(
        old,
        request=one.request,
        num_computed_tokens=jnp.where(takes, computed, jnp.where(begins, held, 0)),
        num_tokens=one.num_tokens,
        final_tokens=jnp.where(fresh, one.num_tokens + output, old.final_tokens),
        num_new_tokens=jnp.where(takes, chunk, 0),
        preemptions=jnp.where(fresh, 0, old.preemptions),
        scheduled_s=jnp.where(takes & first, turn.now_s, jnp.where(fresh, NEVER, old.scheduled_s)),
        first_token_s=jnp.where(fresh, NEVER, old.first_token_s),
        token_s=jnp.where(fresh, NEVER, old.token_s),
        held=dataclasses.replace(blocks, cached_tokens=cached),
        answered=jax.tree.map(lambda x: x & ~fresh, old.answered),
    )


def _moved(slots: Slots, at: Array, to: Array, new: Slots, wanted: Array) -> Slots:
    """The slots once that at `at` has come to `to`, changed; those between make room."""
    position = slots.position
    up = wanted & (position > to) & (position <= at)
    down = wanted & (position >= at) & (position < to)
    here = wanted & (position == to)
    new = together(jax.tree.map(lambda x, value: jnp.asarray(value).astype(x.dtype), slots, new))

    def put(x: Array, value: Array) -> Array:
        zero = jnp.zeros((), x.dtype)
        before, after = jax.lax.pad(x, zero, [(1, -1, 0)]), jax.lax.pad(x, zero, [(-1, 1, 0)])
        return jnp.where(here, value, jnp.where(up, before, jnp.where(down, after, x)))

    return jax.tree.map(put, slots, new)


def _noted(table: TierTable, request: Array, looked: Array, first: Array, hit_tokens: Array) -> TierTable:
    """The tiers once a request that was looked up offers all its blocks anew, and what the first load of one finds is noted."""
    row = table.requests[request]
    row = row.at[STORED].set(jnp.where(looked, 0, row[STORED]))
    row = row.at[HIT_TOKENS].set(jnp.where(first, hit_tokens, row[HIT_TOKENS]))
    return dataclasses.replace(table, requests=table.requests.at[request].set(row))


def _holding(
    params: ClusterParams, turn: Turn, tree: RankTree, one: _Next, to: Array, hits: Array, takes: Array, begins: Array, looked: Array
) -> Turn:
    """The turn once the request holds what it found on the device, and the blocks that it has loaded or will fill have names."""
    kv, slots = turn.kv, turn.rank.slots
    assert isinstance(kv, PrefixCache) and isinstance(slots.held, HeldBlocks)
    touches = begins | (takes & ~one.loaded)
    # A step is launched with all blocks of a request that it admits, whoever still reads them.
    assert isinstance(one.old.held, HeldBlocks)
    pool = watch_held(tree, kv.pool, one.old.held, takes & one.loaded)
    pool, held = touch(tree, pool, one.request, hits)
    mine = (slots.position == to) & touches
    held = dataclasses.replace(held, cached_tokens=slots.held.cached_tokens)
    held = select(mine, held, slots.held)
    slots = dataclasses.replace(slots, held=held)
    turn = turn.with_kv(PrefixCache(pool), rank=dataclasses.replace(turn.rank, slots=slots))
    # Loaded blocks have names as soon as the scheduler looks at the request, whether there is room for it or not.
    assert isinstance(turn.kv, PrefixCache)
    return turn.kv.after_tiered(params, turn, (slots.position == jnp.where(takes, to, one.at)) & (looked | takes))
