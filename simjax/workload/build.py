"""From the `workload` group of the configuration to the workload."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from simjax.documents import once_per_file
from simjax.errors import SimjaxError, closest
from simjax.workload import arrivals, lengths, transform
from simjax.workload.closed_loop import closed_loop
from simjax.workload.config import LengthConfig, WorkloadConfig
from simjax.workload.formats import TraceFile, TraceLengths, read_lengths, read_trace
from simjax.workload.streams import ARRIVALS, OUTPUTS, PROMPTS, stream
from simjax.workload.workload import Workload

_log = logging.getLogger(__name__)

KINDS = ("trace", "poisson", "gamma", "weibull", "constant", "pulse", "piecewise", "closed_loop")
DISTRIBUTIONS = ("fixed", "uniform", "lognormal", "zipf", "trace")

# Clipping that moves the mean length by more than this fraction is worth a warning. (A share of clipped lengths is no measure: the shipped
# options cut 4.5 % of the outputs at 1,024 tokens, as chat servers do, and move the mean by 0.6 %.)
CLIPPING_MATTERS = 0.05

_OPEN = tuple(kind for kind in KINDS if kind != "closed_loop")
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    "duration_s": _OPEN,
    "rate": ("trace", "poisson", "gamma", "weibull", "constant"),
    "cv": ("gamma", "weibull"),
    **dict.fromkeys(("file", "jitter_s", "start_s", "end_s", "rate_scale"), ("trace",)),
    **dict.fromkeys(("pulse_size", "pulse_interval_s", "pulse_count"), ("pulse",)),
    "piecewise": ("piecewise",),
    **dict.fromkeys(("concurrency", "think_s", "ramp_s"), ("closed_loop",)),
}
_NEEDED: dict[str, tuple[str, ...]] = {
    "trace": ("file",),
    "poisson": ("rate",),
    "gamma": ("rate", "cv"),
    "weibull": ("rate", "cv"),
    "constant": ("rate",),
    "pulse": ("pulse_size", "pulse_interval_s"),
    "piecewise": ("piecewise",),
    "closed_loop": ("concurrency", "num_requests"),
}


def build_workload(config: WorkloadConfig) -> Workload:
    """The requests that `config` describes.

    A trace is jittered, cut to its window, brought to the wanted rate, cut to `duration_s` and `num_requests`, in that order.

    Raises:
        SimjaxError: an unknown kind or distribution, a missing, misplaced or impossible value, or a bad trace file.
    """
    _check_fields(config)
    if config.kind == "trace":
        workload = _trace(config)
    else:
        with _at("workload"):
            times = None if config.kind == "closed_loop" else _synthetic_arrivals(config)
        n = config.num_requests if times is None else len(times)
        if times is not None and not n:
            raise SimjaxError(f"workload: no request arrives within duration_s={config.duration_s:g}; make it longer or change the seed")
        if not n or n < 1:
            raise SimjaxError(f"workload: num_requests={n}; it must be at least 1")
        prompt, output = _lengths(config, n, None)
        if times is None:
            with _at("workload"):
                return closed_loop(prompt, output, config.concurrency or 0, config.think_s or 0.0, config.ramp_s or 0.0)
        workload = Workload(times, prompt, output, source=_title(config))
    return workload.validate()


def load_trace(config: WorkloadConfig) -> TraceFile:
    """The trace file that `config` names, as it is in the file; left-out rows are counted in the log."""
    if not config.file:
        raise SimjaxError("workload.file is not set; kind=trace needs the path of a trace file")
    trace = _read_trace(Path(config.file), config.format, config.on_bad_row)
    _report(config.file, trace)
    return trace


@once_per_file(4)
def _read_trace(path: Path, format: str, on_bad_row: str) -> TraceFile:
    """A trace file; the points of a sweep play the same one in many ways."""
    return read_trace(str(path), format, on_bad_row)


def _check_fields(config: WorkloadConfig) -> None:
    if config.kind not in KINDS:
        raise SimjaxError(f"workload.kind={config.kind!r} is not known; {closest(config.kind, list(KINDS))}")
    for name, kinds in _ONLY_FOR.items():
        value = getattr(config, name)
        if value is not None and config.kind not in kinds:
            others = " or ".join(kinds)
            raise SimjaxError(
                f"workload.{name}={value} has no effect with kind={config.kind}, only with {others}; workload.{name}=null unsets it"
            )
    for name in _NEEDED[config.kind]:
        if getattr(config, name) is None:
            raise SimjaxError(f"workload.{name} is not set; kind={config.kind} needs it")
    if config.rate is not None and config.rate_scale is not None:
        raise SimjaxError(f"workload.rate={config.rate:g} and workload.rate_scale={config.rate_scale:g} both set the rate; give one")
    if config.seed < 0:
        raise SimjaxError(f"workload.seed={config.seed}; it must not be negative")


def _trace(config: WorkloadConfig) -> Workload:
    workload = load_trace(config).workload
    with _at("workload"):
        if config.jitter_s is not None:
            workload = transform.jitter(workload, config.jitter_s, config.seed)
        if config.start_s is not None or config.end_s is not None:
            workload = transform.window(workload, config.start_s or 0.0, np.inf if config.end_s is None else config.end_s)
        if config.rate_scale is not None:
            workload = transform.scale_rate(workload, config.rate_scale)
        if config.rate is not None:
            workload = transform.rescale_to_rate(workload, config.rate)
        if config.duration_s is not None:
            workload = transform.window(workload, 0.0, config.duration_s)
        if config.num_requests is not None:
            workload = transform.cap_requests(workload, config.num_requests)
    prompt, output = _lengths(config, len(workload), workload)
    return replace(workload, prompt_tokens=prompt, output_tokens=output)


def _synthetic_arrivals(config: WorkloadConfig) -> np.ndarray:
    rng = stream(config.seed, ARRIVALS)
    rate, cv, n, duration_s = config.rate or 0.0, config.cv or 0.0, config.num_requests, config.duration_s
    if config.kind == "poisson":
        return arrivals.poisson(rate, rng, n, duration_s)
    if config.kind == "gamma":
        return arrivals.gamma(rate, cv, rng, n, duration_s)
    if config.kind == "weibull":
        return arrivals.weibull(rate, cv, rng, n, duration_s)
    if config.kind == "constant":
        return arrivals.constant(rate, n, duration_s)
    if config.kind == "pulse":
        return arrivals.pulses(config.pulse_size or 0, config.pulse_interval_s or 0.0, config.pulse_count, n, duration_s)
    return arrivals.piecewise(config.piecewise or [], rng, n, duration_s)


def _lengths(config: WorkloadConfig, n: int, own: Workload | None) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output lengths, int32[n] each; `own` is the trace whose lengths are kept unless something else is asked for."""
    if config.lengths_file is not None:
        table = _read_lengths(config.lengths_file, config.lengths_format, config)
        pairs = np.stack([table.prompt_tokens, table.output_tokens], axis=1)
        drawn = lengths.resample(pairs, stream(config.seed, PROMPTS), n)
        prompt, output = drawn[:, 0], drawn[:, 1]
    else:
        prompt = _draw(config, "prompt", n, None if own is None else own.prompt_tokens)
        output = _draw(config, "output", n, None if own is None else own.output_tokens)
    return _clipped(config, "prompt", prompt), _clipped(config, "output", output)


def _draw(config: WorkloadConfig, which: str, n: int, own: np.ndarray | None) -> np.ndarray:
    spec: LengthConfig = getattr(config, which)
    where = f"workload.{which}"
    rng = stream(config.seed, PROMPTS if which == "prompt" else OUTPUTS)
    dist = spec.dist or ("lognormal" if own is None else "trace")
    if dist not in DISTRIBUTIONS:
        raise SimjaxError(f"{where}.dist={dist!r} is not known; {closest(dist, list(DISTRIBUTIONS))}")
    if dist == "trace":
        if spec.file is not None:
            table = _read_lengths(spec.file, spec.format, config)
            return lengths.resample(getattr(table, f"{which}_tokens"), rng, n)
        if own is not None:
            return own
        raise SimjaxError(f"{where}.file is not set; dist=trace needs a trace file to draw from (or give workload.lengths_file)")
    with _at(where):
        for name in {"fixed": ("tokens",), "uniform": ("low", "high")}.get(dist, ()):
            _check_within(spec, name, where)
        if dist == "fixed":
            return lengths.fixed(_need(spec, "tokens", where), n)
        if dist == "uniform":
            return lengths.uniform(_need(spec, "low", where), _need(spec, "high", where), rng, n)
        if dist == "zipf":
            return lengths.zipf(_need(spec, "alpha", where), spec.min or 1, _need(spec, "max", where), rng, n)
        return lengths.lognormal(rng, n, mean=spec.mean, median=spec.median, cv=spec.cv, sigma=spec.sigma)


def _check_within(spec: LengthConfig, name: str, where: str) -> None:
    """Raise where an explicit length contradicts a bound, which may come from an option file that the user never saw."""
    value = getattr(spec, name)
    if value is None or value < 1:  # what is wrong with it is said elsewhere
        return
    for bound, limit, wrong in (("max", spec.max, "exceeds"), ("min", spec.min, "is below")):
        if limit is not None and (value > limit if bound == "max" else value < limit):
            raise SimjaxError(f"{name}={value} {wrong} {where}.{bound}={limit}; {where}.{bound}=null lifts that bound")


def _clipped(config: WorkloadConfig, which: str, drawn: np.ndarray) -> np.ndarray:
    """Lengths within the bounds; a warning in the log where that changes what was drawn, not merely trims a tail."""
    spec: LengthConfig = getattr(config, which)
    with _at(f"workload.{which}"):
        lengths_in = lengths.clip(drawn, 1 if spec.min is None else spec.min, spec.max)
    is_drawn = config.kind != "trace" or config.lengths_file is not None or spec.dist is not None
    before, after, cut = float(drawn.mean()), float(lengths_in.mean()), float((lengths_in != drawn).mean())
    if is_drawn and cut > 0.01 and abs(after - before) > CLIPPING_MATTERS * before:
        _log.warning(
            "workload.%s: min=%s and max=%s cut %.0f %% of the lengths: their mean is %.0f instead of %.0f tokens; null lifts a bound",
            *(which, spec.min, spec.max, 100 * cut, after, before),
        )
    return lengths_in


def _need(spec: LengthConfig, name: str, where: str) -> int:
    value = getattr(spec, name)
    if value is None:
        raise SimjaxError(f"{name} is not set; dist={spec.dist} needs it")
    return value


def _read_lengths(path: str, format: str, config: WorkloadConfig) -> TraceLengths:
    table = read_lengths(path, format, config.on_bad_row)
    _report(path, table)
    return table


def _report(path: str, read: TraceFile | TraceLengths) -> None:
    if read.skipped:
        _log.warning("%s: %d of %d rows are malformed and were skipped", path, read.skipped, read.rows)
    if read.dropped:
        _log.info("%s: %d of %d requests failed when they were recorded and were dropped", path, read.dropped, read.rows)


def _title(config: WorkloadConfig) -> str:
    rate = f", {config.rate:g} requests/s" if config.rate is not None else ""
    cv = f", CV {config.cv:g}" if config.cv is not None else ""
    return f"{config.kind}{rate}{cv}"


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Name the part of the configuration that an error is about."""
    try:
        yield
    except SimjaxError as error:
        raise SimjaxError(f"{where}: {error}") from None
