"""The section `energy` of a summary."""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.engine.host.result import Result
from simjax.metrics.energy.parts import run_energy
from simjax.metrics.energy.series import power_by_part

NOTHING = {"total_j": None, "per_output_token_j": None, "mean_power_w": None}
SECOND = 1.0


def energy_summary(result: Result) -> dict[str, Any]:
    """The section without the metrics of the catalogue, which fill it in; nothing but these where power was not simulated.

    `peak_power_w` is the highest mean over a second, known of runs with a leap log; `parts_j` says what the energy was spent on, and
    `expected_error` how far measured power of the devices under load lies from the model's, as a fraction.
    """
    energy, plant = run_energy(result), result.plant
    if energy is None or plant is None:
        return dict(NOTHING)
    return {
        **NOTHING,
        "peak_power_w": peak_power_w(result),
        "parts_j": dict(energy.parts_j),
        "instances_gpu_j": _by_instance(result, energy.devices_j),
        "expected_error": plant.error,
        "sources": list(plant.sources),
    }


def peak_power_w(result: Result) -> float | None:
    """The highest mean power over a second, None without a leap log."""
    energy = run_energy(result)
    if energy is None or result.leaps is None:
        return None
    seconds = max(int(np.floor(energy.span_s / SECOND)), 1)
    edges = energy.start_s + SECOND * np.arange(seconds + 1) if energy.span_s >= SECOND else np.array([energy.start_s, energy.end_s])
    if edges[-1] <= edges[0]:
        return None
    edges = np.append(edges, max(energy.end_s, edges[-1]) + SECOND)  # what is left of the last second goes there
    whole = np.sum(list(power_by_part(result, edges).values()), axis=0)
    return float(np.max(whole[:-1]))


def _by_instance(result: Result, devices_j: np.ndarray) -> list[float]:
    ranks = result.ranks
    return (devices_j if ranks is None else np.bincount(ranks.instance, devices_j)).tolist()
