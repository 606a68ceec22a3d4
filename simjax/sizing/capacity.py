"""The capacities of many designs at once: rounds of simulations in which every design tries the rates that its own search asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from simjax.config.capacity import FEW, PRECISION, CapacityConfig, SearchConfig
from simjax.config.compose import compose_config, normal, typed
from simjax.config.sweep import SweepConfig
from simjax.errors import SimjaxError
from simjax.explore.from_config import base_of, points_of
from simjax.explore.points import Points
from simjax.sizing.asked import Asked
from simjax.sizing.loads import further_loads, loads_of
from simjax.sizing.record import Capacities, Capacity
from simjax.sizing.rounds import Rounds

Progress = Callable[[int, int, int], None]
"""A function of (designs done, all designs, simulations so far)."""


def capacity(overrides: Sequence[str] = (), axes: Mapping[str, Any] | None = None, *, on_progress: Progress | None = None) -> Capacities:
    """The highest rate that each of some designs holds: steadily, and with its service levels met.

        simjax.capacity(["model=qwen3-32b", "slo.ttft_s=1", "capacity.seeds=8"], {"device": ["h100", "h200"]}).designs[0].rate_per_s

    Args:
        overrides: options of `simjax capacity`, in Hydra's grammar.
        axes: values of each swept key, as for `simjax.SweepPlan.of`; designs are all combinations.
        on_progress: called now and then with (designs done, all designs, simulations so far).

    Raises:
        SimjaxError: an option is wrong, or no design can be simulated.
    """
    config: CapacityConfig = typed(compose_config("capacity", list(overrides)))
    asked = SweepConfig(**{**vars(config.sweep), "axes": {**config.sweep.axes, **(axes or {})}})
    return capacities(search_base(overrides), designs_of(asked), config.capacity, on_progress=on_progress)


def search_base(overrides: Sequence[str]) -> list[str]:
    """The overrides of a search that every design shares: without those of the search, the sweep and the output."""
    return [x for x in base_of([normal(x) for x in overrides]) if not x.lstrip("+").startswith("capacity.")]


def designs_of(sweep: SweepConfig) -> Points:
    """The designs of a configured sweep; without one a single design.

    Raises:
        SimjaxError: an option of sweeps has no meaning here, or values cannot be swept.
    """
    if sweep.seeds is not None:
        raise SimjaxError("sweep.seeds has no effect on a search; capacity.seeds sets on how many workloads a rate is tried")
    if sweep.shard is not None:
        raise SimjaxError("sweep.shard: a search cannot be split; give each process its own values of an axis")
    if sweep.resume is not None or sweep.dry_run:
        name = "sweep.dry_run=true" if sweep.dry_run else f"sweep.resume={sweep.resume}"
        raise SimjaxError(f"{name} has no effect on a search, whose designs end together; leave it out")
    asked = bool(sweep.axes or sweep.zip or sweep.points is not None)
    return points_of(sweep)[0] if asked else Points((), ((),))


def capacities(
    base: Sequence[str],
    points: Points,
    search: SearchConfig,
    *,
    width: int | None = None,
    on_progress: Progress | None = None,
) -> Capacities:
    """The capacities of designs, as `capacity`.

    Args:
        base: overrides that all designs share, in Hydra's grammar.
        points: values of the swept keys of each design.
        search: options of the search.
        width: runs side by side, None for what suits the devices.
        on_progress: as for `capacity`.

    Raises:
        SimjaxError: the base is wrong, or no design can be simulated.
    """
    loads = loads_of(base, points, range(len(points)), search)
    if loads.invalid and not loads.of:
        first = min(loads.invalid)
        raise SimjaxError(f"none of the {len(points):,} designs can be simulated; design {first}: {loads.invalid[first]}")
    rounds = Rounds(loads.of, width)
    total, number, done = len(loads.of), 0, 0

    def report(_: int = 0) -> None:
        if on_progress is not None:
            on_progress(done, total, rounds.runs)

    precise = PRECISION if total <= FEW else math.inf
    precision = precise if search.precision is None else search.precision
    asked = {point: Asked(point, own, search, precision) for point, own in loads.of.items()}
    while True:
        waiting = {point: probes for point, one in asked.items() if (probes := one.probes())}
        seeds = {point: one.further for point, one in asked.items() if point not in waiting and len(one.further)}
        if seeds:
            more = further_loads(base, points, loads, seeds)
            for point in seeds:
                own = more.get(point, ())
                asked[point].add(own if own and rounds.add(point, own) else ())
            waiting |= {point: probes for point in seeds if (probes := asked[point].probes())}
        done, number = total - len(waiting), number + 1
        if not waiting:
            break
        report()
        found = rounds.run([probe for probes in waiting.values() for probe in probes], report)
        for point, probes in waiting.items():
            asked[point].tell({probe: found[probe] for probe in probes})
    report()
    values = [dict(zip(points.keys, row, strict=True)) for row in points.rows]
    invalid = {point: Capacity(point, values[point], valid=False, limited_by=reason) for point, reason in loads.invalid.items()}
    records = {point: one.record(values[point]) for point, one in asked.items()} | invalid
    return Capacities(points.keys, tuple(records[point] for point in range(len(points))), rounds.runs, number - 1, loads.warnings)
