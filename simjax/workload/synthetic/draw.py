"""Draws lengths from the distributions of a configuration, or reads them from trace files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from simjax.errors import SimjaxError, closest
from simjax.workload.config import DISTRIBUTIONS, LengthConfig, WorkloadConfig
from simjax.workload.formats import Reading, ReadOptions, TraceLengths, read_lengths
from simjax.workload.synthetic import lengths
from simjax.workload.synthetic.streams import FOLLOWUPS, OUTPUTS, PROMPTS, TURNS, stream
from simjax.workload.workload import Workload

_log = logging.getLogger("simjax.workload.build")  # a sweep counts the messages of this logger

# Clipping that moves the mean length by more than this fraction is worth a warning. (The fraction of clipped lengths is no criterion: the
# shipped options cut 4.5 % of the outputs at 1,024 tokens, as chat servers do, and move the mean by 0.6 %.)
CLIPPING_MATTERS = 0.05

_NAMED = 8  # columns that a message lists

_STREAMS = {"prompt": PROMPTS, "output": OUTPUTS, "turns": TURNS, "followup": FOLLOWUPS}
_COLUMNS = {"prompt": "prompt_tokens", "output": "output_tokens", "followup": "prompt_tokens"}
"""The column of a trace file that each field of the configuration is drawn from."""


def draw_lengths(config: WorkloadConfig, n: int, own: Workload | None) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output lengths, int32[n] each; `own` is a trace whose lengths are kept unless the configuration replaces them."""
    if config.lengths_file is not None:
        table = _read_lengths(config.lengths_file, config.lengths_format, config)
        pairs = np.stack([table.prompt_tokens, table.output_tokens], axis=1)
        drawn = lengths.resample(pairs, stream(config.seed, PROMPTS), n)
        return _clipped(config, "prompt", drawn[:, 0]), _clipped(config, "output", drawn[:, 1])
    prompt = draw(config, "prompt", n, None if own is None else own.prompt_tokens)
    return prompt, draw(config, "output", n, None if own is None else own.output_tokens)


def draw(config: WorkloadConfig, which: str, n: int, own: np.ndarray | None = None) -> np.ndarray:
    """int32[n] from the field `which` of the configuration (prompt, output, followup, turns); `own`: the trace's own values, if any."""
    return _clipped(config, which, _unclipped(config, which, n, own))


def _unclipped(config: WorkloadConfig, which: str, n: int, own: np.ndarray | None) -> np.ndarray:
    spec: LengthConfig = getattr(config, which)
    where = f"workload.{which}"
    rng = stream(config.seed, _STREAMS[which])
    dist = spec.dist or ("lognormal" if own is None else "trace")
    if dist not in DISTRIBUTIONS:
        raise SimjaxError(f"{where}.dist={dist!r} is not known; {closest(dist, list(DISTRIBUTIONS))}")
    if dist == "trace":
        if which not in _COLUMNS:
            raise SimjaxError(f"{where}.dist=trace: trace files have no {which}; use another distribution")
        if spec.file is not None:
            table = _read_lengths(spec.file, spec.format, config)
            return lengths.resample(getattr(table, _COLUMNS[which]), rng, n)
        if own is not None:
            return own
        pairs = " (or give workload.lengths_file)" if which != "followup" and config.kind != "sessions" else ""
        raise SimjaxError(f"{where}.file is not set; dist=trace needs a trace file to draw from{pairs}")
    with at(where):
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
    """Raise if an explicit length contradicts a bound, which may come from an option file that the user never saw."""
    value = getattr(spec, name)
    if value is None or value < 1:  # reported elsewhere
        return
    for bound, limit, wrong in (("max", spec.max, "exceeds"), ("min", spec.min, "is below")):
        if limit is not None and (value > limit if bound == "max" else value < limit):
            raise SimjaxError(f"{name}={value} {wrong} {where}.{bound}={limit}; {where}.{bound}=null lifts that bound")


def _clipped(config: WorkloadConfig, which: str, drawn: np.ndarray) -> np.ndarray:
    """Lengths clipped to the bounds; logs a warning if that changes the mean, not merely trims a tail."""
    spec: LengthConfig = getattr(config, which)
    with at(f"workload.{which}"):
        lengths_in = lengths.clip(drawn, 1 if spec.min is None else spec.min, spec.max)
    is_drawn = config.kind != "trace" or config.lengths_file is not None or spec.dist is not None
    before, after, cut = float(drawn.mean()), float(lengths_in.mean()), float((lengths_in != drawn).mean())
    if is_drawn and cut > 0.01 and abs(after - before) > CLIPPING_MATTERS * before:
        _log.warning(
            "workload.%s: min=%s and max=%s cut %.0f %% of the lengths: their mean is %.0f instead of %.0f%s; null lifts a bound",
            *(which, spec.min, spec.max, 100 * cut, after, before, "" if which == "turns" else " tokens"),
        )
    return lengths_in


def _need(spec: LengthConfig, name: str, where: str) -> int:
    value = getattr(spec, name)
    if value is None:
        raise SimjaxError(f"{name} is not set; dist={spec.dist} needs it")
    return value


def _read_lengths(path: str, format: str, config: WorkloadConfig) -> TraceLengths:
    table = read_lengths(path, options=ReadOptions(format, config.on_bad_row, config.unanswered))
    report(path, replace(table.reading, unused=(), notes=()))  # of the columns only the lengths were asked for
    return table


def report(path: str, reading: Reading) -> None:
    """Log what there is to say about a file that was read: rows left out or changed, columns without effect, what was inferred."""
    if reading.skipped:
        _log.warning("%s: %d of %d rows are malformed and were skipped", path, reading.skipped, reading.rows)
    if reading.dropped:
        _log.info("%s: %d of %d requests failed or answered nothing and were dropped", path, reading.dropped, reading.rows)
    if reading.zero_outputs:
        _log.warning(
            "%s: %d of %d requests answered nothing; they are played with 1 output token (workload.unanswered=drop leaves them out)",
            *(path, reading.zero_outputs, reading.rows),
        )
    if reading.failed:
        _log.warning(
            "%s: %d of %d requests failed when they were recorded; they are played as load (workload.unanswered=drop leaves them out)",
            *(path, reading.failed, reading.rows),
        )
    for note in reading.notes:
        _log.warning("%s: %s", path, note)
    if reading.unused:
        more = len(reading.unused) - _NAMED
        shown = ", ".join(reading.unused[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        _log.info("%s: columns that are not used: %s", path, shown)


@contextmanager
def without_messages() -> Iterator[None]:
    """Log nothing: for the same workload with other seeds, of which the first one has said what there is to say."""
    before, _log.disabled = _log.disabled, True
    try:
        yield
    finally:
        _log.disabled = before


@contextmanager
def at(where: str) -> Iterator[None]:
    """Prefix errors with the part of the configuration that they are about."""
    try:
        yield
    except SimjaxError as error:
        raise SimjaxError(f"{where}: {error}") from None
