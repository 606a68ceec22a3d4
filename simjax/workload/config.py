"""The `workload` group of the configuration, as plain dataclasses (OmegaConf structured configs: no string annotations, None for unset)."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LengthConfig:
    """Distribution of the lengths of prompts or outputs.

    Attributes:
        dist: fixed, uniform, lognormal, zipf or trace (drawn from `file`). Unset: a trace's own lengths, else lognormal.
        tokens: length of `fixed`.
        mean, median: centre of `lognormal` in tokens; give one.
        cv, sigma: spread of `lognormal`: coefficient of variation, or standard deviation of the logarithm; give one.
        low, high: range of `uniform`, both ends included.
        alpha: exponent of `zipf`, which needs `max`.
        min, max: bounds to which every length is clipped, a trace's own lengths included.
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
    """Prefixes that prompts share, such as system prompts. Not for traces that record what their requests share.

    Attributes:
        groups: number of distinct prefixes; every prompt (in sessions, every first prompt) starts with one of them.
        tokens: length of each prefix; a shorter prompt is all prefix.
        zipf: exponent of their popularity: the k-th has probability proportional to k^-zipf. Unset: all equally likely.
    """

    groups: int | None = None
    tokens: int | None = None
    zipf: float | None = None


@dataclass
class WorkloadConfig:
    """Source of the requests. A field that has no effect on the chosen kind must be unset (null).

    Attributes:
        kind: trace, poisson, gamma, weibull, constant, pulse, piecewise, closed_loop or sessions.
        seed: random seed; arrivals, prompts, outputs, jitter and so on have separate random streams.
        num_requests: number of requests; the first ones of a trace (those of sessions in the order in which the sessions start).
        duration_s: seconds in which requests arrive, or sessions start; with `num_requests` too, whichever ends first.
        rate: mean requests/s, or sessions/s that start; a trace is stretched or compressed to it.
        cv: coefficient of variation of the gaps (gamma, weibull).
        file, format: trace file (CSV, JSON Lines or Parquet; gzip too) or session files, and its format ("auto" recognises it).
        on_bad_row: "error" or "skip" for malformed rows of trace files.
        jitter_s: width of the random delay, uniform(0, jitter_s), added to each arrival of a trace, to undo a quantised clock.
        start_s, end_s: window of a trace, in seconds from its first arrival.
        rate_scale: factor by which a trace is replayed faster; only the starts of sessions move, the pauses between calls stay.
        session_rate: mean sessions/s of a Poisson process that replaces the start times of a trace's sessions.
        num_sessions: number of sessions; the first ones of a trace.
        pulse_size, pulse_interval_s, pulse_count: simultaneous requests in a pulse, time between pulses, number of pulses.
        piecewise: [start_s, rate] pairs of a rate that steps, the first at 0.
        concurrency, think_s, ramp_s: closed loop: requests in flight, pause before a next request, time over which the first are spread.
        turns, followup: sessions: calls per session (`tokens` of `fixed` is their number), and the tokens that each later prompt adds to
            the conversation so far; `prompt` is the length of the first.
        think_dist: sessions: exponential (default) or fixed pauses, of mean `think_s`, between an answer and the next call.
        max_context_tokens: limit of the context: a session ends before a call whose prompt and output together would exceed it.
        prefix: prefixes that prompts share.
        prompt, output: lengths of the prompts and the outputs.
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
