"""Rows of the table of hand-overs: written, freed, masked."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.together import together
from simjax.engine.handover.table import Handovers, Phase
from simjax.engine.params import ClusterParams, HandoverParams
from simjax.engine.rank import NEVER
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32

    from simjax.engine.state import ClusterState


def rules(params: ClusterParams) -> HandoverParams:
    """The hand-overs of a cluster that has some."""
    assert params.handover is not None
    return params.handover


def table_of(state: ClusterState) -> Handovers:
    """The table of a cluster that has one."""
    assert isinstance(state.handovers, Handovers)
    return state.handovers


def row_mask(shape: EngineShape, row: Int32[Array, ""], wanted: Array) -> Bool[Array, " K"]:
    """The mask of one row, if it is wanted."""
    return together(wanted & (jnp.arange(shape.handovers, dtype=jnp.int32) == row))


def with_row(table: Handovers, mine: Bool[Array, " K"], changes: dict) -> Handovers:
    """The table with other values in the rows of the mask, which has one row at most."""

    def put(old: Array, new: Array) -> Array:
        return jnp.where(mine, jnp.asarray(new).astype(old.dtype), old)

    return dataclasses.replace(table, **{name: jax.tree.map(put, getattr(table, name), new) for name, new in changes.items()})


def freed_rows(table: Handovers, rows: Bool[Array, " K"]) -> Handovers:
    """The table once the prefill ranks of some rows have freed their blocks; rows in which both ranks have done their part are free."""
    return settled(dataclasses.replace(table, kept=table.kept & ~rows), rows)


def settled(table: Handovers, rows: Bool[Array, " K"]) -> Handovers:
    """The table with those of some rows free in which both ranks have done their part."""
    done = rows & (table.phase == Phase.SEATED) & ~table.kept
    never = {
        name: jnp.where(done, NEVER, getattr(table, name))
        for name in ("finish_s", "landed_s", "prefill_told_s", "decode_told_s", "leg_s", "start_s")
    }
    request = jnp.where(done, table.decode_of.shape[0], table.request)
    return dataclasses.replace(table, request=request, phase=jnp.where(done, Phase.FREE, table.phase), **never)
