"""Builds a workload from the `workload` group of the configuration."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from simjax.disk.documents import once_per_file
from simjax.errors import SimjaxError, closest
from simjax.options.effect import conditionals, looking_at, refuse_without_effect
from simjax.workload import transform
from simjax.workload.config import KINDS, THINK_KINDS, PrefixConfig, WorkloadConfig
from simjax.workload.contents import shared
from simjax.workload.formats import Reading, ReadOptions, TraceFile, read_trace
from simjax.workload.multi_turn import Conversations, multi_turn
from simjax.workload.named import with_names
from simjax.workload.synthetic import arrivals
from simjax.workload.synthetic.closed_loop import closed_loop
from simjax.workload.synthetic.draw import at, draw, draw_lengths, report
from simjax.workload.synthetic.extent import STATIONARY, with_extent
from simjax.workload.synthetic.streams import ARRIVALS, GROUPS, THINKING, stream
from simjax.workload.workload import Workload

_log = logging.getLogger(__name__)

_NEEDED: dict[str, tuple[str, ...]] = {
    "trace": ("file",),
    "poisson": ("rate",),
    "gamma": ("rate", "cv"),
    "weibull": ("rate", "cv"),
    "constant": ("rate",),
    "pulse": ("pulse_size", "pulse_interval_s"),
    "piecewise": ("piecewise",),
    "closed_loop": ("concurrency",),
    "sessions": ("rate", "think_s"),
}


def build_workload(config: WorkloadConfig) -> Workload:
    """The requests that `config` describes.

    A trace is jittered, cut to its window, brought to the wanted rate, cut to `duration_s`, `num_sessions` and `num_requests`, in that
    order.

    Raises:
        SimjaxError: an unknown kind or distribution, a missing, misplaced or impossible value, or a bad trace file.
    """
    _check_fields(config)
    if config.kind == "trace":
        workload = _trace(config)
    elif config.kind == "sessions":
        return with_names(config, _sessions(config)).validate()  # its prompts grow out of the shared prefixes
    else:
        workload = _independent(config)
    return with_names(config, _sharing(config, _capped(config, workload))).validate()


def load_trace(config: WorkloadConfig) -> TraceFile:
    """Read the trace file that `config` names, unchanged; what there is to say about it is logged.

    Raises:
        SimjaxError: no file is named, or it cannot be read (see `read_trace`).
    """
    if not config.file:
        raise SimjaxError("workload.file is not set; kind=trace needs the path of a trace file")
    trace = _read_trace(Path(config.file), _options(config))
    report(config.file, trace.reading)
    return trace


def trace_reading(config: WorkloadConfig) -> Reading | None:
    """How the trace file of `config` was read, without saying it again; None for other kinds of workload."""
    return _read_trace(Path(config.file), _options(config)).reading if config.kind == "trace" and config.file else None


def _options(config: WorkloadConfig) -> ReadOptions:
    return ReadOptions(config.format, config.on_bad_row, config.unanswered, config.trace_clock, config.block_tokens, config.only_model)


@once_per_file(4)
def _read_trace(path: Path, options: ReadOptions) -> TraceFile:
    """Read a trace file; cached, since the points of a sweep replay the same file with different options."""
    return read_trace(str(path), options=options)


def _check_fields(config: WorkloadConfig) -> None:
    if config.kind not in KINDS:
        raise SimjaxError(f"workload.kind={config.kind!r} is not known; {closest(config.kind, list(KINDS))}")
    refuse_without_effect(conditionals(WorkloadConfig, "workload."), looking_at(config, "workload."))
    for name in _NEEDED[config.kind]:
        if getattr(config, name) is None:
            raise SimjaxError(f"workload.{name} is not set; kind={config.kind} needs it")
    rates = [(name, value) for name in ("rate", "rate_scale", "session_rate") if (value := getattr(config, name)) is not None]
    if len(rates) > 1:
        raise SimjaxError(f"{' and '.join(f'workload.{name}={value:g}' for name, value in rates)} both set the rate; give one")
    if config.think_dist not in (None, *THINK_KINDS):
        raise SimjaxError(f"workload.think_dist={config.think_dist!r} is not known; use {' or '.join(THINK_KINDS)}")
    _check_prefix(config.prefix)
    if config.seed < 0:
        raise SimjaxError(f"workload.seed={config.seed}; it must not be negative")


def _check_prefix(prefix: PrefixConfig) -> None:
    for name, other in (("tokens", "groups"), ("groups", "tokens"), ("groups", "zipf")):
        if getattr(prefix, name) is None and getattr(prefix, other) is not None:
            raise SimjaxError(f"workload.prefix.{name} is not set; workload.prefix.{other} needs it")
    if prefix.tokens is not None and prefix.tokens < 1:
        raise SimjaxError(f"workload.prefix.tokens={prefix.tokens}; it must be at least 1")


def _trace(config: WorkloadConfig) -> Workload:
    workload = load_trace(config).workload
    with at("workload"):
        if config.jitter_s is not None:
            workload = transform.jitter(workload, config.jitter_s, config.seed)
        if config.start_s is not None or config.end_s is not None:
            workload = transform.window(workload, config.start_s or 0.0, np.inf if config.end_s is None else config.end_s)
        if config.rate_scale is not None:
            workload = transform.scale_rate(workload, config.rate_scale)
        if config.rate is not None:
            workload = transform.rescale_to_rate(workload, config.rate)
        if config.session_rate is not None:
            if workload.sessions is None:
                raise SimjaxError(f"session_rate={config.session_rate:g} has no effect: {workload.source} has no sessions")
            starts = arrivals.poisson(config.session_rate, stream(config.seed, ARRIVALS), len(workload.sessions.names))
            workload = transform.start_sessions(workload, starts)
        if config.duration_s is not None:
            workload = transform.window(workload, 0.0, config.duration_s)
        if config.num_sessions is not None:
            workload = transform.cap_sessions(workload, config.num_sessions)
        if config.num_requests is not None:
            workload = transform.cap_requests(workload, config.num_requests)
    return transform.with_lengths(workload, *draw_lengths(config, len(workload), workload))


def _independent(config: WorkloadConfig) -> Workload:
    """Requests without sessions: an open loop of arrivals, or a closed loop."""
    config = with_extent(config)
    with at("workload"):
        times = None if config.kind == "closed_loop" else _synthetic_arrivals(config)
    n = config.num_requests if times is None else len(times)
    if times is not None and not n:
        raise SimjaxError(f"workload: no request arrives within duration_s={config.duration_s:g}; make it longer or change the seed")
    if not n or n < 1:
        raise SimjaxError(f"workload: num_requests={n}; it must be at least 1")
    prompt, output = draw_lengths(config, n, None)
    if times is None:
        with at("workload"):
            return closed_loop(prompt, output, config.concurrency or 0, config.think_s or 0.0, config.ramp_s or 0.0)
    # Requests that are all there at once have no steady state, unless a client hands them over one after another.
    lasting = config.rate != np.inf or config.max_concurrency is not None
    return Workload(times, prompt, output, source=_title(config, "requests"), stationary=config.kind in STATIONARY and lasting)


def _sessions(config: WorkloadConfig) -> Workload:
    """Conversations, drawn session by session, so that the first ones do not depend on how many there are."""
    config = with_extent(config)
    think_s = config.think_s or 0.0
    with at("workload"):
        if not (think_s >= 0 and np.isfinite(think_s)):
            raise SimjaxError(f"think_s={think_s:g}; it must not be negative")
        if config.num_sessions is not None and config.num_sessions < 1:
            raise SimjaxError(f"num_sessions={config.num_sessions}; it must be at least 1")
        starts = arrivals.poisson(config.rate or 0.0, stream(config.seed, ARRIVALS), config.num_sessions, config.duration_s)
    if not len(starts):
        raise SimjaxError(f"workload: no session starts within duration_s={config.duration_s:g}; make it longer or change the seed")
    turns = draw(config, "turns", len(starts))
    first_prompts = draw(config, "prompt", len(starts))
    groups = _groups(config, first_prompts)
    calls = int(turns.sum())
    # Sessions of one call have no follow-ups, so the configuration need not set their length.
    followups = draw(config, "followup", calls) if turns.max() > 1 else np.zeros(calls, np.int32)
    outputs = draw(config, "output", calls)
    pauses = np.full(calls, think_s, np.float64)
    if config.think_dist != "fixed":
        pauses *= stream(config.seed, THINKING).standard_exponential(calls)
    with at("workload"):
        workload = multi_turn(
            Conversations(starts, turns, first_prompts, followups, outputs, pauses, groups, config.prefix.tokens or 0),
            config.max_context_tokens,
            _title(config, "sessions"),
        )
        return workload if config.num_requests is None else transform.cap_requests(workload, config.num_requests)


def _sharing(config: WorkloadConfig, workload: Workload) -> Workload:
    """The workload with the shared prefixes of the configuration.

    Raises:
        SimjaxError: the workload already has shared prefixes of its own.
    """
    groups = _groups(config, workload.prompt_tokens)
    if groups is None:
        return workload
    if workload.prefixes is not None:
        raise SimjaxError(
            f"workload.prefix.groups={config.prefix.groups}: {workload.source} already records what its requests share; null unsets it"
        )
    return shared.share_prefixes(workload, groups, config.prefix.tokens or 0)


def _groups(config: WorkloadConfig, prompt_tokens: np.ndarray) -> np.ndarray | None:
    """int64[n], index of the shared prefix with which each of n prompts starts; None when none are configured."""
    prefix = config.prefix
    if prefix.groups is None or prefix.tokens is None:
        return None
    short = float((prompt_tokens <= prefix.tokens).mean())
    if short > 0.01:
        # Every distinct prompt length within the prefix also splits its node in the radix tree, which slows simulations down.
        _log.warning(
            "workload.prefix.tokens=%d: %.0f %% of the prompts are no longer than that, so they are all prefix; "
            "workload.prompt.min=%d avoids it",
            *(prefix.tokens, 100 * short, prefix.tokens + 1),
        )
    with at("workload.prefix"):
        return shared.draw_groups(prefix.groups, prefix.zipf, stream(config.seed, GROUPS), len(prompt_tokens))


def _capped(config: WorkloadConfig, workload: Workload) -> Workload:
    """The workload as a client with the configuration's cap on its requests in flight sends it."""
    if config.max_concurrency is None:
        if config.ramp_s is not None and config.kind != "closed_loop":
            raise SimjaxError(f"workload.ramp_s={config.ramp_s:g} has no effect without workload.max_concurrency, the cap that it ramps up")
        return workload
    if config.max_concurrency < 1:
        raise SimjaxError(f"workload.max_concurrency={config.max_concurrency}; it must be at least 1 (null: no cap)")
    if workload.sessions is not None:
        raise SimjaxError(
            f"workload.max_concurrency={config.max_concurrency} has no effect on {workload.source}, whose calls wait for each other; "
            "workload.max_concurrency=null unsets it"
        )
    with at("workload"):
        capped = replace(workload, max_concurrency=min(config.max_concurrency, len(workload)), ramp_s=float(config.ramp_s or 0.0))
        return capped.validate()


def _synthetic_arrivals(config: WorkloadConfig) -> np.ndarray:
    rng = stream(config.seed, ARRIVALS)
    rate, cv, n, duration_s = config.rate or 0.0, config.cv or 0.0, config.num_requests, config.duration_s
    if rate == np.inf:
        return arrivals.at_once(n)
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


def _title(config: WorkloadConfig, what: str) -> str:
    rate = f", {config.rate:g} {what}/s" if config.rate is not None else ""
    cv = f", CV {config.cv:g}" if config.cv is not None else ""
    cap = f", at most {config.max_concurrency} in flight" if config.max_concurrency is not None else ""
    return f"{config.kind}{rate}{cv}{cap}"
