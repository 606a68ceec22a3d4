"""Seeded random streams, one for each purpose, so that a change in how one quantity is drawn leaves the others unchanged."""

from __future__ import annotations

import numpy as np

ARRIVALS, PROMPTS, OUTPUTS, JITTER, GROUPS, TURNS, FOLLOWUPS, THINKING, MODELS, CLASSES = range(10)


def stream(seed: int, purpose: int) -> np.random.Generator:
    """The random generator of one purpose (`ARRIVALS`, `PROMPTS`, ...) for a `seed` (>= 0).

    Generators fill arrays element by element, so the first n numbers do not depend on how many are drawn.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose,)))
