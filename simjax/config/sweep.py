"""The schema of sweeps: swept keys, the objective, and the commands on a sweep's directory.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

import re
from dataclasses import dataclass
from typing import Any

from simjax.errors import SimjaxError
from simjax.options.option import option, section


@dataclass
class SweepConfig:
    """Many points in one call; a single run has none of these options set. `simjax.explore.axes` has the grammar of values."""

    axes: dict[str, Any] = option({}, 'swept keys with their values: lists, or text such as "linspace(1,20,40)"')
    zip: list[Any] = option([], "mappings like axes whose keys step together and have equally many values")
    points: str | None = option(None, "CSV file of points, a column a key, instead of or in addition to the axes", "FILE.csv")
    seeds: Any = option(None, "workload.seed of the replicates of every point: their number N (0 to N-1), or a list", "N")
    resume: str | None = option(None, "directory of a sweep that was stopped; only the missing points are simulated", "DIR")
    dry_run: bool = option(False, "print what would be simulated (groups, chunks, compilations, memory), and stop")
    shard: str | None = option(None, "k/n, the k-th of n parts of the points; several shards and a Hydra launcher start n jobs", "K/N")
    width: int | None = option(None, "designs simulated side by side; unset: as many as are fastest")

    def __post_init__(self) -> None:
        match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", self.shard or "1/1")
        if match is None or int(match[1]) > int(match[2]):
            raise SimjaxError(f"sweep.shard={self.shard}: it must be a part and how many parts, from 1/4 to 4/4 for four")
        if self.width is not None and self.width < 1:
            raise SimjaxError(f"sweep.width={self.width}: it must be at least 1")

    @property
    def asked(self) -> bool:
        """Whether there is anything to sweep."""
        return bool(self.axes or self.zip or self.points is not None or self.seeds is not None or self.resume is not None)


@dataclass
class ObjectiveConfig:
    """The metrics of a sweep's Pareto front; see `simjax.explore.pareto.objective`."""

    maximize: list[str] = option(["goodput_per_gpu"], "columns of results.csv to maximize")
    minimize: list[str] = option(["ttft_p99_s"], "columns to minimize")
    subject_to: list[str] = option([], "constraints such as ttft_p99_s<=0.5 (also >=, <, >, in the column's unit)", "[...]")
    by: list[str] = option([], "columns, such as model: each of their values has a front of its own")
    tie_break: list[str] = option([], "columns that choose among points which are equal in all metrics, each towards its better end")
    color: list[str] = option([], "columns, such as device, by whose values the figure colours the front; []: those of by")


@dataclass
class OtherObjectiveConfig:
    """`objective` of `simjax pareto`; an unset option is the sweep's own."""

    maximize: list[str] | None = option(None, "columns of results.csv to maximize; unset: the sweep's; []: none", "[COLUMN,...]")
    minimize: list[str] | None = option(None, "columns to minimize; unset: the sweep's; []: none", "[COLUMN,...]")
    subject_to: list[str] | None = option(
        None, "constraints such as ttft_p99_s<=0.5 (also >=, <, >, in the column's unit); unset: the sweep's; []: none", "[...]"
    )
    by: list[str] | None = option(
        None, "columns, each of whose values has a front of its own; unset: the sweep's; []: none", "[COLUMN,...]"
    )
    tie_break: list[str] | None = option(
        None, "columns that choose among points which are equal in all metrics; unset: the sweep's; []: none", "[COLUMN,...]"
    )
    color: list[str] | None = option(None, "columns by whose values the figure colours the front; unset: the sweep's", "[COLUMN,...]")


@dataclass
class ParetoConfig:
    """`simjax pareto`."""

    directory: str | None = option(None, "a sweep's directory, complete or not; for several shards the directory that holds them", "DIR")
    objective: OtherObjectiveConfig = section(
        OtherObjectiveConfig, "metrics of the Pareto front; with several seeds their means are compared"
    )
    out: str | None = option(None, "where pareto.csv and pareto.png go; unset: into the sweep's directory", "DIR")
    plots: bool = option(True, "whether to draw pareto.png")


@dataclass
class ShowPointConfig:
    """`simjax show-point`."""

    directory: str | None = option(None, "a sweep's directory", "DIR")
    point: int | None = option(None, "number of the point, as in the first column of results.csv")
    out: str | None = option(None, "directory of the run's results; unset: a dated one under outputs/", "DIR")
    plots: bool = option(True, "whether to draw plots")


_SPACE = re.compile(r"""(['"]?)\s*(linspace|logspace|geomspace)\s*\((.*)\)\s*\1""", re.DOTALL)


def read_space(text: str) -> tuple[str, str] | None:
    """The name and the arguments, as text, of a form such as `linspace(1,20,40)`, which may be in quotes; None for any other text."""
    match = _SPACE.fullmatch(text.strip())
    return None if match is None else (match[2], match[3])
