"""From the `sweep` part of a configuration, and the swept keys of a command line, to points."""

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

_NOT_OF_A_POINT = re.compile(r"[+]*(out|plots|timeline_interval_s|sweep|sweep\..*|objective|objective\..*)=")


def points_of(sweep: SweepConfig, axes: Sequence[Axis] = ()) -> tuple[Points, tuple[int, ...] | None]:
    """The points a configuration asks for, and its replicate seeds.

    Args:
        sweep: `sweep.points`, then `sweep.zip`, then `sweep.axes` make the outer axes.
        axes: of the command line, inside those; the seeds are innermost.

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
    """The overrides that every point shares: those that say what is simulated, not how to sweep and where results go."""
    return [override for override in overrides if not _NOT_OF_A_POINT.match(override)]


def check_base(base: Sequence[str], points: Points, config: DictConfig) -> None:
    """Raise for overrides that belong to no point, and for swept keys that the base fixes or an interpolation in the configuration reads.

    Raises:
        SimjaxError: naming both.
    """
    for override in base:
        if _NOT_OF_A_POINT.match(override):
            raise SimjaxError(f"{override}: it says how to sweep or where results go, and not what a point is; leave it out of the base")
        key = canonical(override.partition("=")[0])
        if key in points.keys:
            raise SimjaxError(f"{override}: {key} is swept; leave out the value that is the same for all points, or the axis")
    refuse_interpolated(points.keys, config)


def _flat(axes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{workload: {rate: [1, 2]}}` is `{workload.rate: [1, 2]}`: what sweep.axes.workload.rate=[1,2] on the command line makes."""
    for key, values in axes.items():
        if isinstance(values, Mapping):
            yield from _flat(values, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values
