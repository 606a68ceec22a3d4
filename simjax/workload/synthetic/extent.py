"""The automatic length of a synthetic workload: requests enough for a steady state, and for percentiles within it."""

from __future__ import annotations

import math
from dataclasses import replace

from simjax.workload.config import WorkloadConfig
from simjax.workload.synthetic.draw import draw

STATIONARY = ("poisson", "gamma", "weibull", "constant", "closed_loop", "sessions")
"""Kinds of workload whose requests are sent by one rule from first to last."""

NOMINAL_TPOT_S = 0.05
"""Seconds a token that a service may take at most to feel fluent: a request is taken to stay for its output at this pace."""
_STAYS = 12  # in these a system fills (2), is measured (8 or more) and drains (1)
_SESSION_STAYS = 4  # sessions stay for minutes, most of it in thought: most of their calls are seen in fewer of them
_REQUESTS, _SESSIONS = (4_000, 6_000), (100, 600)  # least and most at first: an overload shows early, and costs most to simulate
_LONGEST = {"num_requests": 20_000, "num_sessions": 2_000}  # of a run that was too short to say if it is steady
_SAMPLE = 1_000  # lengths from which means are taken


def with_extent(config: WorkloadConfig) -> WorkloadConfig:
    """The configuration with an automatic number of requests or sessions, where it gives neither number nor duration.

    It depends on rate or concurrency and on the lengths, not on their seed, nor on what serves them: designs that are compared meet the
    same requests.
    """
    if not is_automatic(config):
        return config
    if config.kind == "sessions":
        stay_s = _mean(config, "turns") * (_mean(config, "output") * NOMINAL_TPOT_S + (config.think_s or 0.0))
        return replace(config, num_sessions=_round(_SESSION_STAYS * (config.rate or 0.0) * stay_s, *_SESSIONS))
    if config.kind == "closed_loop":
        wanted = _STAYS * (config.concurrency or 0)
    else:
        wanted = _STAYS * (config.rate or 0.0) * _mean(config, "output") * NOMINAL_TPOT_S
    return replace(config, num_requests=_round(wanted, *_REQUESTS))


def longest(config: WorkloadConfig) -> WorkloadConfig | None:
    """The configuration with the most that is chosen automatically, for a run that has been too short; None if it is given."""
    if not is_automatic(config):
        return None
    name = "num_sessions" if config.kind == "sessions" else "num_requests"
    return replace(config, **{name: _LONGEST[name]})


def is_automatic(config: WorkloadConfig) -> bool:
    """Whether the length of a workload is chosen automatically."""
    number = config.num_sessions if config.kind == "sessions" else config.num_requests
    return config.kind in STATIONARY and number is None and config.duration_s is None


def _mean(config: WorkloadConfig, which: str) -> float:
    """The mean of a length, over the same draws for every seed."""
    return float(draw(replace(config, seed=0), which, _SAMPLE).mean())


def _round(wanted: float, least: int, most: int) -> int:
    """A whole number with two digits, within bounds."""
    if not wanted < most:
        return most
    scale = 10 ** max(math.floor(math.log10(max(wanted, 1.0))) - 1, 0)
    return min(max(math.ceil(wanted / scale) * scale, least), most)
