"""The parts of the schema that sweeps have: what to sweep, what to look for, and the commands on a sweep's directory.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from simjax.errors import SimjaxError


@dataclass
class SweepConfig:
    """Many points in one call; what is set here is set for no single run. See `simjax.explore.axes` for how values are written.

    Attributes:
        axes: swept keys with their values, a list or text such as "linspace(1,20,40)"; all combinations are simulated.
        zip: mappings like `axes` whose keys step together and so need equally many values.
        points: CSV file with a column a key, instead of or beside the axes.
        seeds: every point is simulated with each of these workload.seed: how many (0 to n - 1), or a list.
        resume: directory of a sweep that was stopped; only what it still lacks is simulated.
        dry_run: print what would be simulated, and stop.
        shard: "k/n", the k-th (from 1) of n parts of the points, for as many processes or hosts.
        width: designs simulated side by side; unset: as many as are fastest.
    """

    axes: dict[str, Any] = field(default_factory=dict)
    zip: list[Any] = field(default_factory=list)
    points: str | None = None
    seeds: Any = None
    resume: str | None = None
    dry_run: bool = False
    shard: str | None = None
    width: int | None = None

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
    """What a sweep's Pareto front is made of; see `simjax.explore.pareto.objective`.

    Attributes:
        maximize, minimize: columns of the sweep's table.
        subject_to: limits on columns such as "ttft_p99_s<=0.5" (also >=, < and >); points outside of them do not count.
    """

    maximize: list[str] = field(default_factory=lambda: ["goodput_per_gpu"])
    minimize: list[str] = field(default_factory=lambda: ["ttft_p99_s"])
    subject_to: list[str] = field(default_factory=list)


@dataclass
class OtherObjectiveConfig:
    """`objective` of `simjax pareto`: as in `ObjectiveConfig`; what is unset is the sweep's own."""

    maximize: list[str] | None = None
    minimize: list[str] | None = None
    subject_to: list[str] | None = None


@dataclass
class ParetoConfig:
    """`simjax pareto`.

    Attributes:
        directory: a sweep's.
        objective: what to look for instead of what the sweep looked for.
        out: where pareto.csv and pareto.png go; unset: into the sweep's directory.
        plots: whether to draw.
    """

    directory: str | None = None
    objective: OtherObjectiveConfig = field(default_factory=OtherObjectiveConfig)
    out: str | None = None
    plots: bool = True


@dataclass
class ShowPointConfig:
    """`simjax show-point`.

    Attributes:
        directory: a sweep's.
        point: the number of a point, as in the table's first column.
        out, plots: of its single run, as in `simjax run`.
    """

    directory: str | None = None
    point: int | None = None
    out: str | None = None
    plots: bool = True
