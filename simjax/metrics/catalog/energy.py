"""Metrics of energy and power, of runs that simulate them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simjax.metrics.catalog.metric import Column, Metric
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.energy.parts import RunEnergy

_POWER = frozenset({"power"})
Value = Callable[[RunEnergy], float]


def _energy(name: str, unit: str, words: str, of: Value, key: str, per: Callable[[Runs], np.ndarray] | None = None) -> Metric:
    """A number of the energy of a run, or that divided by a count."""

    def value(runs: Runs, xp: object) -> Column:
        known = np.array([x is not None for x in runs.energies])
        values = np.array([0.0 if x is None else of(x) for x in runs.energies])
        if per is None:
            return Column(values, known)
        count = per(runs)
        return Column(values / np.maximum(count, 1), known & (count > 0))

    return Metric(name, unit, "lower", words, value, path=("energy", key), needs=_POWER)


def _finished(name: str) -> Callable[[Runs], np.ndarray]:
    return lambda runs: runs.total(name, runs.requests.finished)


ENERGY = (
    _energy("energy_j", "J", "energy", lambda x: x.total_j, "total_j"),
    _energy("gpu_energy_j", "J", "energy of the GPUs", lambda x: x.gpu_j, "gpu_j"),
    _energy(
        "energy_per_output_token_j", "J", "energy per output token", lambda x: x.total_j, "per_output_token_j", _finished("output_tokens")
    ),
    _energy(
        "gpu_energy_per_output_token_j",
        "J",
        "energy of the GPUs per output token",
        lambda x: x.gpu_j,
        "gpu_per_output_token_j",
        _finished("output_tokens"),
    ),
    _energy(
        "energy_per_request_j", "J", "energy per request", lambda x: x.total_j, "per_request_j", lambda runs: runs.requests.finished.sum(1)
    ),
    _energy("mean_power_w", "W", "mean power", lambda x: x.mean_power_w, "mean_power_w"),
)
