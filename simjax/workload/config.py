"""The `workload` group of the configuration, as plain dataclasses (OmegaConf structured configs: no string annotations, None for unset)."""

from dataclasses import dataclass
from typing import Any

from simjax.options.condition import Condition, is_set, is_unset, needs
from simjax.options.option import option, section
from simjax.options.plausible import Plausible

KINDS = ("trace", "poisson", "gamma", "weibull", "constant", "pulse", "piecewise", "closed_loop", "sessions")
"""Values of `workload.kind`."""
THINK_KINDS = ("exponential", "fixed")
"""Values of `workload.think_dist`."""
DISTRIBUTIONS = ("fixed", "uniform", "lognormal", "zipf", "trace")
"""Values of the `dist` of lengths."""
BAD_ROWS = ("error", "skip")
"""Values of `workload.on_bad_row`."""
UNANSWERED = ("play", "drop")
"""Values of `workload.unanswered`."""
CLOCKS = ("s", "ms", "us", "ns")
"""Values of `workload.trace_clock`."""

_SCHEDULED = tuple(kind for kind in KINDS if kind not in ("closed_loop", "sessions"))
_OPEN = tuple(kind for kind in KINDS if kind != "closed_loop")
_PAIRS = is_unset("workload.lengths_file", words="")  # it has both lengths of a request; min and max apply to them


def _drawn(*wanted: str) -> tuple[Condition, ...]:
    """Conditions of an option of the distributions `wanted`."""

    def obstacle(dist: str | None, kind: str) -> str | None:
        dist = dist or ("trace" if kind == "trace" else "lognormal")
        return None if dist in wanted or dist not in DISTRIBUTIONS else f"with dist={dist}, only with {' or '.join(wanted)}"

    return Condition(("dist", "workload.kind"), obstacle, ", ".join(wanted)), _PAIRS


def _reads(kind: str, *files: str | None) -> bool:
    return kind == "trace" or any(file is not None for file in files)


_READS = needs(
    ("workload.kind", "workload.lengths_file", *(f"workload.{which}.file" for which in ("prompt", "output", "followup"))),
    _reads,
    "without a file of requests or lengths",
)


@dataclass
class LengthConfig:
    """A distribution of lengths in tokens (of numbers of calls for `turns`)."""

    dist: str | None = option(None, "distribution; unset: a trace's own lengths, else lognormal", "NAME", only=(_PAIRS,))
    tokens: int | None = option(None, "length of all", only=_drawn("fixed"))
    mean: float | None = option(None, "mean; give mean or median", "TOKENS", only=_drawn("lognormal"))
    median: float | None = option(None, "median", "TOKENS", only=_drawn("lognormal"))
    cv: float | None = option(None, "coefficient of variation; give cv or sigma", only=_drawn("lognormal"))
    sigma: float | None = option(None, "standard deviation of the logarithm", only=_drawn("lognormal"))
    low: int | None = option(None, "least length", only=_drawn("uniform"))
    high: int | None = option(None, "greatest length", only=_drawn("uniform"))
    alpha: float | None = option(None, "exponent; max is needed, too", only=_drawn("zipf"))
    min: int | None = option(None, "lengths are raised to it, those of a trace too")
    max: int | None = option(None, "lengths are cut to it, those of a trace too")
    file: str | None = option(None, "file whose lengths are drawn", "FILE", only=_drawn("trace"))
    format: str = option("auto", "format of the file, as in workload.format", only=(*_drawn("trace"), is_set("file")))


@dataclass
class PrefixConfig:
    """Prefixes that prompts share, such as system prompts. Traces that record what their requests share have their own."""

    groups: int | None = option(None, "distinct prefixes; every prompt (of a session the first) starts with one")
    tokens: int | None = option(None, "length of each in tokens; a shorter prompt is cut off within it")
    zipf: float | None = option(None, "popularity: the k-th has probability proportional to k^-zipf; unset: equal")


@dataclass
class WorkloadConfig:
    """The source of requests. An option that has no effect on the chosen kind must be unset (null)."""

    kind: str = option("poisson", "kind of arrivals; workload=NAME sets it together with fitting defaults")
    seed: int = option(0, "seed of everything random; arrivals, prompts, outputs and jitter have streams of their own")
    num_requests: int | None = option(
        None,
        "number of requests; of a trace the first ones (of sessions by their starts); unset: all of a trace, else enough for a steady "
        "state at the given rate or concurrency",
    )
    duration_s: float | None = option(
        None, "seconds in which requests arrive or sessions start; with num_requests whichever ends first", only_for=_OPEN
    )
    rate: float | None = option(
        None,
        "mean requests/s, or sessions/s that start; a trace is stretched or compressed to it; inf: all requests at once",
        plausible=Plausible(1e-4, 1e5, "requests/s"),
        only_for=("trace", "poisson", "gamma", "weibull", "constant", "sessions"),
    )
    cv: float | None = option(None, "coefficient of variation of the gaps between arrivals", only_for=("gamma", "weibull"))
    file: str | None = option(
        None,
        "trace: CSV, JSON or Parquet (gzip and zstd too), a load generator's result, a session file or a directory of them",
        "FILE",
        only_for=("trace",),
    )
    format: str = option("auto", "format of the trace; auto recognises it", only_for=("trace",))
    on_bad_row: str = option("error", "malformed rows of traces stop the command, or are skipped and counted", only=(_READS,))
    unanswered: str = option(
        "play", "requests of a trace that failed or answered nothing are played with 1 output token, or dropped", only=(_READS,)
    )
    trace_clock: str | None = option(
        None, "unit of a trace's arrivals (s, ms, us, ns); unset: that of the format, or what the file shows", "UNIT", only_for=("trace",)
    )
    block_tokens: int | None = option(
        None, "tokens that an id of a trace's blocks stands for; unset: as in the format, or as its rows prove", only_for=("trace",)
    )
    only_model: str | None = option(None, "model whose rows of a trace are played; unset: all", "NAME", only_for=("trace",))
    jitter_s: float | None = option(
        None, "moves each arrival by uniform(0, jitter_s) seconds, to undo a quantised clock", only_for=("trace",)
    )
    start_s: float | None = option(None, "start of a window of the trace, in seconds from its first arrival", only_for=("trace",))
    end_s: float | None = option(None, "end of that window", only_for=("trace",))
    rate_scale: float | None = option(
        None, "factor on the speed of a trace; of sessions only the starts move, the pauses stay", only_for=("trace",)
    )
    session_rate: float | None = option(
        None, "mean sessions/s at which the trace's sessions start at random, instead of when it records", only_for=("trace",)
    )
    num_sessions: int | None = option(
        None, "number of sessions; of a trace the first ones; unset: as for num_requests", only_for=("sessions", "trace")
    )
    pulse_size: int | None = option(None, "simultaneous requests of a pulse", only_for=("pulse",))
    pulse_interval_s: float | None = option(
        None, "seconds from one pulse to the next", only_for=("pulse",), plausible=Plausible(1e-3, 86_400, "seconds (not ms)")
    )
    pulse_count: int | None = option(None, "number of pulses", only_for=("pulse",))
    # Pairs of numbers; as list[list[float]] OmegaConf refuses the integers of [[0, 2]].
    piecewise: list[Any] | None = option(
        None, "pairs of a start in seconds (the first 0) and the requests/s from then on", "[[S,RATE],...]", only_for=("piecewise",)
    )
    concurrency: int | None = option(None, "requests in flight", only_for=("closed_loop",))
    think_s: float | None = option(
        None,
        "seconds between an answer and the next request; of sessions the mean",
        only_for=("closed_loop", "sessions"),
        plausible=Plausible(1e-3, 86_400, "seconds (not ms)"),
    )
    ramp_s: float | None = option(
        None,
        "seconds over which the first requests are spread, or over which max_concurrency grows from 1 to its value",
        only_for=("closed_loop", *_SCHEDULED),
        plausible=Plausible(1e-3, 86_400, "seconds (not ms)"),
    )
    max_concurrency: int | None = option(
        None,
        "most requests in flight: one whose time has come waits, in order, until fewer are, as with vllm bench serve --max-concurrency",
        only_for=_SCHEDULED,
    )
    prompt: LengthConfig = section(LengthConfig, "prompts in tokens; of a session the first prompt")
    output: LengthConfig = section(LengthConfig, "outputs in tokens")
    turns: LengthConfig = section(LengthConfig, "calls of a session", only_for=("sessions",))
    followup: LengthConfig = section(LengthConfig, "tokens that each later prompt of a session adds", only_for=("sessions",))
    think_dist: str | None = option(None, "distribution of the pauses of sessions; unset: exponential", "NAME", only_for=("sessions",))
    max_context_tokens: int | None = option(
        None, "sessions end before a call whose prompt and output together would be longer", only_for=("sessions",)
    )
    prefix: PrefixConfig = section(PrefixConfig, "prefixes that prompts share, such as system prompts")
    models: dict[str, float] = option(
        {},
        "models that requests name, at random by their weights (of a session all the same), where a cluster serves several: "
        "{llama-3.1-8b: 3, qwen3-32b: 1}; a trace's column model does so by itself",
        "{NAME:WEIGHT,...}",
    )
    # Mappings of mappings, checked by `ServiceClass.of`: OmegaConf would refuse the integers of {share: 3} where floats are declared.
    classes: dict[str, Any] = option(
        {},
        "classes of service by name: share (drawn; of a session all the same), priority (small first), ttft_s, tpot_s, e2e_s: "
        "{chat: {share: 3, ttft_s: 0.5}, batch: {share: 1, priority: 9}}",
        "{NAME:{...},...}",
    )
    lengths_file: str | None = option(
        None,
        "trace file from which pairs (prompt, output) are drawn, instead of the two distributions",
        "FILE",
        only_for=tuple(kind for kind in KINDS if kind != "sessions"),
    )
    lengths_format: str = option("auto", "format of that file, as in workload.format", only=(is_set("lengths_file"),))
