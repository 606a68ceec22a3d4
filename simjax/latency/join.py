"""Put the cost models of different instances side by side, so that one array program prices the whole cluster."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from simjax.latency.attention.grid import AXES, padded
from simjax.latency.attention.table import AttentionTable
from simjax.latency.step_time import StepTime


def join_step_times(step_times: Sequence[StepTime]) -> StepTime:
    """One `StepTime` whose rows are those of `costs`, in order; call it inside `jax.enable_x64(True)`.

    Shorter lookups are padded with their last entry, which their instances never reach, and attention tables by lines that change nothing.
    Either all of them have measured attention or none has (ValueError otherwise): a cluster takes its costs from one kind of source.
    """
    if any(c.table is not None for c in step_times):
        if any(c.table is None for c in step_times):
            raise ValueError("costs with and without measured attention cannot be stacked")
        lengths = [max(getattr(c.table, axis).shape[1] for c in step_times) for axis in AXES]
        step_times = [replace(c, table=padded(_numpy(c.table), lengths)) for c in step_times]
    tokens, sequences = (max(getattr(c, name).shape[1] for c in step_times) for name in ("tokens_s", "sequences_s"))
    if any(c.launch_s is not None for c in step_times):
        step_times = [replace(c, launch_s=jnp.zeros((c.host_s.shape[0], 2)) if c.launch_s is None else c.launch_s) for c in step_times]
    step_times = [replace(c, tokens_s=_reaching(c.tokens_s, tokens), sequences_s=_reaching(c.sequences_s, sequences)) for c in step_times]
    return jax.tree.map(lambda *rows: jnp.concatenate([jnp.asarray(x) for x in rows]), *step_times)


def padded_rows(step_time: StepTime, rows: int) -> StepTime:
    """The table (numpy) with its last row repeated until it has `rows` rows; as it is if it has as many."""
    missing = rows - step_time.host_s.shape[0]
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing > 0 else x, step_time)


def _reaching(lookup: jax.Array, length: int) -> jax.Array:
    return jnp.pad(lookup, ((0, 0), (0, length - lookup.shape[1])), mode="edge")


def _numpy(table: AttentionTable | None) -> AttentionTable:
    assert table is not None
    return jax.tree.map(np.asarray, table)
