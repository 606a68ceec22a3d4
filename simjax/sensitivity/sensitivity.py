"""Sensitivities: by how many percent the metrics of a run change when one of its parameters changes by one percent.

There are two answers. The total derivative, `elasticity`, is what a user would measure: the same requests on both sides of the parameter's
value, all parameters and seeds simulated in one batch. The pathwise one, `gradient`, is the derivative through the engine with its schedule
held (`simjax.sensitivity.pathwise`). Where they differ, the schedule matters: requests wait for others to finish, and steps hold other
requests than before. `kind` chooses one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from simjax.batch.design import Design, RunOptions, design_of, known_warnings, required_timings
from simjax.batch.execute import Row, run_designs
from simjax.batch.groups import make_groups
from simjax.batch.workers import local_workers
from simjax.caveat import grouped
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.latency_source import LatencySource, latency_source
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.config.schema import SensitivityConfig
from simjax.errors import SimjaxError, closest
from simjax.job import about_options, measurement_window, service_levels
from simjax.metrics.catalog import CATALOG
from simjax.metrics.rows import too_few
from simjax.power.source import power_source
from simjax.pricing.rates import prices_of
from simjax.sensitivity.parameters import HELD_BY_STEPS, SensitivityParameter, Setting, sensitivity_parameters
from simjax.sensitivity.pathwise import NUDGE, PATHWISE, pathwise, tangents_of
from simjax.sensitivity.replicates import SeededWorkloads
from simjax.validity.groups import calibrated_groups
from simjax.validity.left import LeftRanges

Progress = Callable[[int, int], None]

DEFAULT_OUTPUTS = ("ttft_mean_s", "ttft_p99_s", "tpot_mean_s", "tpot_p99_s", "e2e_mean_s", "output_tokens_per_s")


@dataclass(frozen=True)
class Effect:
    """The effect of a parameter on an output.

    Attributes:
        output, parameter: their names.
        unit, value: unit and value of the parameter; the value is None where instances differ in it.
        elasticity: d log(output) / d log(parameter), the mean over the seeds; None where the output is 0 or missing on a side, and with
            kind pathwise.
        standard_error: standard error of that mean; None with one seed.
        gradient: the same with the schedule held; None where only the schedule decides, and with kind total.
    """

    output: str
    parameter: str
    unit: str
    value: float | None
    elasticity: float | None
    standard_error: float | None
    gradient: float | None

    @property
    def size(self) -> float:
        """The total effect, or where it was not taken the pathwise one; 0 where neither is known."""
        return abs((self.gradient if self.elasticity is None else self.elasticity) or 0.0)


@dataclass(frozen=True)
class Sensitivity:
    """The effects of all parameters on all outputs.

    Attributes:
        effects: by output, and by the size of the effect on the first output.
        outputs: their values, the mean over the seeds; None where a run has none.
        texts: descriptions of the parameters, by name.
        by_differences: those that have no gradient, with the reason.
        step: relative change of a parameter, in both directions.
        seeds: seeds of the workloads that the numbers are means over.
        warnings: caveats for a reader of the numbers, one line each.
        kind: which derivatives were taken: "total", "pathwise" or "both".
    """

    effects: tuple[Effect, ...]
    outputs: dict[str, float | None]
    texts: dict[str, str]
    by_differences: dict[str, str]
    step: float
    seeds: tuple[int, ...]
    warnings: tuple[str, ...]
    kind: str = "both"

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters, in order."""
        return list(self.texts)

    def effect(self, output: str, parameter: str) -> Effect:
        """The effect of one parameter on one output."""
        return next(x for x in self.effects if (x.output, x.parameter) == (output, parameter))

    def frame(self) -> pd.DataFrame:
        """The columns of sensitivity.csv."""
        return pd.DataFrame([asdict(x) for x in self.effects])

    def report(self) -> dict[str, Any]:
        """The content of sensitivity.json."""
        shared = {"kind": self.kind, "step": self.step, "seeds": list(self.seeds), "outputs": self.outputs, "parameters": self.texts}
        shared |= {"by_differences": self.by_differences}
        return shared | {"effects": [asdict(x) for x in self.effects], "warnings": list(self.warnings)}


def sensitivity(config: SensitivityConfig, on_progress: Progress | None = None) -> Sensitivity:
    """The sensitivities of a run.

    Args:
        config: the run, the outputs and the parameters.
        on_progress: called now and then with (simulations done, all simulations).

    Raises:
        SimjaxError: an output or parameter is unknown or has no effect here, or the run itself is impossible.
    """
    outputs = outputs_of(config)
    cluster = configured_cluster(config)
    workloads = SeededWorkloads(config.workload, config.seeds, cluster.router == "random")
    source = latency_source(config.profile)
    base = Setting(cluster.instances, (source,) * len(cluster.instances), 1.0, workloads.first.concurrency, cluster.disaggregation)
    parameters, left_out = sensitivity_parameters(base, workloads.first, config.parameters)
    one_more = 1.0 + config.step
    varied = [] if config.kind == "pathwise" else parameters
    sides = [parameter.scale(base, factor) for parameter in varied for factor in (1.0 / one_more, one_more)]
    settings = [base, *(setting for setting, _ in sides)]
    timings, left = _timings(settings, workloads), LeftRanges()
    rows = _simulated(config, cluster, source, settings, timings, workloads, left, on_progress)
    shifts = [0.0, *(log for _, log in sides)]
    held = [] if config.kind == "total" else parameters
    gradients = _gradients(config, cluster, base, held, workloads, outputs)
    here = rows[0] or []
    effects = []
    for place, parameter in enumerate(parameters):
        ends = (1 + 2 * place, 2 + 2 * place) if varied else (0, 0)
        low, high = (i if rows[i] is not None else 0 for i in ends)  # an impossible side: the other one alone
        pairs = list(zip(rows[low] or [], rows[high] or [], strict=True))
        for name in outputs:
            mean, error = _elasticity([(a[name], b[name]) for a, b in pairs], shifts[high] - shifts[low])
            gradient = gradients.get((name, parameter.name))
            effects.append(Effect(name, parameter.name, parameter.unit, parameter.value, mean, error, gradient))
    warnings = left.warnings_of_sweep(known_warnings(cluster.instances, timings[0], workloads.longest_tokens), "runs")
    warnings = grouped(
        [
            *about_options(config),
            *warnings,
            *too_few(here),
            *left_out,
            *_not_finished(rows),
            *_within_steps(effects, varied, config.step),
        ]
    )
    ranked = _ranked(effects, outputs)
    by_rank = sorted(parameters, key=lambda x: ranked.index(x.name))
    texts = {x.name: x.text for x in by_rank}
    differences = {x.name: x.by_differences for x in by_rank if x.by_differences}
    ordered = sorted(effects, key=lambda x: (outputs.index(x.output), ranked.index(x.parameter)))
    values = {name: _mean([row[name] for row in here]) for name in outputs}
    return Sensitivity(tuple(ordered), values, texts, differences, config.step, workloads.seeds, warnings, config.kind)


def outputs_of(config: SensitivityConfig) -> list[str]:
    """The outputs that a configuration asks for.

    Raises:
        SimjaxError: there is no such output, or it needs limits that are not set.
    """
    limits = service_levels(config.slo) is not None
    for name in config.outputs:
        if name not in CATALOG:
            raise SimjaxError(f"outputs: there is no output '{name}'; {closest(name, list(CATALOG))}")
        if "limits" in CATALOG[name].needs and not limits:
            raise SimjaxError(f"outputs: {name} needs a limit: set slo.ttft_s, slo.tpot_s or slo.e2e_s")
        if "power" in CATALOG[name].needs and config.power.model == "none":
            raise SimjaxError(f"outputs: {name} needs power: set power=utilization")
        if "prices" in CATALOG[name].needs and prices_of(config.price) is None:
            raise SimjaxError(f"outputs: {name} needs prices: set price=rented, or price.grid for carbon")
    return list(dict.fromkeys(config.outputs)) or [*DEFAULT_OUTPUTS, *(["goodput_requests_per_s"] if limits else [])]


def _timings(settings: Sequence[Setting], workloads: SeededWorkloads) -> list[ClusterTiming]:
    """The step times of the settings, rows of one table."""
    return required_timings([x.instances for x in settings], [x.sources for x in settings], workloads.all)


def _simulated(
    config: SensitivityConfig,
    cluster: ClusterSpec,
    source: LatencySource,
    settings: Sequence[Setting],
    timings: Sequence[ClusterTiming],
    workloads: SeededWorkloads,
    left: LeftRanges,
    on_progress: Progress | None,
) -> list[list[Row] | None]:
    """A row for each seed of every setting, all simulated side by side; None for a setting that cannot serve its requests.

    `left` records the calibrated ranges that the first setting, the run itself, leaves.
    """
    designs: dict[int, Design] = {}
    sim, slo, count = config.sim, service_levels(config.slo), len(workloads.seeds)
    window = measurement_window(config.metrics)
    power, prices = power_source(config.power, config.cluster.file), prices_of(config.price)
    if power is not None and power.slows:
        raise SimjaxError("power: caps and clocks have no sensitivities yet; leave power.cap_w, power.node_cap_w and power.clock out")
    options = RunOptions(leap=sim.leap, max_ticks=sim.max_ticks, slo=slo, activity=sim.activity, window=window)
    options = options._replace(power=power, prices=prices)
    impossible: set[int] = set()
    for i, (setting, timing) in enumerate(zip(settings, timings, strict=True)):
        spec = replace(cluster, instances=setting.instances, disaggregation=setting.disaggregation)
        calibrated = calibrated_groups(cluster, source) if i == 0 else ()
        for s, seed in enumerate(workloads.seeds):
            workload, requests = workloads.of(seed, setting)
            try:
                designs[i * count + s] = design_of(spec, timing, workload, options._replace(seed=seed), requests, calibrated)
            except SimjaxError:
                if i == 0:
                    raise
                impossible.add(i)
                break
    designs = {number: design for number, design in designs.items() if number // count not in impossible}
    workers, rows = local_workers(), dict[int, Row]()
    for found in run_designs(designs, make_groups(designs, workers), workers, left=left):
        for row in found:
            if row["status"] == "error":
                raise SimjaxError(row["reason"])
            rows[row["point"]] = row
        if on_progress is not None:
            on_progress(len(rows), len(designs))
    return [None if i in impossible else [rows[i * count + s] for s in range(count)] for i in range(len(settings))]


def _gradients(
    config: SensitivityConfig,
    cluster: ClusterSpec,
    base: Setting,
    parameters: Sequence[SensitivityParameter],
    workloads: SeededWorkloads,
    outputs: Sequence[str],
) -> dict[tuple[str, str], float]:
    """D log(output) / d log(parameter) with the schedule held, the mean over the seeds, of outputs and parameters that have one."""
    smooth, names = [x for x in parameters if x.smooth], [name for name in outputs if name in PATHWISE]
    if not smooth or not names:
        return {}
    sides = [(x.scale(base, 1.0 / (1.0 + NUDGE)), x.scale(base, 1.0 + NUDGE)) for x in smooth]
    first, *others = _timings([base, *(setting for pair in sides for setting, _ in pair)], workloads)
    logs = [high - low for (_, low), (_, high) in sides]
    timings, tangents = tangents_of(first, list(zip(others[::2], others[1::2], logs, strict=True)))
    relative, window = [], measurement_window(config.metrics)
    for seed in workloads.seeds:
        workload, requests = workloads.of(seed, base)
        lowered = design_of(cluster, timings, workload, RunOptions(seed=seed, leap=config.sim.leap), requests).lowered
        values, derivatives = pathwise(cluster, lowered, tangents, names, config.sim.max_ticks, window=window)
        relative.append(derivatives / np.where(values > 0.0, values, 1.0)[:, None])
    mean = np.mean(relative, axis=0) + 0.0  # no negative zeros
    return {(name, x.name): float(mean[i, k]) for i, name in enumerate(names) for k, x in enumerate(smooth)}


def _elasticity(sides: Sequence[tuple[Any, Any]], span: float) -> tuple[float | None, float | None]:
    """The mean slope between both sides' outputs over the seeds, and its standard error; `span` is the log of the parameter's ratio."""
    if span == 0.0 or any(not low or not high for low, high in sides):
        return None, None
    slopes = [math.log(high / low) / span for low, high in sides]
    error = float(np.std(slopes, ddof=1)) / math.sqrt(len(slopes)) if len(slopes) > 1 else None
    return float(np.mean(slopes)), error


def _mean(values: Sequence[Any]) -> float | None:
    return None if any(x is None for x in values) else float(np.mean(values))


def _ranked(effects: Sequence[Effect], outputs: Sequence[str]) -> list[str]:
    """The parameters by the size of their effect on the first output, then on the others."""
    sizes: dict[str, list[float]] = {}
    for output in outputs:
        for effect in effects:
            if effect.output == output:
                sizes.setdefault(effect.parameter, []).append(-effect.size)
    return sorted(sizes, key=lambda name: sizes[name])


def _not_finished(rows: Sequence[list[Row] | None]) -> list[str]:
    """A line if a simulation was cut: its numbers cover the requests that had finished."""
    every = [row for of_setting in rows if of_setting is not None for row in of_setting]
    cut = sum(row["status"] != "finished" for row in every)
    return [f"{cut:,} of {len(every):,} simulations did not finish: their numbers cover the requests that did"] if cut else []


def _within_steps(effects: Sequence[Effect], parameters: Sequence[SensitivityParameter], step: float) -> list[str]:
    """A line if parameters of transfers have moved no output: their change was shorter than what is left of a step."""
    moved = {x.parameter for x in effects if x.elasticity}
    names = [x.name for x in parameters if x.by_differences == HELD_BY_STEPS and x.name not in moved]
    if not names:
        return []
    return [f"{', '.join(names)}: no effect at step={step:g}, which is too little to cross the end of a decode step; a larger step may"]
