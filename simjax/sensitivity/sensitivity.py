"""What would help most: by how many percent the numbers of a run change when one of its parameters does by one percent.

Two answers. The elasticity is what a user would measure: the same requests on both sides of the parameter's value, all parameters and seeds
simulated in one batch. The gradient is the derivative through the engine with its schedule held (`simjax.sensitivity.pathwise`). Where they
differ, it is the schedule that counts: requests that wait for another one to finish, steps that hold others than before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from simjax.batch.execute import Row, run_designs
from simjax.batch.groups import make_groups
from simjax.batch.workers import local_workers
from simjax.cluster.from_config import build_cluster, latency_source
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming, cluster_timings
from simjax.cluster.warnings import beyond_context, refused_by_vllm
from simjax.config.schema import SensitivityConfig
from simjax.engine.host.lower import lower
from simjax.errors import SimjaxError, closest
from simjax.explore.resolve import Design
from simjax.job import service_levels
from simjax.metrics.catalog import CATALOG
from simjax.metrics.rows import too_few
from simjax.sensitivity.parameters import Knob, Setting, knobs_of
from simjax.sensitivity.pathwise import NUDGE, PATHWISE, pathwise, tangents_of
from simjax.sensitivity.replicates import Loads

Progress = Callable[[int, int], None]

DEFAULT_OUTPUTS = ("ttft_mean_s", "ttft_p99_s", "tpot_mean_s", "tpot_p99_s", "e2e_mean_s", "output_tokens_per_s")


@dataclass(frozen=True)
class Effect:
    """What a parameter does to an output.

    Attributes:
        output, parameter: names.
        unit, value: of the parameter; None where engines differ in it.
        elasticity: d log(output) / d log(parameter), the mean over the seeds; None where the output is 0 or missing on a side.
        standard_error: of that mean; None with one seed.
        gradient: the same with the schedule held; None where only the schedule decides.
    """

    output: str
    parameter: str
    unit: str
    value: float | None
    elasticity: float | None
    standard_error: float | None
    gradient: float | None


@dataclass(frozen=True)
class Sensitivity:
    """The effects of all parameters on all outputs.

    Attributes:
        effects: by output, and by the size of the effect on the first output.
        outputs: their values, the mean over the seeds; None where a run has none.
        texts: what the parameters are.
        step: relative change of a parameter, in both directions.
        seeds: of the workloads that the numbers are means over.
        warnings: what a reader must know.
    """

    effects: tuple[Effect, ...]
    outputs: dict[str, float | None]
    texts: dict[str, str]
    step: float
    seeds: tuple[int, ...]
    warnings: tuple[str, ...]

    @property
    def parameters(self) -> list[str]:
        """Their names, in order."""
        return list(self.texts)

    def effect(self, output: str, parameter: str) -> Effect:
        """That of one parameter on one output."""
        return next(x for x in self.effects if (x.output, x.parameter) == (output, parameter))

    def frame(self) -> pd.DataFrame:
        """The columns of sensitivity.csv."""
        return pd.DataFrame([asdict(x) for x in self.effects])

    def report(self) -> dict[str, Any]:
        """The content of sensitivity.json."""
        shared = {"step": self.step, "seeds": list(self.seeds), "outputs": self.outputs, "parameters": self.texts}
        return shared | {"effects": [asdict(x) for x in self.effects], "warnings": list(self.warnings)}


def sensitivity(config: SensitivityConfig, on_progress: Progress | None = None) -> Sensitivity:
    """The sensitivities of a run.

    Args:
        config: the run, and what to look at.
        on_progress: called now and then with (simulations done, in all).

    Raises:
        SimjaxError: an output or parameter is unknown or has no effect here, or the run itself is impossible.
    """
    outputs = outputs_of(config)
    cluster = build_cluster(config.model, config.device, config.cluster, config.scheduler)
    loads = Loads(config.workload, config.seeds, cluster.router == "random")
    source = latency_source(config.profile)
    base = Setting(cluster.instances, (source,) * len(cluster.instances), 1.0, loads.first.concurrency)
    knobs, notes = knobs_of(base, loads.first, config.parameters)
    one_more = 1.0 + config.step
    sides = [knob.turn(base, factor) for knob in knobs for factor in (1.0 / one_more, one_more)]
    settings = [base, *(setting for setting, _ in sides)]
    timings = _priced(settings, loads)
    rows = _simulated(config, cluster, settings, timings, loads, on_progress)
    shifts = [0.0, *(log for _, log in sides)]
    gradients = _gradients(config, cluster, base, knobs, loads, outputs)
    here = rows[0] or []
    effects = []
    for place, knob in enumerate(knobs):
        low, high = (i if rows[i] is not None else 0 for i in (1 + 2 * place, 2 + 2 * place))  # an impossible side: the other one alone
        pairs = list(zip(rows[low] or [], rows[high] or [], strict=True))
        for name in outputs:
            mean, error = _elasticity([(a[name], b[name]) for a, b in pairs], shifts[high] - shifts[low])
            effects.append(Effect(name, knob.name, knob.unit, knob.value, mean, error, gradients.get((name, knob.name))))
    warnings = [*refused_by_vllm(cluster.instances), *timings[0].warnings, *beyond_context(timings[0].measured, loads.longest_tokens)]
    warnings += [*too_few(here), *notes, *_not_finished(rows)]
    ranked = _ranked(effects, outputs)
    texts = {knob.name: knob.text for knob in sorted(knobs, key=lambda knob: ranked.index(knob.name))}
    ordered = sorted(effects, key=lambda x: (outputs.index(x.output), ranked.index(x.parameter)))
    values = {name: _mean([row[name] for row in here]) for name in outputs}
    return Sensitivity(tuple(ordered), values, texts, config.step, loads.seeds, tuple(dict.fromkeys(warnings)))


def outputs_of(config: SensitivityConfig) -> list[str]:
    """The outputs that a configuration asks for.

    Raises:
        SimjaxError: there is no such output, or it needs limits that are not set.
    """
    limits = service_levels(config.slo) is not None
    for name in config.outputs:
        if name not in CATALOG and any(word in name for word in ("energy", "power", "joule", "watt")):
            raise SimjaxError(f"outputs: {name}: energy is not simulated in this version; leave it out")
        if name not in CATALOG:
            raise SimjaxError(f"outputs: there is no output '{name}'; {closest(name, list(CATALOG))}")
        if "limits" in CATALOG[name].needs and not limits:
            raise SimjaxError(f"outputs: {name} needs a limit: set slo.ttft_s, slo.tpot_s or slo.e2e_s")
    return list(dict.fromkeys(config.outputs)) or [*DEFAULT_OUTPUTS, *(["goodput_requests_per_s"] if limits else [])]


def _priced(settings: Sequence[Setting], loads: Loads) -> list[ClusterTiming]:
    """The prices of the settings, which share one table of costs."""
    timings: list[ClusterTiming] = []
    for timing in cluster_timings([x.instances for x in settings], [x.sources for x in settings], loads.tokens, loads.requests):
        if isinstance(timing, SimjaxError):
            raise timing
        timings.append(timing)
    return timings


def _simulated(
    config: SensitivityConfig,
    cluster: ClusterSpec,
    settings: Sequence[Setting],
    timings: Sequence[ClusterTiming],
    loads: Loads,
    tell: Progress | None,
) -> list[list[Row] | None]:
    """A row a seed of every setting, all simulated side by side; None for a setting that cannot serve its requests."""
    designs: dict[int, Design] = {}
    slo, count = service_levels(config.slo), len(loads.seeds)
    impossible: set[int] = set()
    for i, (setting, timing) in enumerate(zip(settings, timings, strict=True)):
        spec = replace(cluster, instances=setting.instances)
        for s, seed in enumerate(loads.seeds):
            workload, requests = loads.of(seed, setting)
            try:
                lowered = lower(spec, timing, workload, seed=seed, leap=config.sim.leap, log=False, requests=requests)
            except SimjaxError:
                if i == 0:
                    raise
                impossible.add(i)
                break
            designs[i * count + s] = Design(lowered, slo, cluster.num_devices, config.sim.max_ticks)
    designs = {number: design for number, design in designs.items() if number // count not in impossible}
    workers, rows = local_workers(), dict[int, Row]()
    for found in run_designs(designs, make_groups(designs, workers), workers):
        for row in found:
            if row["status"] == "error":
                raise SimjaxError(row["reason"])
            rows[row["point"]] = row
        if tell is not None:
            tell(len(rows), len(designs))
    return [None if i in impossible else [rows[i * count + s] for s in range(count)] for i in range(len(settings))]


def _gradients(
    config: SensitivityConfig, cluster: ClusterSpec, base: Setting, knobs: Sequence[Knob], loads: Loads, outputs: Sequence[str]
) -> dict[tuple[str, str], float]:
    """D log(output) / d log(parameter) with the schedule held, the mean over the seeds, of outputs and parameters that have one."""
    knobs, names = [knob for knob in knobs if knob.smooth], [name for name in outputs if name in PATHWISE]
    if not knobs or not names:
        return {}
    sides = [(knob.turn(base, 1.0 / (1.0 + NUDGE)), knob.turn(base, 1.0 + NUDGE)) for knob in knobs]
    first, *others = _priced([base, *(setting for pair in sides for setting, _ in pair)], loads)
    logs = [high - low for (_, low), (_, high) in sides]
    timings, tangents = tangents_of(first, list(zip(others[::2], others[1::2], logs, strict=True)))
    relative = []
    for seed in loads.seeds:
        workload, requests = loads.of(seed, base)
        lowered = lower(cluster, timings, workload, seed=seed, leap=config.sim.leap, log=False, requests=requests)
        values, derivatives = pathwise(cluster, lowered, tangents, names, config.sim.max_ticks)
        relative.append(derivatives / np.where(values > 0.0, values, 1.0)[:, None])
    mean = np.mean(relative, axis=0) + 0.0  # no negative zeros
    return {(name, knob.name): float(mean[i, k]) for i, name in enumerate(names) for k, knob in enumerate(knobs)}


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
                sizes.setdefault(effect.parameter, []).append(-abs(effect.elasticity or 0.0))
    return sorted(sizes, key=lambda name: sizes[name])


def _not_finished(rows: Sequence[list[Row] | None]) -> list[str]:
    """A line when some simulation was cut: its numbers are of the requests that had finished."""
    every = [row for of_setting in rows if of_setting is not None for row in of_setting]
    cut = sum(row["status"] != "finished" for row in every)
    return [f"{cut:,} of {len(every):,} simulations did not finish: their numbers are of those requests that did"] if cut else []
