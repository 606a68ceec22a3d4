"""Synthetic shared prefixes: every prompt starts with one of a few texts, such as the system prompts of the applications behind it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.contents import tree
from simjax.workload.contents.radix import from_keys
from simjax.workload.synthetic import lengths
from simjax.workload.workload import Workload


def draw_groups(groups: int, zipf: float | None, rng: np.random.Generator, n: int) -> np.ndarray:
    """Random groups, int64[n] in [0, groups): all equally likely, or the k-th (from 1) with probability proportional to k^-zipf.

    Raises:
        SimjaxError: no groups, or an exponent that is not positive.
    """
    if groups < 1:
        raise SimjaxError(f"groups={groups}; it must be at least 1")
    if zipf is None:
        return lengths.uniform(1, groups, rng, n).astype(np.int64) - 1
    if not (zipf > 0 and np.isfinite(zipf)):
        raise SimjaxError(f"zipf={zipf:g}; it must be positive (null: all groups equally likely)")
    return lengths.zipf(zipf, 1, groups, rng, n).astype(np.int64) - 1


def share_prefixes(workload: Workload, groups: np.ndarray, tokens: int) -> Workload:
    """The same requests, where those of the same group (int[R]) share the first `tokens` tokens of their prompts, or the shorter prompt."""
    shared = np.minimum(workload.prompt_tokens, tokens)
    total = workload.prompt_tokens.astype(np.int64) + workload.output_tokens
    prefixes = from_keys(groups.tolist(), shared, total)
    return replace(workload, prefixes=tree.finish(prefixes, workload.prompt_tokens, workload.sessions))
