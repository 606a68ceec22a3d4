"""Transfers of KV caches: their start, their landing, and the news of it at both ranks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.arrivals import next_arrival_s
from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.groups.times import for_groups
from simjax.engine.handover.passes import Passes, news_at, told, told_s
from simjax.engine.handover.rows import row_mask, rules, table_of
from simjax.engine.handover.sizes import size_of
from simjax.engine.handover.table import Handovers, Phase
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Plan, Rank
from simjax.engine.routing.balancer import before_snapshot
from simjax.engine.scheduler.plan import CUT
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.turn import Turn
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


def land(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """End the next transfer, if that is before, or just when, anything else happens."""
    state = turn.state
    if not shape.handovers:
        return turn
    table = table_of(state)
    t_s, row = table.flows.end_s, table.flows.ending
    first_s = jnp.minimum(jnp.minimum(table.next_leg_s, next_arrival_s(params, state)), jnp.min(state.ranks.due_s()))
    lands = before_snapshot(shape, params, state, (t_s <= first_s) & jnp.isfinite(t_s), t_s)
    table = dataclasses.replace(table, flows=table.flows.ended(rules(params), lands))
    return turn.with_state(**landed(shape, params, state, table, row, t_s, lands))


def landed(
    shape: EngineShape, params: ClusterParams, state: ClusterState, table: Handovers, row: Array, end_s: Array, wanted: Array
) -> dict[str, Handovers | Rank]:
    """The table and ranks once the bytes of a row have ended their way at end_s (float64[]), if that is wanted.

    The plans of both ranks end where they are told of it, if they are told while these last.
    """
    handover = rules(params)
    prefill, decode, blocks = table.read(row, "prefill", "decode", "moved_blocks")
    pair = prefill, decode
    fixed_s = handover.setup_s[pair] + product(blocks.astype(jnp.float64), handover.per_block_s[pair])
    landed_s = end_s + fixed_s
    mine = row_mask(shape, row, wanted)
    table = dataclasses.replace(table, landed_s=jnp.where(mine, landed_s, table.landed_s))
    ranks, number = state.ranks, jnp.arange(shape.ranks, dtype=jnp.int32)
    assert isinstance(ranks.passes, Passes)
    concerned = wanted & ((number == prefill) | (number == decode))

    def heard(plan: Plan, passes: Passes, async_scheduling: Array) -> Plan:
        heard_s = together(told_s(plan, passes, landed_s, handover.empty_pass_s, async_scheduling))
        return news_at(plan, heard_s, async_scheduling)

    plans = jax.vmap(heard)(ranks.plan, ranks.passes, params.ranks.async_scheduling)
    times = {name: getattr(plans, name) for name in CUT}
    if shape.groups:
        times, concerned = for_groups(params, times, concerned)
    cut = {name: select(concerned, x, getattr(ranks.plan, name)) for name, x in times.items()}
    return {"handovers": table, "ranks": dataclasses.replace(ranks, plan=dataclasses.replace(ranks.plan, **cut))}


def begin_transfer(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Begin a transfer whose two ends are ready since this turn: the prefill has ended, and the decode rank has reserved blocks."""
    if not shape.handovers:
        return turn
    table = table_of(turn.state)
    ready = to_begin(table)
    row, wanted = jnp.argmax(ready).astype(jnp.int32), jnp.any(ready) & turn.due
    return turn.with_state(handovers=begun(shape, params, table, row, turn.horizon_s, wanted))


def to_begin(table: Handovers) -> Bool[Array, " K"]:
    """Rows whose transfer is to begin."""
    return (table.phase == Phase.LOADING) & jnp.isfinite(table.finish_s) & ~jnp.isfinite(table.start_s)


def begun(
    shape: EngineShape, params: ClusterParams, table: Handovers, row: Int32[Array, ""], now_s: Float64[Array, ""], wanted: Bool[Array, ""]
) -> Handovers:
    """The table once the transfer of a row has begun, if that is wanted."""
    mine = row_mask(shape, row, wanted)
    size = size_of(params, table, row)
    flows, begin_s = table.flows.begun(rules(params), now_s, row, size.pair, size.left_bytes, wanted)
    return dataclasses.replace(
        table,
        flows=flows,
        start_s=jnp.where(mine, begin_s, table.start_s),
        moved_bytes=jnp.where(mine, size.whole_bytes, table.moved_bytes),
    )


def hear(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Tell the rank of the transfers that it has looked at while its plan lasted; a prefill rank then frees the blocks that were read.

    With prefix caching it frees those of one request a tick, and the step waits for further ones.
    """
    state = turn.state
    if not shape.handovers:
        return turn
    table, plan, passes = table_of(state), turn.before.plan, turn.before.passes
    assert isinstance(passes, Passes)
    by_formation, by_end = told(plan, passes, table.landed_s, rules(params).empty_pass_s, turn.limits.async_scheduling)
    now_told_s = jnp.where(by_formation, turn.horizon_s, jnp.where(by_end, plan.end_s, NEVER))
    prefill_told = jnp.where(table.keeping(turn.i) & ~jnp.isfinite(table.prefill_told_s) & turn.due, now_told_s, table.prefill_told_s)
    decode_told = jnp.where(table.loading(turn.i) & ~jnp.isfinite(table.decode_told_s) & turn.due, now_told_s, table.decode_told_s)
    table = dataclasses.replace(table, prefill_told_s=prefill_told, decode_told_s=decode_told)
    read = table.keeping(turn.i) & (prefill_told <= turn.horizon_s) & turn.due
    return turn.kv.free_read(shape, params, turn.with_state(handovers=table), read)


def next_news_s(params: ClusterParams, turn: Turn, table: Handovers, plan: Plan, passes: Passes) -> Float64[Array, ""]:
    """Time at which the rank whose turn it is is told of the next landing in a plan that it makes; infinity for none."""
    known_s, landed_s = [], []
    for mine, told_at_s in ((table.keeping(turn.i), table.prefill_told_s), (table.loading(turn.i), table.decode_told_s)):
        known_s.append(jnp.where(mine & (told_at_s > turn.horizon_s), told_at_s, NEVER))
        landed_s.append(jnp.where(mine & ~jnp.isfinite(told_at_s), table.landed_s, NEVER))
    first_s = jnp.min(jnp.minimum(*landed_s))
    later_s = told_s(plan, passes, first_s, rules(params).empty_pass_s, turn.limits.async_scheduling)
    return jnp.minimum(jnp.min(jnp.minimum(*known_s)), later_s)
