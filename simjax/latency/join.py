"""Join the step-time models of different deployments, so that one array program times the steps of the whole cluster."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from simjax.latency.attention.grid import AXES, padded
from simjax.latency.attention.table import AttentionTable
from simjax.latency.attention.windows import WindowedAttention
from simjax.latency.groups.times import NEVER, GroupTimes
from simjax.latency.offload.times import WeightTimes
from simjax.latency.pim.times import PimTimes
from simjax.latency.step_time import StepTime
from simjax.latency.tables.lookups import numpy_of, placed


def join_step_times(step_times: Sequence[StepTime]) -> StepTime:
    """One `StepTime` whose rows are those of `step_times`, in order; call it inside `jax.enable_x64(True)`.

    Shorter lookups are padded with their last entry, which their instances never reach, and attention tables by lines that change nothing.
    Either all of them have measured attention or none has (ValueError otherwise): a cluster takes its step times from one kind of source.
    """
    if any(one.table is not None for one in step_times):
        if any(one.table is None for one in step_times):
            raise ValueError("step times with and without measured attention cannot be joined")
        lengths = [max(getattr(one.table, axis).shape[1] for one in step_times) for axis in AXES]
        step_times = [replace(one, table=padded(_numpy(one.table), lengths)) for one in step_times]
    tokens, sequences = (max(getattr(one, name).shape[1] for one in step_times) for name in ("tokens_s", "sequences_s"))
    if any(one.launch_s is not None for one in step_times):
        step_times = [replace(one, launch_s=_launch_s(one)) for one in step_times]
    reaching = {"tokens_s": tokens, "sequences_s": sequences}
    for name in ("stream_s", "send_s"):
        if any(getattr(one, name) is not None for one in step_times):
            step_times = [replace(one, **{name: _by_tokens(one, name)}) for one in step_times]
            reaching[name] = tokens
    step_times = [replace(one, **{name: _reaching(getattr(one, name), most) for name, most in reaching.items()}) for one in step_times]
    if any(one.windows is not None for one in step_times):
        step_times = [one if one.windows is not None else replace(one, windows=_no_windows(one)) for one in step_times]
    if any(one.group is not None for one in step_times):
        groups = [_alone(one) if one.group is None else one.group for one in step_times]
        most = max(group.experts_s.shape[1] for group in groups)
        extended = (replace(x, experts_s=_reaching(x.experts_s, most), exchange_s=_reaching(x.exchange_s, tokens)) for x in groups)
        step_times = [replace(one, group=group) for one, group in zip(step_times, extended, strict=True)]
    if any(one.weights is not None for one in step_times):
        ways = max(one.weights.copy_s.shape[1] for one in step_times if one.weights is not None)
        step_times = [replace(one, weights=_weights(one, ways, tokens)) for one in step_times]
    if any(one.pim is not None for one in step_times):
        prompts = any(one.pim is not None and one.pim.prompts_only is not None for one in step_times)
        step_times = [replace(one, pim=_pim(one, prompts)) for one in step_times]
    return jax.tree.map(lambda *rows: placed(numpy_of(*rows).concatenate(rows)), *step_times)


def _launch_s(one: StepTime) -> Any:
    """Least seconds of launched steps, f64[C, 2]: 0 where CUDA graphs launch every step."""
    return np.zeros((one.host_s.shape[0], 2)) if one.launch_s is None else one.launch_s


def _no_windows(one: StepTime) -> WindowedAttention:
    """Layers with windows that take no time, of models that have none."""
    zeros = np.zeros(one.host_s.shape[0])
    return WindowedAttention(zeros, zeros, zeros, zeros, zeros)


def _by_tokens(one: StepTime, name: str) -> Any:
    """Seconds by number of scheduled tokens, f64[C, T+1]: 0 where steps send no KV cache, or nothing to a next pp stage."""
    return np.zeros(one.tokens_s.shape) if (seconds := getattr(one, name)) is None else seconds


def _alone(one: StepTime) -> GroupTimes:
    """What a model that steps alone does together with others: nothing."""
    rows = one.host_s.shape[0]
    whole: Any = lambda value, *shape: np.full((rows, *shape), value, np.int32)
    zeros: Any = np.zeros
    none, by_tokens = zeros((rows, 2)), zeros(one.tokens_s.shape)
    return GroupTimes(whole(1), whole(1), none, by_tokens, zeros(rows), whole(NEVER), whole(0, 2), whole(NEVER, 2), zeros(rows, bool))


def _weights(one: StepTime, ways: int, tokens: int) -> WeightTimes:
    """The streamed weights of a model with so many ways and scheduled tokens: those that it does not have take no time."""
    rows, zeros = one.host_s.shape[0], np.zeros
    x = one.weights
    if x is None:
        return WeightTimes(zeros((rows, ways)), zeros((rows, ways)), zeros((rows, ways, 3)), zeros((rows, 3, tokens)))  # type: ignore[arg-type]
    more = ways - x.copy_s.shape[1]
    extended = lambda leaf: numpy_of(leaf).pad(leaf, ((0, 0), (0, more), *((0, 0),) * (leaf.ndim - 2)))
    reaching = numpy_of(x.ends_s).pad(x.ends_s, ((0, 0), (0, 0), (0, tokens - x.ends_s.shape[2])), mode="edge")
    return WeightTimes(extended(x.copy_s), extended(x.layers), extended(x.ends), reaching)


def _pim(one: StepTime, prompts: bool) -> PimTimes:
    """Decode attention on memory that computes, off for a model that has none; `prompts`: whether some contexts are their prompts."""
    rows = one.host_s.shape[0]
    off: Any = np.zeros(rows, bool)
    ones: Any = np.ones(rows)
    zeros: Any = np.zeros(rows)
    pim = one.pim or PimTimes(off, ones, ones, zeros, zeros, zeros, off)
    return replace(pim, prompts_only=off) if prompts and pim.prompts_only is None else pim


def padded_rows(step_time: StepTime, rows: int) -> StepTime:
    """The table (numpy) with its last row repeated until it has `rows` rows; as it is if it has as many."""
    missing = rows - step_time.host_s.shape[0]
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing > 0 else x, step_time)


def _reaching(lookup: Any, length: int) -> Any:
    """A lookup with its last entry repeated; as it is if it reaches so far."""
    if lookup.shape[1] == length:
        return lookup
    return numpy_of(lookup).pad(lookup, ((0, 0), (0, length - lookup.shape[1])), mode="edge")


def _numpy(table: AttentionTable | None) -> AttentionTable:
    assert table is not None
    return jax.tree.map(np.asarray, table)
