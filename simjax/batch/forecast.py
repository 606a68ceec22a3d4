"""A forecast of a run: how many requests an instance holds at once, and how many ticks the run takes.

It serves choices that change no result: how long to make the slot arrays, and which runs to put side by side. It takes requests for a
fluid: arrivals flow into an instance, and out of it at the pace at which that many requests decode. Of prefill and decode instances only
those that decode count: a request has a seat of the others for a few steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simjax.engine.handover.table import Role
from simjax.engine.host.lower import Lowered
from simjax.engine.params import RequestParams

STEPS = 64  # time steps of the fluid, over the time of the arrivals
LEAST_FREE = 0.1  # share of the time that prefill leaves for decoding, at least
TICKS, TWO_LEGS = 2.0, 2.4  # ticks of a request, and how many times as many it takes with a hand-over
STARVED, SPARSE = 0.6, 0.3  # relative number of extra ticks of an instance that preempts, and of one that runs one request at a time


class Forecast(NamedTuple):
    """Arrays over D designs: requests that the fullest instance holds at once, margin included, int; ticks of the run, int."""

    held: np.ndarray
    ticks: np.ndarray


class _Arrivals(NamedTuple):
    """A workload as a fluid: its requests, how many arrive in each of `STEPS` steps, seconds of a step, mean lengths in tokens."""

    count: int
    arrivals: np.ndarray
    step_s: float
    prompt: float
    output: float


def forecast(designs: Sequence[Lowered]) -> Forecast:
    """The forecast of each design."""
    known: dict[int, _Arrivals] = {}
    for requests in (design.params.requests for design in designs):
        if id(requests) not in known:
            known[id(requests)] = _arrivals(requests)
    workloads = [known[id(design.params.requests)] for design in designs]
    instances = [_instances(design) for design in designs]
    owner = np.repeat(np.arange(len(designs)), [len(x) for x in instances])
    peak, pressure = _fluid([x for design in instances for x in design], [workloads[d] for d in owner])
    most, tight = np.zeros(len(designs)), np.zeros(len(designs))
    np.maximum.at(most, owner, peak)
    np.maximum.at(tight, owner, pressure)
    count = np.array([x.count for x in workloads], float)
    legs = np.array([1.0 if design.params.handover is None else TWO_LEGS for design in designs])
    ticks = TICKS * legs * count * (1.0 + STARVED * np.minimum(tight, 1.0) + SPARSE / (1.0 + most))
    return Forecast(np.ceil(1.25 * most + 3.0 * np.sqrt(most) + 8.0).astype(np.int64), ticks.astype(np.int64))


def _arrivals(requests: RequestParams) -> _Arrivals:
    count = int(requests.count[0])
    arrival_s = np.asarray(requests.arrival_s)[0, :count]
    known = arrival_s[np.isfinite(arrival_s)]
    last = max(float(known[-1]), 1e-3)
    arrivals = np.histogram(known, STEPS, (0.0, last))[0].astype(float)  # in a closed loop: the requests in flight, which then stay
    prompt, output = (float(np.asarray(x)[0, :count].mean()) for x in (requests.prompt_tokens, requests.output_tokens))
    return _Arrivals(count, arrivals, last / STEPS, prompt, output)


def _instances(design: Lowered) -> list[tuple[float, ...]]:
    """Distinct instances of a design: share of the requests, seats, blocks in tokens, and the coefficients of a decode step."""
    limits, step_time, handover = design.params.ranks, design.params.step_time, design.params.handover
    decodes = np.ones(len(limits.step_time), bool) if handover is None else np.asarray(handover.role) != Role.PREFILL
    a = step_time.attention
    found: dict[tuple[float, ...], None] = {}
    for i in np.flatnonzero(decodes):
        row = int(limits.step_time[i])
        batch = min(int(limits.max_num_batched_tokens[i]), step_time.tokens_s.shape[1] - 1)
        seats = min(int(limits.max_num_seqs[i]), step_time.sequences_s.shape[1] - 1, batch)
        one_s, full_s = float(step_time.tokens_s[row, 1]), float(step_time.tokens_s[row, seats])
        floor_s = one_s + float(step_time.sequences_s[row, 1]) + float(step_time.host_s[row]) + float(a.decode_floor_s[row])
        if step_time.launch_s is not None:
            floor_s = max(floor_s, float(step_time.launch_s[row, 0]))
        each_s = (full_s - one_s + float(step_time.sequences_s[row, seats])) / seats + float(a.decode_sequence_s[row])
        token_s = float(step_time.tokens_s[row, batch]) / batch if handover is None else 0.0
        capacity = float(limits.num_blocks[i]) * float(limits.block_size[i])
        found[1.0 / decodes.sum(), float(seats), capacity, floor_s, each_s, float(a.decode_kv_s[row]), token_s] = None
    return list(found)


def _fluid(instances: list[tuple[float, ...]], workloads: list[_Arrivals]) -> tuple[np.ndarray, np.ndarray]:
    """Most requests that hold a seat of each instance, and the share of its KV cache that they would fill (beyond 1: they do not fit)."""
    share, seats, capacity, floor_s, each_s, kv_s, token_s = np.array(instances).T
    step_s, prompt, output = (np.array([getattr(x, name) for x in workloads]) for name in ("step_s", "prompt", "output"))
    arrivals = np.array([x.arrivals for x in workloads]).T * share
    context = prompt + 0.5 * output
    seats = np.minimum(seats, np.maximum(capacity / prompt, 1.0))
    inside, peak = np.zeros(len(share)), np.zeros(len(share))
    for arriving in arrivals:
        running = np.minimum(inside + arriving, seats)
        step = floor_s + running * (each_s + kv_s * context)
        free = np.maximum(1.0 - arriving * prompt * token_s / step_s, LEAST_FREE)
        # Implicit in the number of requests inside, so that steps longer than a request's stay do not overshoot.
        served = np.where(running > 0, running / np.maximum(inside + arriving, 1e-9), 1.0) * free * step_s / (step * output)
        inside = (inside + arriving) / (1.0 + served)
        peak = np.maximum(peak, inside)
    return np.minimum(peak, seats), np.minimum(peak, seats) * context / capacity
