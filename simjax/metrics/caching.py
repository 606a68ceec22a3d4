"""Prefix caching over time: the blocks that it keeps, and its hits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.engine.host.result import LeapLog, RequestLog, Result
from simjax.metrics.catalog.instances import of_instances
from simjax.metrics.steps import leap_durations


def caches(result: Result) -> bool:
    """Whether any instance kept blocks that no request held; false for a run without a leap log."""
    return result.leaps is not None and bool(result.leaps.cached_blocks.any())


def kept_blocks(leaps: LeapLog, instance: int, num_blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """KV blocks of an instance that requests hold or that are kept in the prefix cache.

    They are the blocks that have ever been in use, so their number never falls, not even while the instance is idle.

    Args:
        leaps: the log of the run.
        instance: number of the instance.
        num_blocks: all KV blocks of the instance.

    Returns:
        (start_s float64[K], blocks at the start float64[K], blocks at the end float64[K]) of stretches of time that follow each other
        without a gap: each leap, and the pause between it and the next. Blocks grow linearly within a stretch. The last one has no end.
    """
    mine = leaps.instance == instance
    start, took = leaps.start_s[mine], leap_durations(leaps)[mine]
    held, last, cached = (getattr(leaps, name)[mine].astype(np.int64) for name in ("kv_blocks", "kv_blocks_last", "cached_blocks"))
    # Blocks for the steps of a leap are evicted only when the next step is formed.
    first, after = np.minimum(held + cached, num_blocks), np.minimum(np.maximum(held, last) + cached, num_blocks)
    times, begin, end = (np.stack(pair, axis=1).ravel() for pair in ((start, start + took), (first, after), (after, after)))
    return times, begin.astype(np.float64), end.astype(np.float64)


def peak_cached_fraction(result: Result) -> float | None:
    """Blocks that are held or cached at the end of the run, when they are most, over all blocks, on the fullest instance.

    None for a run without prefix caching or without a leap log.
    """
    if result.leaps is None or not caches(result):
        return None
    fullest = 0.0
    for instance, num_blocks in enumerate(of_instances(result, "num_blocks").tolist()):
        _, _, blocks = kept_blocks(result.leaps, instance, num_blocks)
        fullest = max(fullest, blocks.max(initial=0.0) / max(1, num_blocks))
    return float(fullest)


def sources(requests: RequestLog, edges: np.ndarray) -> dict[str, np.ndarray]:
    """Where the prompt tokens of the requests came from whose first step starts in each bin: by source, int64[B].

    Args:
        requests: the log of the run.
        edges: edges of the bins, as of `hits`.
    """
    cached, prompt = hits(requests, edges)
    loaded, _ = hits(replace(requests, cached_tokens=requests.tier_hit_tokens), edges)
    return {"computed": prompt - cached - loaded, "loaded": loaded, "cached": cached}


def hits(requests: RequestLog, edges: np.ndarray, instance: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cached and prompt tokens of the requests whose first step starts in each bin, int64[B] both.

    Args:
        requests: the log of the run.
        edges: edges of the bins in seconds, float64[B+1]; a bin ends with its upper edge, and the outer bins take all that lies beyond.
        instance: number of the instance whose requests count; None for all requests.
    """
    mine = np.isfinite(requests.scheduled_s) & (True if instance is None else requests.instance == instance)
    where = np.clip(np.searchsorted(edges, requests.scheduled_s[mine], side="left") - 1, 0, len(edges) - 2)
    count = lambda tokens: np.bincount(where, weights=tokens[mine], minlength=len(edges) - 1).astype(np.int64)
    return count(requests.cached_tokens), count(requests.prompt_tokens)
