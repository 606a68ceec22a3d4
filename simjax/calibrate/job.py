"""Calibrations: from measured runs to a calibrated profile and how well it reproduces them."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from simjax.calibrate.base import base_profile
from simjax.calibrate.fit import Fit, FitOptions, Progress, fit
from simjax.calibrate.posterior import Posterior, laplace, log_sd, parameter_rows, transformed_covariance
from simjax.calibrate.prepared_run import prepare_measured
from simjax.calibrate.scores import poor, scored
from simjax.calibrate.search.gradient_fit import fit_by_gradient
from simjax.calibrate.space import Choices, Coverage, Space, space_of
from simjax.calibrate.targets.measured_run import LossWeights, RunTarget, Target
from simjax.calibrate.targets.points import MeanPoint, read_points
from simjax.calibrate.targets.points_target import PointsTarget, alike
from simjax.calibrate.targets.tables_target import TablesTarget
from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import HOST_TIMES, LatencySource, latency_source
from simjax.cluster.spec import ClusterSpec
from simjax.config.calibrate import CalibrateConfig, ParameterConfig
from simjax.config.schema import ProfileConfig
from simjax.disk.checkpoint import Checkpoint, NoCheckpoint
from simjax.disk.files import sha256_of
from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec, load_device
from simjax.job import Run, simulate_cluster
from simjax.latency.parameters import parallel_effects, with_parameters
from simjax.latency.priors import VLLM
from simjax.latency.profiles.file import load_profile, save_profile
from simjax.latency.profiles.profile import Calibration, LatencyProfile, Seen, ValidRange
from simjax.metrics.latency import latencies
from simjax.model.precision import FP8
from simjax.uncertainty.widths import PRIOR_SD
from simjax.validate.compare import measured_requests
from simjax.validate.contents import unknown_contents
from simjax.validate.replay import asked_for, measured_cluster, read_to_replay, release, remedy, with_presumption
from simjax.validate.run import MeasuredRun
from simjax.validity.reach import reach

logger = logging.getLogger(__name__)

# Number of starts of a fit: as many as take seconds; half of them may end in a valley that is not the deepest.
LEAST_STARTS, MOST_STARTS, STARTED_REQUESTS = 4, 8, 2400
FITTED, HELD_OUT = "fitted", "held out"
LEAST_DISCREPANCY = 0.01  # of the logarithm of a step's time: kernels of neighbouring sizes are farther than that from any smooth curve


@dataclass(frozen=True)
class MeasuredDeployment:
    """A measured run and the cluster that served it."""

    run: MeasuredRun
    cluster: ClusterSpec


@dataclass(frozen=True)
class Scored:
    """A measured run under the calibrated profile.

    Attributes:
        measured: the recording.
        run: its simulation with the calibrated profile.
        role: `FITTED` or `HELD_OUT`.
        before, after: comparisons by the profile that the calibration started from and by the calibrated one.
    """

    measured: MeasuredRun
    run: Run
    role: str
    before: dict[str, Any]
    after: dict[str, Any]


@dataclass(frozen=True)
class Calibrated:
    """A finished calibration.

    Attributes:
        profile: the calibrated profile, as read back from its file.
        fit, space, posterior: the end of the fit, the coordinates in which it was found, and its uncertainty.
        rows: one mapping for each parameter, see `parameter_rows`.
        scores: the fitted runs (the parts that were fitted, and the others), then those held out.
        problems: reasons why this is no success, one line each; empty when it is one.
        warnings: what to know of a success, too, one line each.
    """

    profile: LatencyProfile
    fit: Fit
    space: Space
    posterior: Posterior
    rows: list[dict[str, Any]]
    scores: list[Scored]
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def calibrate(
    config: CalibrateConfig, profile_path: Path, on_progress: Progress | None = None, state_path: Path | None = None
) -> Calibrated:
    """Fit a profile to measured runs and write it.

    Args:
        config: measurements, parameters and options of the fit.
        profile_path: file to which the profile is written; the scores are those of the numbers in that file.
        on_progress: called with (trial steps, most trial steps, best loss).
        state_path: file in which the state of the fit is kept until its end; the same call goes on from it after an interrupt.

    Raises:
        SimjaxError: a run, a profile or an option is missing or malformed, or the runs are not of one device.
    """
    runs = _read([*config.measured_paths(), *config.held_out], config)
    fitted, held_out = runs[: len(config.measured_paths())], runs[len(config.measured_paths()) :]
    device = _one_device(runs, config.device)
    for x in runs:
        for line in x.run.replay_notes:
            logger.warning("%s: %s", x.run.name, line)
        if (unknown := unknown_contents(x.run, x.cluster)) is not None:
            logger.warning("%s", unknown)
    points = _points(config, device)
    models = [x.cluster.instances[0].model for x in (*fitted, *held_out)]
    base = base_profile(_without_parameters(config.profile), device, models)
    base = with_parameters(base, {name: float(value) for name, value in config.profile.parameters.items()})
    instances = [(VLLM, x) for run in fitted for x in run.cluster.instances] + [(x.known_backend, x.instance) for x in points]
    space = _space(base, instances or [(VLLM, x) for run in held_out for x in run.cluster.instances], config)
    weights = LossWeights(outlier=config.loss.outlier).scaled(config.loss.weight)
    targets = [_target(x, base, weights, config.fit.first_fraction) for x in fitted]
    others: list[Target] = [TablesTarget.of(folder, device=device) for folder in config.tables]
    others += [PointsTarget.of(some, base) for some in alike(points)]
    if not targets and not others:
        raise SimjaxError("nothing to fit to: give measured=[DIR,...], tables=[DIR,...] or points.file=FILE")
    checkpoint = NoCheckpoint() if state_path is None else Checkpoint(state_path, _problem(config, base, space))
    found = _fit(targets, others, base, space, config, on_progress, checkpoint)
    posterior = laplace(found, sum(target.observations for target in (*targets, *others)))
    profile = with_parameters(base, {k: float(v) for k, v in space.values(found.u).items()})
    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.yaml", Path(folder) / "after.yaml"
        save_profile(base, before)
        save_profile(profile, after)
        runs = [(_simulate(x, before), _simulate(x, after)) for x in (*fitted, *held_out)]
        of_fitted = [done for _, done in runs[: len(fitted)]]
        save_profile(_described(profile, base, space, posterior, fitted, of_fitted, targets, points, config), profile_path)
    checkpoint.remove()
    profile = load_profile(profile_path)
    scores = _scores(config, [x.run for x in (*fitted, *held_out)], runs, targets)
    rows = parameter_rows(space, posterior, profile)
    return Calibrated(profile, found, space, posterior, rows, scores, _problems(scores, found), _warnings(rows))


def _problem(config: CalibrateConfig, base: LatencyProfile, space: Space) -> str:
    """A hash of all that the fit depends on: its options, its measurements, the profile that it begins with, and the programs."""
    files = [*config.measured_paths(), *config.tables, *config.workload.paths(), *([config.points.file] if config.points.file else [])]
    options = replace(config, out=None, plots=False)
    parts = [repr(options), repr(base), repr(space), *map(sha256_of, map(Path, files)), version("simjax"), version("jax")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _read(paths: Sequence[str], config: CalibrateConfig) -> list[MeasuredDeployment]:
    traces = [Path(path) for path in config.workload.paths()]
    runs = read_to_replay([Path(path) for path in paths], config.device, traces, config.workload.max_concurrency)
    pairs = [(run, measured_cluster(run, config)) for run in runs]
    found = [MeasuredDeployment(with_presumption(run, cluster, config), cluster) for run, cluster in pairs]
    for x in found:
        if (settings := asked_for(x.run, x.cluster)) and not config.allow_unsimulated:
            named, mended = ", ".join(map(str, settings)), "".join(remedy(x) for x in settings)
            raise SimjaxError(
                f"{x.run.source}: {named} is recorded but not simulated: a fit would take its effect for the device's; leave the run out, "
                f"or allow_unsimulated=true{mended}"
            )
        for setting in settings:
            logger.warning("%s: %s is recorded but not simulated; the fit takes its effect for the device's", x.run.name, setting)
    return found


def _one_device(runs: Sequence[MeasuredDeployment], given: str | None) -> DeviceSpec:
    if not runs:
        if given is None:
            raise SimjaxError("which device? give device=NAME, or measured=[DIR,...]")
        return load_device(given)
    devices = {x.cluster.instances[0].device.name: x for x in runs}
    if len(devices) > 1:
        named = ", ".join(f"{x.run.name} on {name}" for name, x in devices.items())
        raise SimjaxError(f"the runs are of several devices ({named}); calibrate one device at a time")
    return next(iter(devices.values())).cluster.instances[0].device


def _points(config: CalibrateConfig, device: DeviceSpec) -> list[MeanPoint]:
    p = config.points
    if p.file is None:
        return []
    found = read_points(p.file, device.name, p.models, p.backends, p.precision)
    reasons = Counter(row.reason for row in found.left_out)
    for reason, count in reasons.items():
        logger.warning("%s: %d rows left out: %s", p.file, count, reason)
    if found.versions:
        logger.warning("%s: backend_version is ignored: the fit takes %s for one", p.file, ", ".join(found.versions))
    return found.points


def _without_parameters(config: ProfileConfig) -> LatencySource:
    return latency_source(replace(config, parameters={}))


def _space(base: LatencyProfile, instances: Sequence[tuple[str, InstanceSpec]], config: CalibrateConfig) -> Space:
    options = {name: ParameterConfig.of(name, raw) for name, raw in config.parameters.items()}
    given = {name: value for name in HOST_TIMES if (value := getattr(config.profile, name)) is not None}
    coverage = Coverage(
        several_ranks=any(x.parallelism.tensor > 1 for _, x in instances),
        backends=tuple(dict.fromkeys(name for name, _ in instances)) or (VLLM,),
        launched=tuple(dict.fromkeys(name for name, x in instances if any(x.limits.launches))),
        fp8=any(x.model.quantization in FP8 for _, x in instances),
        parallel=tuple(dict.fromkeys(name for _, x in instances for name in parallel_effects(x.deployment))),
    )
    choices = Choices(
        freeze=(*(name for name, p in options.items() if p.free is False), *given),
        free=tuple(name for name, p in options.items() if p.free),
        tie={name: p.tie for name, p in options.items() if p.tie is not None},
        medians={name: p.prior for name, p in options.items() if p.prior is not None} | given,
        sds={name: p.sd for name, p in options.items() if p.sd is not None},
    )
    return space_of(base, coverage, choices)


def _target(x: MeasuredDeployment, base: LatencyProfile, weights: LossWeights, fraction: float) -> RunTarget:
    first = None if fraction >= 1 else max(1, round(fraction * len(x.run)))
    return RunTarget.of_run(x.run, prepare_measured(x.run, x.cluster, base), weights, first)


def _fit(
    runs: Sequence[RunTarget],
    others: Sequence[Target],
    base: LatencyProfile,
    space: Space,
    config: CalibrateConfig,
    on_progress: Progress | None,
    checkpoint: NoCheckpoint,
) -> Fit:
    o, targets = config.fit, (*runs, *others)
    requests = max(sum(len(target.run) for target in runs), 1)
    starts = o.starts or min(MOST_STARTS, max(LEAST_STARTS, STARTED_REQUESTS // requests))
    options = FitOptions(starts=starts, max_steps=o.max_steps, seed=o.seed)
    if o.method == "lm" or (o.method == "auto" and len(space) <= o.most_for_lm):
        return fit(targets, base, space, options, on_progress, checkpoint)
    return fit_by_gradient(targets, base, space, options, "lbfgs" if o.method == "auto" else o.method, on_progress, checkpoint)


def _simulate(x: MeasuredDeployment, profile: Path) -> Run:
    return simulate_cluster(x.cluster, x.run.workload(), LatencySource(profile=profile))


def _described(
    profile: LatencyProfile,
    base: LatencyProfile,
    space: Space,
    posterior: Posterior,
    fitted: Sequence[MeasuredDeployment],
    runs: Sequence[Run],
    targets: Sequence[RunTarget],
    points: Sequence[MeanPoint],
    config: CalibrateConfig,
) -> LatencyProfile:
    """The profile with the record of its calibration."""
    errors = []
    for x, run, target in zip(fitted, runs, targets, strict=True):
        lat = latencies(measured_requests(x.run, run.result).requests)
        both = (x.run.has_tpot & lat.has_tpot)[: target.first]
        errors.append(np.log(lat.tpot_s[: target.first][both] / x.run.tpot_s[: target.first][both]))
    seen = _seen(runs, points, base)
    covariance = transformed_covariance(space, posterior)
    discrepancy = max(LEAST_DISCREPANCY, log_sd(errors)) if errors else PRIOR_SD  # tables and means do not show it
    calibration = Calibration(space.names, tuple(map(tuple, covariance.tolist())), discrepancy, seen)
    provenance = {
        "kind": "calibrated to measured runs",
        "data": [f"{x.run.name}: {x.run.model} on {x.run.device}, TP{x.run.tensor_parallel_size}, {len(x.run)} requests" for x in fitted]
        + [f"op tables {Path(folder).parent.name}" for folder in config.tables]
        + ([f"{len(points)} mean points of {Path(str(config.points.file)).name}"] if points else []),
        "calibrated": date.today().isoformat(),
        "base": {"source": base.source, **base.provenance},
    }
    valid = ValidRange(*(_span([getattr(base.valid, axis), getattr(seen, axis)]) for axis in ("tokens", "sequences", "context")))
    return replace(profile, calibration=calibration, provenance=provenance, valid=valid)


def _seen(runs: Sequence[Run], points: Sequence[MeanPoint], base: LatencyProfile) -> Seen:
    """The ranges that the runs and the points covered; with tables alone, those that the profile was measured on."""
    found = [seen for run in runs if (seen := reach(run.cluster.instances, run.result)) is not None]
    for p in points:
        tokens, longest = (1, p.max_num_batched_tokens), p.prompt_tokens + p.output_tokens
        sequences = (1, min(p.concurrency, p.max_num_seqs))
        found.append(Seen(tokens, sequences, (round(p.uniform_from * longest), longest), (p.model.name,), (p.tensor_parallel_size,)))
    if not found:
        return Seen(base.valid.tokens, base.valid.sequences, base.valid.context, tuple(base.models), (1,))
    return Seen(
        **{axis: _span([getattr(x, axis) for x in found]) for axis in ("tokens", "sequences", "context")},
        models=tuple(dict.fromkeys(name for x in found for name in x.models)),
        tensor_parallel_sizes=tuple(sorted({degree for x in found for degree in x.tensor_parallel_sizes})),
    )


def _span(bounds: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _scores(
    config: CalibrateConfig, measured: Sequence[MeasuredRun], runs: Sequence[tuple[Run, Run]], targets: Sequence[RunTarget]
) -> list[Scored]:
    """Scores of the fitted runs, each of which has a target, and then of those held out; `runs` are simulations before and after."""
    scores = []
    firsts = [target.first for target in targets] + [0] * (len(measured) - len(targets))
    for run, (before, after), first in zip(measured, runs, firsts, strict=True):
        parts = [(FITTED, slice(None))] if first is None else [(FITTED, slice(0, first)), (HELD_OUT, slice(first, None))]
        for role, part in parts if first != 0 else [(HELD_OUT, slice(None))]:
            reports = [scored(run, done.result, part) | {"release": release(run, config)} for done in (before, after)]
            scores.append(Scored(run, after, role, *reports))
    return scores


def _problems(scores: Sequence[Scored], found: Fit) -> tuple[str, ...]:
    lines = [
        f"the fit to {score.measured.name} is poor: {', '.join(reasons)}"
        for score in scores
        if score.role == FITTED and (reasons := poor(score.after))
    ]
    if not np.isfinite(found.loss):
        lines.append("the loss is not a number")
    return tuple(lines)


def _warnings(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """A line about parameters that the data do not inform, and one about those at a bound, which is no failure of the fit."""
    lines = []
    if held := [row["name"] for row in rows if row["held"]]:
        lines.append(f"not informed by the data, so left at the prior: {', '.join(held)}")
    if bound := [f"{row['name']} ({100 * row['constrained']:.0f} % known from data)" for row in rows if row["at_bound"]]:
        lines.append(f"at the bound of what the prior allows: {', '.join(bound)}; the model may lack something that the runs had")
    return tuple(lines)
