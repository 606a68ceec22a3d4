"""What requests do to a tier: they offer blocks, load some, end copies and leave. One loop does all of it, a small step at a time.

Every task is a walk along the content of a request, from one block to another, over the runs that the tier has of it. An offer is walked
twice: first what is missing is counted and what is there protected, then room is made, then what is missing gets rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.prefix_tree import RankTree
from simjax.engine.tiers.changes import with_copies, with_request, with_runs
from simjax.engine.tiers.sight import Deed, Sight, decide, see
from simjax.engine.tiers.table import TierTable
from simjax.engine.tiers.task import Facts, Task, Todo, Under, next_task

_Doing = tuple[TierTable, Todo, Under]


def work(tree: RankTree, tiers: TierTable, todo: Todo, facts: Facts) -> TierTable:
    """The tiers once all that a turn has for that of its rank is done."""

    def needed(state: _Doing, tree: RankTree, facts: Facts) -> Array:
        tiers, todo, under = state
        return ((under.task != Task.NONE) | todo.some(tiers, tree.rank)) & tiers.has_rows(tree.rank)

    def body(state: _Doing, tree: RankTree, facts: Facts) -> _Doing:
        going = needed(state, tree, facts)
        tiers, todo, under = state
        wanted = going & (under.task == Task.NONE)
        fetched, left, counts = next_task(tree, tiers, todo, under, facts, wanted)
        under = together(select(wanted & (fetched.task != Task.NONE), fetched, under))
        tiers, under = _step(tree, tiers, under, facts, going & (under.task != Task.NONE), counts)
        return tiers, left, under

    return while_any(needed, body, (tiers, todo, Under.nothing()), tree, facts)[0]


def _step(tree: RankTree, tiers: TierTable, under: Under, facts: Facts, going: Array, counts: dict[str, Array]) -> tuple[TierTable, Under]:
    """The tiers and the task after one step of it, if it is going on; `counts` is added to the books as well."""
    i = tree.rank
    s = see(tree, tiers, under, going, counts["turn"])
    d = together(decide(s, under, facts, going))
    idle = jnp.where(d.act & (d.new_use == 0), d.size, 0) - jnp.where(d.act & (s.run.use == 0), d.size, 0)
    count = _counted(under, s, d, facts, idle)
    tiers = with_runs(tiers, i, under, s, d)
    tiers, no_span = with_request(tiers, under, s, d, going)
    tiers, no_piece = with_copies(tiers, i, under, s, d)
    no_row = d.makes & (d.new >= tiers.runs.shape[1])
    lost = s.evict & (under.run == 0) & (d.short_of > 0)
    spare = s.book["spare"]
    of_spare = jnp.where(d.makes & (spare > 0), s.spare_after - spare, jnp.where(d.removes, under.run - spare, 0))
    tiers = tiers.added(
        i,
        spare=of_spare,
        fresh=d.makes & (spare == 0),
        used=jnp.where(d.inserts, d.size, 0) - d.taken,
        free_to_go=idle - d.taken,
        turn=d.marks.astype(jnp.int32) + counts["turn"].astype(jnp.int32),
        leaving=counts["leaving"],
        copy=(d.done & ((s.store & under.granted & (under.missing > 0)) | s.load)),
        evicted=d.taken,
        stored=jnp.where(d.inserts, d.size, 0),
        loaded=jnp.where(s.load & d.act, d.size, 0),
        failed=count.refused,
        short=no_row | no_piece | no_span | lost,
    )
    return tiers, together(select(going, _going_on(tree, tiers, under, s, d, count), under))


class _Count(NamedTuple):
    """What is known once the blocks that an offer lacks are counted: how many, whether there is no room, or room is to be made."""

    missing: Array
    is_over: Array
    refused: Array
    makes_room: Array


def _counted(under: Under, s: Sight, d: Deed, facts: Facts, idle: Array) -> _Count:
    """What is known of an offer after the step; `idle`: blocks that nothing uses any more, or does so now (negative)."""
    missing = under.missing + jnp.where(d.gap & s.count, d.size, 0)
    is_over = d.done & s.count
    lack = missing - (facts.capacity - s.book["used"])
    refused = is_over & (missing > 0) & (lack > s.book["free_to_go"] + idle)
    return _Count(missing, is_over, refused, is_over & ~refused & (missing > 0) & (lack > 0))


def _going_on(tree: RankTree, tiers: TierTable, under: Under, s: Sight, d: Deed, count: _Count) -> Under:
    """Where the task goes on; `tiers` are those after the step."""
    c, i = under.run, tree.rank
    room_made = s.evict & (d.short_of - d.taken <= 0)
    restarts = (count.is_over & ~count.makes_room) | room_made
    to_unmark = d.done & s.leave & (s.mark > 0)
    ends = (d.done & ~s.count) | s.unmark
    task = jnp.where(count.makes_room, Task.EVICT.value, jnp.where(restarts, Task.STORE.value, under.task))
    task = jnp.where(to_unmark, Task.UNMARK.value, jnp.where(ends, Task.NONE.value, task))
    in_order = jnp.where(s.evict, s.run.after, c)
    passes = d.passes | (d.moved_on & ~d.walked_gap & (d.to >= s.run.end))
    run = jnp.where(d.leaves_node, tiers.nodes[i, s.following.node], jnp.where(passes, s.run.right, in_order))
    run = jnp.where(d.cuts & (d.cut_at != under.at), d.new, run)
    first = tiers.nodes[i, tree.place(tree.path(under.request), 0).node]
    run = jnp.where(to_unmark, s.mark, jnp.where(count.makes_room, s.head, jnp.where(restarts, first, run)))
    behind_new = d.inserts | (d.cuts & (d.cut_at == under.at))
    left = jnp.where(d.leaves_node | restarts, 0, jnp.where(passes, c, jnp.where(behind_new, d.new, under.left)))
    anchor = jnp.where(d.marks, d.new, jnp.where(d.strolls, s.anchor_next, jnp.where(d.act & s.leave, c, under.anchor)))
    return under._replace(
        task=task.astype(jnp.int32),
        at=jnp.where(restarts, under.begin, jnp.where(d.moved_on, d.to, under.at)),
        depth=jnp.where(restarts, 0, under.depth + d.leaves_node.astype(jnp.int32)),
        run=run,
        left=left,
        anchor=jnp.where((d.inserts | d.act) & (s.store | s.load), s.mark, anchor),
        missing=count.missing,
        granted=jnp.where(count.is_over, ~count.refused, under.granted),
    )
