"""Builds the points of a sweep from the `sweep` part of a configuration and the swept keys of a command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from simjax.config.sweep import SweepConfig
from simjax.errors import SimjaxError
from simjax.explore.axes import Axis, axis, zipped
from simjax.explore.keys import canonical, refuse_interpolated
from simjax.explore.points import Points, grid, read_points, read_seeds, with_seeds

_SWEEP_OPTION = re.compile(r"[+]*(out|plots|timeline_interval_s|sweep|sweep\..*|objective|objective\..*)=")


def points_of(sweep: SweepConfig, axes: Sequence[Axis] = ()) -> tuple[Points, tuple[int, ...] | None]:
    """The points of a configured sweep, and its replicate seeds (None if unset).

    Args:
        sweep: the outer axes: `sweep.points`, then `sweep.zip`, then `sweep.axes`.
        axes: the axes of the command line, inside those; the seeds are innermost.

    Raises:
        SimjaxError: there is nothing to sweep, a key is swept twice, or values cannot be swept.
    """
    sources: list[tuple[str, Axis]] = []
    if sweep.points is not None:
        table = read_points(Path(sweep.points).expanduser())
        sources.append((f"sweep.points={sweep.points}", Axis(table.keys, table.rows)))
    for number, together in enumerate(sweep.zip):
        if not isinstance(together, Mapping):
            raise SimjaxError(f"sweep.zip[{number}]: it must be a mapping like {{device: [h100, h200], workload.rate: [4, 6]}}")
        sources.append((f"sweep.zip[{number}]", zipped(dict(_flat(together)))))
    sources += [("sweep.axes", axis(key, values)) for key, values in _flat(sweep.axes)]
    sources += [("the command line", given) for given in axes]
    seen: dict[str, str] = {}
    for source, found in sources:
        for key in found.keys:
            if key in seen:
                raise SimjaxError(f"{key} is swept twice, by {seen[key]} and by {source}; leave one of them out")
            seen[key] = source
    seeds = read_seeds(sweep.seeds)
    if not sources and seeds is None:
        raise SimjaxError("nothing to sweep: give a key several values, like scheduler.max_num_seqs=32,64, or sweep=NAME")
    points = grid([found for _, found in sources])
    return (points if seeds is None else with_seeds(points, seeds)), seeds


def base_of(overrides: Sequence[str]) -> list[str]:
    """The overrides that every point shares: those of the simulation, not those of the sweep, the objective and the output."""
    return [override for override in overrides if not _SWEEP_OPTION.match(override)]


def check_base(base: Sequence[str], points: Points, config: DictConfig) -> None:
    """Raise for overrides that do not belong to points, and for swept keys that the base sets or an interpolation reads.

    Raises:
        SimjaxError: the message names both.
    """
    for override in base:
        if _SWEEP_OPTION.match(override):
            raise SimjaxError(f"{override}: an option of the sweep or its output, not of a point; leave it out of the base")
        key = canonical(override.partition("=")[0])
        if key in points.keys:
            raise SimjaxError(f"{override}: {key} is swept; leave out this value, or the axis")
    refuse_interpolated(points.keys, config)


def _flat(axes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Items with dotted keys: `{workload: {rate: [1, 2]}}`, made by sweep.axes.workload.rate=[1,2], becomes `{workload.rate: [1, 2]}`."""
    for key, values in axes.items():
        if isinstance(values, Mapping):
            yield from _flat(values, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values
