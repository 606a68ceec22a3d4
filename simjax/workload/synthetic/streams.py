"""Seeded random streams, one for each purpose, so that changing how one thing is drawn leaves the others as they were."""

from __future__ import annotations

import numpy as np

ARRIVALS, PROMPTS, OUTPUTS, JITTER, GROUPS, TURNS, FOLLOWUPS, THINKING = range(8)


def stream(seed: int, purpose: int) -> np.random.Generator:
    """The generator of one purpose (`ARRIVALS`, `PROMPTS`, ...) under `seed` (>= 0).

    Generators fill arrays element by element, so the first n numbers are the same however many are drawn.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose,)))
