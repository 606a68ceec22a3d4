"""What a run will be like, guessed before it: how many requests an engine holds at once, and how many ticks it takes.

Only for choices that change no result: how long to make the slot arrays, and which runs to put side by side. A fluid instead of
requests: arrivals flow into an engine, and out of it at the pace at which a batch of that size decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simjax.engine.host.lower import Lowered
from simjax.engine.params import RequestParams

STEPS = 64  # of the fluid, over the time of the arrivals
LEAST_FREE = 0.1  # share of the time that prefill leaves for decoding, at least
STARVED, SPARSE = 0.6, 0.3  # more ticks, relative, of an engine that preempts, and of one that serves one request at a time


class Forecast(NamedTuple):
    """Arrays over D designs: requests that the fullest engine holds at once, margin included, int; ticks of the run, int."""

    held: np.ndarray
    ticks: np.ndarray


class _Load(NamedTuple):
    """A workload: requests, those that arrive in each of `STEPS` steps, seconds of a step, mean lengths."""

    count: int
    arrivals: np.ndarray
    step_s: float
    prompt: float
    output: float


def forecast(designs: Sequence[Lowered]) -> Forecast:
    """The forecast of each design."""
    known: dict[int, _Load] = {}
    for requests in (design.params.requests for design in designs):
        if id(requests) not in known:
            known[id(requests)] = _load(requests)
    loads = [known[id(design.params.requests)] for design in designs]
    engines = [_engines(design) for design in designs]
    owner = np.repeat(np.arange(len(designs)), [len(x) for x in engines])
    peak, pressure = _fluid([x for design in engines for x in design], [loads[d] for d in owner])
    most, tight = np.zeros(len(designs)), np.zeros(len(designs))
    np.maximum.at(most, owner, peak)
    np.maximum.at(tight, owner, pressure)
    count = np.array([load.count for load in loads], float)
    ticks = 2.0 * count * (1.0 + STARVED * np.minimum(tight, 1.0) + SPARSE / (1.0 + most))
    return Forecast(np.ceil(1.25 * most + 3.0 * np.sqrt(most) + 8.0).astype(np.int64), ticks.astype(np.int64))


def _load(requests: RequestParams) -> _Load:
    count = int(requests.count[0])
    arrival_s = np.asarray(requests.arrival_s)[0, :count]
    known = arrival_s[np.isfinite(arrival_s)]
    last = max(float(known[-1]), 1e-3)
    arrivals = np.histogram(known, STEPS, (0.0, last))[0].astype(float)  # of a closed loop: those in flight, which then stay
    prompt, output = (float(np.asarray(x)[0, :count].mean()) for x in (requests.prompt_tokens, requests.output_tokens))
    return _Load(count, arrivals, last / STEPS, prompt, output)


def _engines(design: Lowered) -> list[tuple[float, ...]]:
    """Distinct engines of a design: share of the requests, seats, blocks in tokens, and the coefficients of a decode step."""
    limits, step_time = design.params.ranks, design.params.step_time
    a = step_time.attention
    found: dict[tuple[float, ...], None] = {}
    for i, row in enumerate(np.asarray(limits.step_time)):
        batch = min(int(limits.max_num_batched_tokens[i]), step_time.tokens_s.shape[1] - 1)
        seats = min(int(limits.max_num_seqs[i]), step_time.sequences_s.shape[1] - 1, batch)
        one_s, full_s = float(step_time.tokens_s[row, 1]), float(step_time.tokens_s[row, seats])
        floor_s = one_s + float(step_time.sequences_s[row, 1]) + float(step_time.host_s[row]) + float(a.decode_floor_s[row])
        if step_time.launch_s is not None:
            floor_s = max(floor_s, float(step_time.launch_s[row, 0]))
        each_s = (full_s - one_s + float(step_time.sequences_s[row, seats])) / seats + float(a.decode_sequence_s[row])
        token_s = float(step_time.tokens_s[row, batch]) / batch
        capacity = float(limits.num_blocks[i]) * float(limits.block_size[i])
        found[1.0 / len(limits.step_time), float(seats), capacity, floor_s, each_s, float(a.decode_kv_s[row]), token_s] = None
    return list(found)


def _fluid(engines: list[tuple[float, ...]], loads: list[_Load]) -> tuple[np.ndarray, np.ndarray]:
    """Most requests that hold a seat of each engine, and the share of its KV cache that they would fill (beyond 1: they do not fit)."""
    share, seats, capacity, floor_s, each_s, kv_s, token_s = np.array(engines).T
    step_s, prompt, output = (np.array([getattr(load, name) for load in loads]) for name in ("step_s", "prompt", "output"))
    arrivals = np.array([load.arrivals for load in loads]).T * share
    context = prompt + 0.5 * output
    seats = np.minimum(seats, np.maximum(capacity / prompt, 1.0))
    inside, peak = np.zeros(len(share)), np.zeros(len(share))
    for arriving in arrivals:
        running = np.minimum(inside + arriving, seats)
        step = floor_s + running * (each_s + kv_s * context)
        free = np.maximum(1.0 - arriving * prompt * token_s / step_s, LEAST_FREE)
        # Implicit in the number inside, so that steps longer than a request's stay do not overshoot.
        served = np.where(running > 0, running / np.maximum(inside + arriving, 1e-9), 1.0) * free * step_s / (step * output)
        inside = (inside + arriving) / (1.0 + served)
        peak = np.maximum(peak, inside)
    return np.minimum(peak, seats), np.minimum(peak, seats) * context / capacity
