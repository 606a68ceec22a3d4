"""The cluster over time: running and waiting requests, KV use and token rates in bins of fixed width."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from simjax.engine.host.ranks import RankLog, by_rank
from simjax.engine.host.result import LeapLog, Result
from simjax.errors import SimjaxError
from simjax.metrics.caching import caches, hits, kept_blocks
from simjax.metrics.catalog.instances import of_instances
from simjax.metrics.energy.series import instance_power
from simjax.metrics.handover.legs import first_legs, kept_for_transfers, waits_for_decode
from simjax.metrics.steps import Steps, binned, expand_steps, leap_durations

COLUMNS = ["t_s", "instance", "running", "waiting", "kv_used_fraction", "prompt_tokens_per_s", "output_tokens_per_s", "power_w"]
COLUMNS += ["kv_cached_fraction", "prefix_hit_fraction"]
MOST_BINS = 5_000_000  # a file of about 500 MB an instance


def timeline(result: Result, interval_s: float | None = None, most_bins: int = 500) -> pd.DataFrame:
    """The run in bins of `interval_s` seconds, one row a bin and instance, sorted by instance, then time.

    Args:
        result: a run with a leap log.
        interval_s: width of a bin in seconds; the default is `default_interval` of the run's length.
        most_bins: number of bins that the default width does not exceed.

    Returns:
        A frame with the columns `COLUMNS`. A bin covers (t_s, t_s + interval_s]; all means and rates are over its full width.
        `running`: requests in a step, time-weighted mean. `waiting`: requests sent (`arrival_s`) but not yet in a step
        (`scheduled_s`), preempted ones that wait to resume, and on a decode instance those whose prefill has ended elsewhere (their KV
        cache is on its way, or waits for blocks or a seat), time-weighted mean. `kv_used_fraction`: KV blocks held
        by requests over usable blocks, time-weighted mean; inside a leap it grows linearly. It includes blocks that are kept for
        transfers of KV cache, between the steps too. `prompt_tokens_per_s`: prefill tokens
        computed (recomputation included), spread over their step. `output_tokens_per_s`: tokens counted at the end of their step.
        `power_w`: watts of the instance's devices with their part of servers and building, missing (`pd.NA`) without power.
        `kv_cached_fraction`: KV blocks held by requests or kept by the prefix cache
        (blocks without use among them, see `LeapLog.cached_blocks`) over usable blocks, time-weighted mean; missing in a run without
        prefix caching. `prefix_hit_fraction`: cached over prompt tokens of the requests whose first step starts in the bin; missing
        when there are none.

    Raises:
        SimjaxError: the run recorded no leap log, or the interval is not positive.
    """
    if result.leaps is None:
        raise SimjaxError("this run recorded no leap log, so it has no timeline; simulate the design alone to get one")
    if interval_s is not None and not (interval_s > 0 and math.isfinite(interval_s)):
        raise SimjaxError(f"interval_s={interval_s}: the bin width must be a positive number of seconds")
    start, end = _span(result, result.leaps)
    width = default_interval(end - start, most_bins) if interval_s is None else interval_s
    if (end - start) / width > MOST_BINS:
        raise SimjaxError(f"interval_s={width:g}: that is more than {MOST_BINS:,} bins for a run of {end - start:g} s; make it longer")
    start = math.floor(start / width) * width
    edges = start + width * np.arange(max(1, math.ceil((end - start) / width)) + 1)
    seen, steps = by_rank(result), expand_steps(result.leaps)
    assert seen.leaps is not None
    frames = [_instance_timeline(seen, seen.leaps, steps, i, edges, width) for i in range(len(of_instances(seen, "num_blocks")))]
    whole = pd.concat(frames if result.ranks is None else _of_several_ranks(result, result.ranks, frames, edges), ignore_index=True)
    return whole if result.plant is None else whole.assign(power_w=pd.array(instance_power(result, edges).ravel(), dtype="Float64"))


def _of_several_ranks(result: Result, ranks: RankLog, frames: list[pd.DataFrame], edges: np.ndarray) -> list[pd.DataFrame]:
    """The timelines of the instances from those of their ranks: sums, and KV use over the blocks of all ranks."""
    found = []
    for i in range(int(ranks.instance[-1]) + 1):
        mine = np.flatnonzero(ranks.instance == i)
        whole = sum_instances(pd.concat([frames[k] for k in mine]), ranks.totals.num_blocks[mine])
        cached, asked = hits(first_legs(result), edges, i)
        missing, hit = _missing(len(whole)), pd.arrays.FloatingArray(cached / np.maximum(asked, 1), asked == 0)
        others = {"instance": np.full(len(whole), i, np.int32), "power_w": missing, "prefix_hit_fraction": hit}
        found.append(pd.DataFrame({"kv_cached_fraction": missing, **dict(whole.items()), **others})[COLUMNS])
    return found


def bin_edges(frame: pd.DataFrame) -> np.ndarray:
    """The edges of the bins of a frame that `timeline` returned, float64[B+1] in seconds."""
    starts = np.unique(frame["t_s"].to_numpy())
    return np.append(starts, starts[-1] + (starts[1] - starts[0] if len(starts) > 1 else 1.0))


def default_interval(duration_s: float, most_bins: int = 500) -> float:
    """The smallest 1, 2 or 5 times a power of ten seconds that cuts the duration into at most `most_bins` bins (at least 0.4 of that)."""
    if duration_s <= 0:
        return 1.0
    exponent = math.floor(math.log10(duration_s / most_bins))
    # Divide by a power of ten where the exponent is negative: 2 / 10 is the double nearest to 0.2, 2 * 0.1 need not be.
    widths = (float(m * 10**e) if e >= 0 else m / 10**-e for e in (exponent, exponent + 1) for m in (1, 2, 5))
    return next(width for width in widths if width * most_bins >= duration_s)


def sum_instances(frame: pd.DataFrame, num_blocks: np.ndarray) -> pd.DataFrame:
    """A timeline of the whole cluster: one row a bin.

    Args:
        frame: a frame that `timeline` returned.
        num_blocks: int32[N], KV blocks of each instance.

    Returns:
        `t_s`, the sums of `running`, `waiting` and the token rates, `kv_used_fraction` and, with prefix caching, `kv_cached_fraction` over
        all blocks, and `kv_low` and `kv_high`, the former on the emptiest and on the fullest instance.
    """
    whole = frame.columns[frame.notna().all()]
    grid = {name: frame[name].to_numpy(np.float64).reshape(len(num_blocks), -1) for name in whole}
    used, fractions = grid["kv_used_fraction"], [name for name in ("kv_used_fraction", "kv_cached_fraction") if name in grid]
    return pd.DataFrame(
        {
            "t_s": grid["t_s"][0],
            **{name: grid[name].sum(axis=0) for name in ("running", "waiting", "prompt_tokens_per_s", "output_tokens_per_s")},
            **{name: np.average(grid[name], axis=0, weights=np.maximum(num_blocks, 1)) for name in fractions},
            "kv_low": used.min(axis=0),
            "kv_high": used.max(axis=0),
        }
    )


def _span(result: Result, leaps: LeapLog) -> tuple[float, float]:
    """The first arrival and the last event, in seconds."""
    sent = result.requests.arrival_s[np.isfinite(result.requests.arrival_s)]
    ends = np.concatenate([leaps.start_s + leap_durations(leaps), result.requests.finish_s[result.requests.finished]])
    start = float(np.min(sent)) if len(sent) else 0.0
    return start, max(start, float(np.max(ends))) if len(ends) else start


def _instance_timeline(result: Result, leaps: LeapLog, steps: Steps, instance: int, edges: np.ndarray, width: float) -> pd.DataFrame:
    mine = leaps.instance == instance
    start, first, steps_of = leaps.start_s[mine], leaps.first_step_s[mine], leaps.steps[mine] > 1
    rest = np.where(steps_of, leap_durations(leaps)[mine] - first, 0.0)
    blocks, last = leaps.kv_blocks[mine], leaps.kv_blocks_last[mine]
    later = np.where(steps_of, leaps.outputs[mine], 0)  # steps 2.. hold exactly the requests they emit a token for

    # Each leap is two segments: step 1, and the decode steps after it.
    starts, spans = _pairs(start, start + first), _pairs(first, rest)
    running = binned(edges, starts, spans, _pairs(leaps.running[mine], later) * spans)
    # Decode steps only take blocks: a fall after step 1 is a finished request that asynchronous scheduling had kept for that step.
    held = binned(edges, starts, spans, _pairs(blocks, np.minimum(blocks, last)) * spans, _pairs(blocks, last) * spans)
    held += _held_between(result, instance, edges, start, first + rest)
    preempted = binned(edges, start, first + rest, leaps.preempted[mine] * (first + rest))
    prompt = binned(edges, start, first, leaps.prompt_tokens[mine].astype(np.float64))
    emitted = mine[steps.leap]
    bins = len(edges) - 1
    where = np.clip(np.ceil((steps.end_s[emitted] - edges[0]) / width).astype(np.int64) - 1, 0, bins - 1)
    output = np.bincount(where, weights=steps.outputs[emitted], minlength=bins)
    prompts = first_legs(result)
    found, asked = hits(prompts, edges, instance)
    waiting = _waiting(prompts.arrival_s, prompts.scheduled_s, prompts.instance == instance, edges)
    waiting += _waiting(*waits_for_decode(result, instance), True, edges)
    blocks_in_all = max(1, int(of_instances(result, "num_blocks")[instance]))
    kept = np.maximum(_kept(leaps, instance, blocks_in_all, edges), held) if leaps.cached_blocks[mine].any() else held
    return pd.DataFrame(
        {
            "t_s": edges[:-1],
            "instance": np.full(bins, instance, np.int32),
            "running": running / width,
            "waiting": (waiting + preempted) / width,
            "kv_used_fraction": held / width / blocks_in_all,
            "prompt_tokens_per_s": prompt / width,
            "output_tokens_per_s": output / width,
            "power_w": _missing(bins),
            "kv_cached_fraction": kept / width / blocks_in_all if caches(result) else _missing(bins),
            "prefix_hit_fraction": pd.arrays.FloatingArray(found / np.maximum(asked, 1), asked == 0),
        }
    )


def _missing(bins: int) -> pd.api.extensions.ExtensionArray:
    return pd.array([pd.NA] * bins, dtype="Float64")


def _kept(leaps: LeapLog, instance: int, num_blocks: int, edges: np.ndarray) -> np.ndarray:
    """Block-seconds in each bin that requests hold or the prefix cache keeps, float64[B]."""
    start, first, last = kept_blocks(leaps, instance, num_blocks)
    spans = np.maximum(np.diff(start, append=edges[-1]), 0.0)
    return binned(edges, start, spans, first * spans, last * spans)


def _pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[2L]: a0, b0, a1, b1, ..."""
    return np.stack([a, b], axis=1).astype(np.float64).ravel()


def _held_between(result: Result, instance: int, edges: np.ndarray, start: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Block-seconds in each bin that an instance keeps for transfers between its steps, of which the log has nothing: float64[B].

    Args:
        result: the run.
        instance: number of the instance.
        edges: float64[B+1], edges of the bins.
        start: float64[K], starts of its leaps, in order.
        span: float64[K], their lengths.
    """
    begin, end, blocks = kept_for_transfers(result, instance)
    if not len(begin):
        return np.zeros(len(edges) - 1)
    cuts = np.sort(np.concatenate([edges, start, start + span]))
    cuts = cuts[(cuts >= edges[0]) & (cuts <= edges[-1])]
    middle = (cuts[1:] + cuts[:-1]) / 2.0
    leap = np.searchsorted(start, middle, side="right") - 1
    idle = (leap < 0) | (middle > start[np.maximum(leap, 0)] + span[np.maximum(leap, 0)]) if len(start) else np.ones(len(middle), bool)
    held = np.diff(_count_integral(begin, cuts, blocks) - _count_integral(end, cuts, blocks)) * idle
    return np.bincount(np.clip(np.searchsorted(edges, middle) - 1, 0, len(edges) - 2), held, len(edges) - 1)


def _waiting(since_s: np.ndarray, until_s: np.ndarray, which: np.ndarray | bool, edges: np.ndarray) -> np.ndarray:
    """Request-seconds in each bin between two times of the requests `which`, such as arrival and first step, float64[B]."""
    mine = np.isfinite(since_s) & which
    return np.maximum(np.diff(_count_integral(since_s[mine], edges) - _count_integral(until_s[mine], edges)), 0.0)


def _count_integral(times: np.ndarray, edges: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Integral up to each edge of the number of `times` that have passed, or of their weights; infinite times never pass."""
    order = np.argsort(times, kind="stable")[: int(np.isfinite(times).sum())]
    weights = np.ones(len(order)) if weights is None else weights[order].astype(np.float64)
    times = times[order] - edges[0]  # relative to the first edge: large epochs would cost digits
    passed = np.searchsorted(times, edges - edges[0], side="right")
    before, moment = (np.concatenate([[0.0], np.cumsum(x)]) for x in (weights, weights * times))
    return before[passed] * (edges - edges[0]) - moment[passed]
