"""Fits of the shipped form of a device's power to measured rows, and their errors on models that took no part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from power_rows import Row
from scipy.optimize import brentq, least_squares, minimize_scalar

from simjax.engine.power.physics import Parts, energy_j
from simjax.power.spec import DevicePower

STANDING_W = {"A100": 86.5, "H100": 119.0, "B200": 215.0}
"""Power with an engine loaded and nothing to do, measured (A100, H100), and inferred from a server's standby (B200)."""
LIMIT_W = {"A100": 400.0, "H100": 700.0, "B200": 1000.0}
TYPICAL, SPREAD = (0.1, 0.4, 0.5), 3.0
"""A wide prior of footprint, memory and compute as shares of the limit: mean and standard deviation, in units of a row's relative error."""
SOFT = 0.1


def watts(device: DevicePower, rows: Sequence[Row]) -> np.ndarray:
    """Power of the runs by the form that simulations use, float64[R]."""
    busy, memory, compute = (np.array([getattr(row, name) for row in rows]) for name in ("busy", "memory", "compute"))
    parts = Parts(device.footprint_w, device.memory_w, device.compute_w)
    return device.standby_w + energy_j(parts, device.limit_w - device.standby_w, 1.0, busy, memory, compute, xp=np).total


def fitted(rows: Sequence[Row]) -> DevicePower:
    """The power of the rows' GPU."""
    gpu, measured = rows[0].gpu, np.array([row.watts for row in rows])

    def made(parts: np.ndarray) -> DevicePower:
        footprint, memory, compute = (float(x) for x in parts)
        return DevicePower(0.0, STANDING_W[gpu], footprint, memory, compute, LIMIT_W[gpu])

    def residuals(parts: np.ndarray) -> np.ndarray:
        prior = (parts / LIMIT_W[gpu] - TYPICAL) / SPREAD
        return np.append(watts(made(parts), rows) / measured - 1.0, prior)

    start = LIMIT_W[gpu] * np.array(TYPICAL)
    return made(least_squares(residuals, start, loss="soft_l1", f_scale=SOFT, bounds=(0, np.inf)).x)


def constant(rows: Sequence[Row]) -> float:
    """The active power of three states: the one that fits best, for these GPUs never rest."""
    measured = np.array([row.watts for row in rows])
    loss = lambda x: np.sum(np.sqrt(1.0 + ((x / measured - 1.0) / SOFT) ** 2))
    return float(minimize_scalar(loss, bounds=(measured.min(), measured.max()), method="bounded").x)


def unseen(rows: Sequence[Row]) -> dict[str, float]:
    """Mean absolute errors in percent on models that are left out, in turn: of the form, of three states, and of either with one measured
    batch, the middle one, of each deployment.
    """
    errors: dict[str, list[float]] = defaultdict(list)
    for model in sorted({row.model for row in rows}):
        seen, left = [x for x in rows if x.model != model], [x for x in rows if x.model == model]
        device, active = fitted(seen), constant(seen)
        measured = np.array([row.watts for row in left])
        errors["form"] += np.abs(watts(device, left) / measured - 1).tolist()
        errors["three states"] += np.abs(active / measured - 1).tolist()
        for group in _groups(left):
            middle = group[len(group) // 2]
            others = [row for row in group if row is not middle]
            if others:
                there = np.array([row.watts for row in others])
                errors["form, one batch"] += np.abs(watts(_through(device, middle), others) / there - 1).tolist()
                errors["three states, one batch"] += np.abs(middle.watts / there - 1).tolist()
    return {name: 100 * float(np.mean(found)) for name, found in errors.items()}


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The runs of each deployment, by batch."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    return [sorted(group, key=lambda row: row.batch) for group in groups.values()]


def _through(device: DevicePower, row: Row) -> DevicePower:
    """The device with a factor on its steps' power by which it draws what was measured of one run."""

    def scaled(log: float) -> DevicePower:
        factor = float(np.exp(log))
        parts = (factor * x for x in (device.footprint_w, device.memory_w, device.compute_w))
        return DevicePower(0.0, device.standby_w, *parts, device.limit_w)

    missing = lambda log: watts(scaled(log), [row])[0] - row.watts
    low, high = -3.0, 3.0
    if missing(low) * missing(high) > 0:  # at the limit any large factor does
        return scaled(high if missing(high) < 0 else low)
    return scaled(brentq(missing, low, high))
