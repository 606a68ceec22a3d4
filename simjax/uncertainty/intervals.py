"""Intervals for the metrics of a run: simulations with drawn parameters, all of them side by side, and their quantiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from simjax.batch.design import RunOptions
from simjax.batch.execute import Row
from simjax.caveat import Estimate
from simjax.cluster.latency_source import LatencySource, latency_source
from simjax.config.schema import RunConfig, UncertaintyConfig
from simjax.engine.simulate import DEFAULT_MAX_TICKS
from simjax.errors import SimjaxError
from simjax.job import Run, measurement_window, run, service_levels
from simjax.latency.parameters import PARALLEL, parallel_effects
from simjax.metrics.catalog import CATALOG, Catalog
from simjax.metrics.rows import METRICS
from simjax.metrics.slo import Slo
from simjax.metrics.steady.window import AUTOMATIC, Window
from simjax.metrics.summary import put
from simjax.uncertainty.draw_batch import DrawnRun, simulate_values
from simjax.uncertainty.draws import Values, draw_together
from simjax.uncertainty.widths import widths
from simjax.validity.groups import InstanceGroup, instance_groups, same_profile
from simjax.validity.reach import reach
from simjax.workload import build_workload
from simjax.workload.config import WorkloadConfig
from simjax.workload.synthetic.draw import without_messages
from simjax.workload.synthetic.extent import longest
from simjax.workload.workload import Workload

Progress = Callable[[int, int], None]

DEFAULT_DRAWS = 64


@dataclass(frozen=True)
class Draws:
    """A run simulated again with drawn parameters.

    Attributes:
        level: probability of the intervals.
        values: the parameters of each draw; where several groups of instances have their own, names begin with the group.
        rows: `status` and the metrics `simjax.metrics.rows.METRICS` of each draw.
        slo: whether the rows' attainment and goodput refer to limits that the user set.
        covers_load: whether each draw has requests of its own: then the intervals cover the randomness of the load too.
        warnings: caveats for a reader of the intervals, one line each.
    """

    level: float
    values: tuple[Values, ...]
    rows: tuple[Row, ...]
    slo: bool
    covers_load: bool
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def interval(self, metric: str) -> list[float] | None:
        """[low, high] of a metric over the draws that have it, with equal probability on both sides; None when no draw has it.

        Quantiles are the median-unbiased ones: with numpy's linear ones a 90 % interval of 64 draws would cover 88 %.
        """
        known = [row[metric] for row in self.rows if row[metric] is not None]
        if not known:
            return None
        tail = (1.0 - self.level) / 2.0
        return [float(x) for x in np.quantile(np.array(known, np.float64), [tail, 1.0 - tail], method="median_unbiased")]

    def intervals(self, catalog: Catalog = CATALOG) -> dict[str, Any]:
        """The content of `intervals` in summary.json: as in the summary, with [low, high] in place of numbers.

        Only metrics with `interval` are there. The inter-token latency is not among them: draws keep no log of their steps.
        """
        found: dict[str, Any] = {"level": self.level, "draws": len(self), "covers_load": self.covers_load}
        for metric in catalog.values():
            if metric.interval and metric.path and (self.slo or "limits" not in metric.needs):
                put(found, metric.path, self.interval(metric.name))
        return found

    def frame(self) -> pd.DataFrame:
        """The table draws.csv: number of the draw, its parameters, status and metrics."""
        columns = ("status", *METRICS)
        rows = [{**values, **{name: row[name] for name in columns}} for values, row in zip(self.values, self.rows, strict=True)]
        return pd.DataFrame(rows).rename_axis("draw").reset_index()


def run_draws(config: RunConfig, done: Run | None = None, on_progress: Progress | None = None) -> Draws:
    """The draws that a configuration asks for (`simjax run` with `uncertainty.draws`).

        done = simjax.run(config)
        simjax.run_draws(config, done).intervals()["ttft_s"]["p99"]

    Args:
        config: the configuration; 64 draws where `uncertainty.draws` is 0.
        done: its run; None to simulate it here.
        on_progress: called now and then with (draws done, all draws).

    Raises:
        SimjaxError: step times come from tables, which have no uncertain parameters, or the run itself is impossible.
    """
    check_source(config)
    done = run(config) if done is None else done
    asked = config.uncertainty if config.uncertainty.draws else replace(config.uncertainty, draws=DEFAULT_DRAWS)
    return simulate_draws(
        done,
        latency_source(config.profile),
        asked,
        seed=config.workload.seed,
        leap=config.sim.leap,
        max_ticks=config.sim.max_ticks,
        slo=service_levels(config.slo),
        window=measurement_window(config.metrics),
        seeded=_seeded(config.workload, done) if asked.load else None,
        on_progress=on_progress,
    )


def _seeded(config: WorkloadConfig, done: Run) -> Callable[[int], Workload] | None:
    """The workload of a run with other seeds, as long as it; None for a recorded one, which has no others."""
    if config.kind == "trace":
        return None

    def of(config: WorkloadConfig) -> Workload:
        with without_messages():
            return build_workload(config)

    longer = longest(config)
    if longer is not None and len(of(config)) != len(done.workload):
        config = longer
    return lambda seed: of(replace(config, seed=seed))


def check_source(config: RunConfig) -> None:
    """Check that a configuration takes its step times from a profile.

    Raises:
        SimjaxError: they come from measured tables, which have no uncertain parameters.
    """
    if config.profile.bundle_root is not None:
        raise SimjaxError(
            "uncertainty.draws needs a latency profile, whose parameters can be drawn; profile.bundle_root has tables "
            "(`simjax calibrate` makes a profile of them)"
        )


def simulate_draws(
    done: Run,
    source: LatencySource,
    asked: UncertaintyConfig,
    *,
    seed: int = 0,
    leap: bool = True,
    max_ticks: int = DEFAULT_MAX_TICKS,
    slo: Slo | None = None,
    window: Window = AUTOMATIC,
    seeded: Callable[[int], Workload] | None = None,
    on_progress: Progress | None = None,
) -> Draws:
    """Simulate a run with drawn parameters. Parameters of the source itself (`profile.parameters`) are what the draws are around; its
    host times (`profile.step_s` and the like) are taken to be known.

    Args:
        done: the run with its leap log, which shows how far it goes beyond a calibration and how many requests its instances hold.
        source: source of its step times, a profile.
        asked: number of draws, level of the intervals, and seed of the draws.
        seed: seed of the random router.
        leap: take pure-decode steps many at a time.
        max_ticks: bound on the length of each draw, in ticks.
        slo: limits for goodput.
        window: what is left out of the metrics.
        seeded: workload of a seed: each draw then has requests of its own. None: all have those of the run.
        on_progress: called now and then with (draws done, all draws).

    Raises:
        SimjaxError: a draw cannot be simulated.
    """
    groups = instance_groups(done.cluster, source)
    values = [
        tuple({name: value for name, value in of_group.items() if getattr(source, name, None) is None} for of_group in draw)
        for draw in _values(done, groups, asked)
    ]
    options = RunOptions(seed, leap, max_ticks, slo, window=window)
    rows: dict[int, Row] = {}
    for some in simulate_values(DrawnRun(done, source, groups, options, seeded), values):
        for row in some:
            if row["status"] == "error":
                raise SimjaxError(f"draw {row['point']}: {row['reason']}")
            rows[row["point"]] = row
        if on_progress is not None:
            on_progress(len(rows), len(values))
    ordered = tuple(rows[draw] for draw in range(len(values)))
    named = tuple(_named(draw, groups) for draw in values)
    return Draws(asked.level, named, ordered, slo is not None, seeded is not None, tuple(_warnings(ordered, groups, asked)))


def _values(done: Run, groups: Sequence[InstanceGroup], asked: UncertaintyConfig) -> list[tuple[Values, ...]]:
    """The values of each group of instances in each draw."""
    drawn: dict[int, list[Values]] = {}
    firsts = [x for number, x in enumerate(groups) if not any(same_profile(x.profile, y.profile) for y in groups[:number])]
    for number, first in enumerate(firsts):
        kinds = [k for k, x in enumerate(groups) if same_profile(x.profile, first.profile)]
        wide = [widths(groups[k], reach(done.cluster.instances, done.result, groups[k].indices)) for k in kinds]
        mine = [done.cluster.instances[index].deployment for k in kinds for index in groups[k].indices]
        effects = {name for deployment in mine for name in parallel_effects(deployment)}
        parallel = [name for name in PARALLEL if name in effects]
        found = draw_together(first.profile, asked.draws, (asked.seed, number), wide, parallel)
        drawn |= {k: [draw[place] for draw in found] for place, k in enumerate(kinds)}
    return list(zip(*(drawn[k] for k in range(len(groups))), strict=True))


def _named(draw: tuple[Values, ...], groups: Sequence[InstanceGroup]) -> Values:
    if len(groups) == 1:
        return draw[0]
    kinds = [f"{x.model.name} TP{x.tensor_parallel_size} on {x.profile.device}" for x in groups]
    return {f"{kind}: {name}": value for kind, values in zip(kinds, draw, strict=True) for name, value in values.items()}


def _warnings(rows: Sequence[Row], groups: Sequence[InstanceGroup], asked: UncertaintyConfig) -> list[str]:
    lines = []
    for source in dict.fromkeys(x.profile.source for x in groups if x.profile.calibration is None):
        lines.append(
            Estimate(f"{source}: not calibrated, so intervals are those of its priors; `simjax calibrate` fits it to measured runs")
        )
    needed = math.ceil(round(4.0 / 3.0 / (1.0 - asked.level) - 1.0 / 3.0, 6))  # below, quantiles in `Draws.interval` are extremes
    if len(rows) < needed:
        lines.append(f"uncertainty.draws={len(rows)} is too few for level={asked.level:g}, which needs {needed}; intervals are their range")
    if unfinished := sum(row["status"] != "finished" for row in rows):
        lines.append(f"{unfinished} of {len(rows)} draws did not finish; their numbers cover the requests that did")
    return lines
