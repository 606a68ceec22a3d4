"""Power over time, by part and by instance, from the leap log; its integral is the energy of the run."""

from __future__ import annotations

import numpy as np

from simjax.engine.host.ranks import by_rank
from simjax.engine.host.result import LeapLog, Result
from simjax.metrics.energy.parts import BUILDING, DEVICES, LOSSES, SERVERS, run_energy, span_of
from simjax.metrics.steps import binned, leap_durations


def device_power(result: Result, edges: np.ndarray) -> dict[str, np.ndarray]:
    """Watts of the devices of each rank by part, float64[N, B] each: means over the bins.

    A step draws evenly over its time, and so do the later steps of a leap together.

    Args:
        result: a run with power and a leap log.
        edges: float64[B+1], edges of the bins in seconds.
    """
    plant, seen = result.plant, by_rank(result)
    assert plant is not None and seen.leaps is not None
    start_s, end_s = span_of(result)
    widths = np.diff(edges)
    whole = binned(edges, np.array([start_s]), np.array([end_s - start_s]), np.array([end_s - start_s])) / widths
    parts: dict[str, list[np.ndarray]] = {name: [] for name in DEVICES}
    for rank, idle_w in enumerate(plant.idle_w):
        mine = np.flatnonzero(seen.leaps.instance == rank)
        parts["idle"].append(idle_w * whole)
        start, awake = _awake(seen.leaps, mine, float(plant.standby_s[rank]), end_s)
        parts["standby"].append(plant.standing_w[rank] * binned(edges, start, awake, awake) / widths)
        for name in ("footprint", "memory", "compute"):
            parts[name].append(_in_steps(seen.leaps, mine, name, edges) / widths)
    return {name: np.array(rows) for name, rows in parts.items()}


def _awake(leaps: LeapLog, mine: np.ndarray, standby_s: float, end_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts of the leaps, and seconds from there in which the clocks are raised, until the next one at most."""
    start, took = leaps.start_s[mine], leap_durations(leaps)[mine]
    ended = start + took
    pause = np.maximum(np.append(start[1:], max(end_s, ended[-1] if len(ended) else end_s)) - ended, 0.0) if len(start) else took
    return start, took + np.minimum(pause, standby_s)


def _in_steps(leaps: LeapLog, mine: np.ndarray, name: str, edges: np.ndarray) -> np.ndarray:
    """Joules of a part in each bin, float64[B]."""
    start, first = leaps.start_s[mine], leaps.first_step_s[mine]
    pairs = lambda a, b: np.stack([a, b], axis=1).ravel()
    spans = pairs(first, leap_durations(leaps)[mine] - first)
    joules = pairs(getattr(leaps, f"{name}_j")[mine], getattr(leaps, f"later_{name}_j")[mine])
    return binned(edges, pairs(start, start + first), spans, joules)


def power_by_part(result: Result, edges: np.ndarray) -> dict[str, np.ndarray]:
    """Watts of the whole cluster by part, float64[B] each.

    Processors draw more while their ranks have a step under way; the other parts of servers are spread evenly over the run.
    """
    plant, energy, devices = result.plant, run_energy(result), device_power(result, edges)
    assert plant is not None and energy is not None
    span = np.array([energy.span_s])
    even = binned(edges, np.array([energy.start_s]), span, np.ones(1)) / np.diff(edges)
    found = {name: rows.sum(axis=0) for name, rows in devices.items()}
    found |= {name: energy.parts_j[name] * even for name in SERVERS}
    working = _working(result, edges)  # of each server's extra power, watts
    extra_j = float(np.sum(working * np.diff(edges)))
    found["cpu"] = (energy.parts_j["cpu"] - extra_j) * even + working.sum(axis=0)
    at_the_wall = sum(((plant.wall() - 1.0) @ rows for rows in devices.values()), start=np.zeros(len(even)))
    losses = np.array([node.at_the_wall - 1.0 for node in plant.nodes])
    at_the_wall = at_the_wall + losses @ working
    rest_j = energy.parts_j[LOSSES] - float(np.sum(energy.devices_j * (plant.wall() - 1.0))) - float(losses @ working @ np.diff(edges))
    found[LOSSES] = at_the_wall + rest_j * even
    found[BUILDING] = (plant.pue - 1.0) * sum(found.values())
    return found


def _working(result: Result, edges: np.ndarray) -> np.ndarray:
    """Watts that the processors of each server draw more because its ranks work, float64[K, B]."""
    plant, seen = result.plant, by_rank(result)
    assert plant is not None and seen.leaps is not None
    took, busy = leap_durations(seen.leaps), []
    for rank in range(len(plant.idle_w)):
        mine = seen.leaps.instance == rank
        busy.append(binned(edges, seen.leaps.start_s[mine], took[mine], took[mine]) / np.diff(edges))
    on = plant.on > 0
    each_w = np.array([node.cpu_active_w for node in plant.nodes]) * plant.shares / np.maximum(on.sum(axis=0), 1)
    return each_w[:, None] * (on.T @ np.array(busy))


def instance_power(result: Result, edges: np.ndarray) -> np.ndarray:
    """Watts of each instance, float64[M, B]: its devices, and of everything else a part by the idle power of its devices."""
    plant, devices = result.plant, device_power(result, edges)
    assert plant is not None
    of_ranks = sum(devices.values())
    whole = sum(power_by_part(result, edges).values())
    at_the_wall = plant.pue * plant.wall()[:, None] * of_ranks
    weights = plant.idle_w / plant.idle_w.sum() if plant.idle_w.sum() > 0 else np.full(len(plant.idle_w), 1 / len(plant.idle_w))
    each = at_the_wall + weights[:, None] * (whole - at_the_wall.sum(axis=0))
    if result.ranks is None:
        return each
    return np.array([each[result.ranks.instance == i].sum(axis=0) for i in range(int(result.ranks.instance[-1]) + 1)])


def metered(power_w: np.ndarray, width_s: float, meter_s: float) -> np.ndarray:
    """What a meter shows that averages over the last `meter_s` seconds, of a series in bins of `width_s`; the bins themselves are means.

    Args:
        power_w: float64[..., B].
        width_s: width of a bin in seconds.
        meter_s: seconds over which the meter averages; no more than a bin changes nothing.
    """
    if meter_s <= width_s:
        return power_w
    total = np.cumsum(np.insert(power_w, 0, 0.0, axis=-1), axis=-1)
    count, bins = power_w.shape[-1], meter_s / width_s
    ends = np.arange(1, count + 1)
    at = np.maximum(ends - bins, 0.0)
    low = np.floor(at).astype(int)
    before = total[..., low] + (at - low) * (total[..., np.minimum(low + 1, count)] - total[..., low])
    return (total[..., ends] - before) / (ends - at)
