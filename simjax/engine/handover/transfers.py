"""Transfers of KV caches: their start, their landing, and the news of it at both ranks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.arrivals import next_arrival_s
from simjax.engine.control.select import select
from simjax.engine.handover.passes import Passes, news_at, told_s
from simjax.engine.handover.rows import row_mask, rules, table_of
from simjax.engine.handover.sizes import sizes
from simjax.engine.handover.table import Handovers, Phase
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Plan, Rank
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.turn import Turn
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Float64


def land(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """End the next transfer, if that is before, or just when, anything else happens."""
    state = turn.state
    if not shape.handovers:
        return turn
    table = table_of(state)
    t_s, row = table.flows.end_s, table.flows.ending
    first_s = jnp.minimum(jnp.minimum(table.next_leg_s, next_arrival_s(params, state)), jnp.min(state.ranks.due_s()))
    lands = (t_s <= first_s) & jnp.isfinite(t_s)
    table = dataclasses.replace(table, flows=table.flows.ended(rules(params), (table.prefill, table.decode), lands))
    return turn.with_state(**landed(shape, params, state, table, row, t_s, lands))


def landed(
    shape: EngineShape, params: ClusterParams, state: ClusterState, table: Handovers, row: Array, end_s: Array, wanted: Array
) -> dict[str, Handovers | Rank]:
    """The table and ranks once the bytes of a row have ended their way at end_s (float64[]), if that is wanted.

    The plans of both ranks end where they are told of it, if they are told while these last.
    """
    handover, pair = rules(params), (table.prefill[row], table.decode[row])
    fixed_s = handover.setup_s[pair] + product(table.moved_blocks[row].astype(jnp.float64), handover.per_block_s[pair])
    landed_s = end_s + fixed_s
    mine = row_mask(shape, row, wanted)
    table = dataclasses.replace(table, landed_s=jnp.where(mine, landed_s, table.landed_s))
    ranks, number = state.ranks, jnp.arange(shape.ranks, dtype=jnp.int32)
    assert isinstance(ranks.passes, Passes)
    concerned = wanted & ((number == pair[0]) | (number == pair[1]))

    def heard(plan: Plan, passes: Passes, async_scheduling: Array) -> Plan:
        return news_at(plan, told_s(plan, passes, landed_s, handover.empty_pass_s, async_scheduling), async_scheduling)

    plans = jax.vmap(heard)(ranks.plan, ranks.passes, params.ranks.async_scheduling)
    return {"handovers": table, "ranks": dataclasses.replace(ranks, plan=select(concerned, plans, ranks.plan))}


def begin_transfer(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Begin a transfer whose two ends are ready since this turn: the prefill has ended, and the decode rank has reserved blocks."""
    if not shape.handovers:
        return turn
    table = table_of(turn.state)
    ready = (table.phase == Phase.LOADING) & jnp.isfinite(table.finish_s) & ~jnp.isfinite(table.start_s)
    row, wanted = jnp.argmax(ready).astype(jnp.int32), jnp.any(ready) & turn.due
    mine = row_mask(shape, row, wanted)
    whole_bytes, left_bytes = sizes(params, table, row)
    flows, begin_s = table.flows.begun(rules(params), turn.horizon_s, row, left_bytes, (table.prefill, table.decode), wanted)
    table = dataclasses.replace(
        table,
        flows=flows,
        start_s=jnp.where(mine, begin_s, table.start_s),
        moved_bytes=jnp.where(mine, whole_bytes, table.moved_bytes),
    )
    return turn.with_state(handovers=table)


def hear(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Tell the rank of the transfers that it has looked at while its plan lasted; a prefill rank then frees the blocks that were read.

    With prefix caching it frees those of one request a tick, and the step waits for further ones.
    """
    state = turn.state
    if not shape.handovers:
        return turn
    table, plan, passes = table_of(state), turn.before.plan, turn.before.passes
    assert isinstance(passes, Passes)
    # A look of an idle rank counts once the scheduler has been told; until then the next plan may make it the launch of a step.
    now_told_s = _told(params, turn, table, plan, passes)
    now_told_s = jnp.where((plan.steps > 0) | (now_told_s <= turn.horizon_s), now_told_s, NEVER)
    prefill_told = jnp.where(table.keeping(turn.i) & ~jnp.isfinite(table.prefill_told_s) & turn.due, now_told_s, table.prefill_told_s)
    decode_told = jnp.where(table.loading(turn.i) & ~jnp.isfinite(table.decode_told_s) & turn.due, now_told_s, table.decode_told_s)
    table = dataclasses.replace(table, prefill_told_s=prefill_told, decode_told_s=decode_told)
    read = table.keeping(turn.i) & (prefill_told <= turn.horizon_s) & turn.due
    return turn.kv.free_read(shape, params, turn.with_state(handovers=table), read)


def _told(params: ClusterParams, turn: Turn, table: Handovers, plan: Plan, passes: Passes) -> Float64[Array, " K"]:
    """Times at which the rank whose turn it is would be told of the landings of all rows in a plan."""
    pass_s, later = rules(params).empty_pass_s, turn.limits.async_scheduling
    return jax.vmap(lambda landed_s: told_s(plan, passes, landed_s, pass_s, later))(table.landed_s)


def next_news_s(params: ClusterParams, turn: Turn, table: Handovers, plan: Plan, passes: Passes) -> Float64[Array, ""]:
    """Time at which the rank whose turn it is is told of the next landing in a plan that it makes; infinity for none."""
    later_s = _told(params, turn, table, plan, passes)
    news_s = [
        jnp.where(mine & ~(known_s <= turn.horizon_s), jnp.where(jnp.isfinite(known_s), known_s, later_s), NEVER)
        for mine, known_s in ((table.keeping(turn.i), table.prefill_told_s), (table.loading(turn.i), table.decode_told_s))
    ]
    return jnp.min(jnp.minimum(*news_s))
