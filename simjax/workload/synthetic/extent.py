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
_REQUESTS, _SESSIONS = (4_000, 20_000), (100, 2_000)  # least and most
_SAMPLE = 1_000  # lengths from which means are taken


def automatic_requests(config: WorkloadConfig) -> int:
    """The number of requests of an open or closed loop whose configuration gives neither number nor duration.

    It depends on rate or concurrency and on the lengths of outputs, not on their seed, nor on what serves them: designs that are compared
    meet the same requests.
    """
    if config.kind == "closed_loop":
        wanted = _STAYS * (config.concurrency or 0)
    else:
        wanted = _STAYS * (config.rate or 0.0) * _mean(config, "output") * NOMINAL_TPOT_S
    return _round(wanted, *_REQUESTS)


def automatic_sessions(config: WorkloadConfig) -> int:
    """The number of sessions of a configuration that gives neither number nor duration, likewise."""
    stay_s = _mean(config, "turns") * (_mean(config, "output") * NOMINAL_TPOT_S + (config.think_s or 0.0))
    return _round(_SESSION_STAYS * (config.rate or 0.0) * stay_s, *_SESSIONS)


def _mean(config: WorkloadConfig, which: str) -> float:
    """The mean of a length, over the same draws for every seed."""
    return float(draw(replace(config, seed=0), which, _SAMPLE).mean())


def _round(wanted: float, least: int, most: int) -> int:
    """A whole number with two digits, within bounds."""
    if not wanted < most:
        return most
    scale = 10 ** max(math.floor(math.log10(max(wanted, 1.0))) - 1, 0)
    return min(max(math.ceil(wanted / scale) * scale, least), most)
