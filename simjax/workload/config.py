"""The `workload` group of the configuration, as plain dataclasses (OmegaConf structured configs: no string annotations, None for unset)."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LengthConfig:
    """How long prompts or outputs are.

    Attributes:
        dist: fixed, uniform, lognormal, zipf or trace (drawn from `file`). Unset: a trace's own lengths, else lognormal.
        tokens: the length of `fixed`.
        mean, median: centre of `lognormal` in tokens; give one.
        cv, sigma: spread of `lognormal`: coefficient of variation, or standard deviation of the logarithm; give one.
        low, high: range of `uniform`, both ends included.
        alpha: exponent of `zipf`, which needs `max`.
        min, max: every length is clipped to them, those of a trace too.
        file, format: trace file that `trace` draws from, and its format.
    """

    dist: str | None = None
    tokens: int | None = None
    mean: float | None = None
    median: float | None = None
    cv: float | None = None
    sigma: float | None = None
    low: int | None = None
    high: int | None = None
    alpha: float | None = None
    min: int | None = None
    max: int | None = None
    file: str | None = None
    format: str = "auto"


@dataclass
class PrefixConfig:
    """Prefixes that prompts share, such as system prompts. Not for traces that tell what their requests share.

    Attributes:
        groups: distinct prefixes; every prompt (of sessions the first) starts with one of them.
        tokens: length of each; a shorter prompt is all prefix.
        zipf: popularity: the k-th has probability proportional to k^-zipf. Unset: all the same.
    """

    groups: int | None = None
    tokens: int | None = None
    zipf: float | None = None


@dataclass
class WorkloadConfig:
    """Where requests come from. A field that has no effect on the chosen kind must be unset (null).

    Attributes:
        kind: trace, poisson, gamma, weibull, constant, pulse, piecewise, closed_loop or sessions.
        seed: of everything random; arrivals, prompts, outputs, jitter and so on have streams of their own.
        num_requests: how many requests; for a trace the first so many (of sessions in the order of their starts).
        duration_s: requests that arrive, or sessions that start, within so many seconds; whichever of the two ends first when both are
            given.
        rate: mean requests/s, or sessions/s that start; a trace is stretched or compressed to it.
        cv: coefficient of variation of the gaps (gamma, weibull).
        file, format: trace file (CSV, JSON Lines or Parquet; gzip too) or session files, and its format ("auto" recognises it).
        on_bad_row: "error" or "skip" for malformed rows of trace files.
        jitter_s: moves each arrival of a trace by uniform(0, jitter_s), to undo a quantised clock.
        start_s, end_s: window of a trace, in seconds from its first arrival.
        rate_scale: plays a trace so many times as fast; of sessions only the starts, the pauses between calls stay.
        session_rate: mean sessions/s at which the sessions of a trace start, at random (Poisson), instead of when the trace says.
        num_sessions: how many sessions; of a trace the first so many.
        pulse_size, pulse_interval_s, pulse_count: simultaneous requests in a pulse, time between pulses, number of pulses.
        piecewise: [start_s, rate] pairs of a rate that steps, the first at 0.
        concurrency, think_s, ramp_s: closed loop: requests in flight, pause before a next request, time over which the first are spread.
        turns, followup: sessions: calls of each (`tokens` of `fixed` is their number), and the tokens that each later prompt adds to what
            was said before; `prompt` is the length of the first.
        think_dist: sessions: exponential (default) or fixed pauses, of mean `think_s`, between an answer and the next call.
        max_context_tokens: sessions end before a call whose prompt and output would be longer together.
        prefix: prefixes that prompts share.
        prompt, output: lengths.
        lengths_file, lengths_format: trace file from which (prompt, output) pairs are drawn together; replaces the two distributions.
    """

    kind: str = "poisson"
    seed: int = 0
    num_requests: int | None = None
    duration_s: float | None = None
    rate: float | None = None
    cv: float | None = None
    file: str | None = None
    format: str = "auto"
    on_bad_row: str = "error"
    jitter_s: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    rate_scale: float | None = None
    session_rate: float | None = None
    num_sessions: int | None = None
    pulse_size: int | None = None
    pulse_interval_s: float | None = None
    pulse_count: int | None = None
    piecewise: list[Any] | None = None  # pairs of numbers; as list[list[float]] OmegaConf refuses the integers of [[0, 2]]
    concurrency: int | None = None
    think_s: float | None = None
    ramp_s: float | None = None
    turns: LengthConfig = field(default_factory=LengthConfig)
    followup: LengthConfig = field(default_factory=LengthConfig)
    think_dist: str | None = None
    max_context_tokens: int | None = None
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    prompt: LengthConfig = field(default_factory=LengthConfig)
    output: LengthConfig = field(default_factory=LengthConfig)
    lengths_file: str | None = None
    lengths_format: str = "auto"
