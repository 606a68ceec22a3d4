"""The measured schedule, step by step: a replay whose clock is set by the measured stamps, and what it says about the scheduler and the costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from experiments.validation.cases import Setup, chains, pricer, stamps
from experiments.validation.replay import Replay, replay

DECODES = np.array([1, 4, 7, 10, 14, 20, 28, 36, 41, 48, 56, 65, 73, 81, 92, 100, 110, 120, 126, 128, 130, 300])
TOKENS = np.arange(0, 2200, 64)
LONG_STEPS = 8  # between two known moments: with more steps their number is not sure
WRONG = 0.3  # of a step (of the interval if its steps were counted): what is further from the expectation was disturbed, and is left out
PASSES = 5

Curve = Callable[[int], float]
Late = Callable[[int, int], float]  # by scheduled tokens and chunks


@dataclass(frozen=True)
class Interval:
    """Steps first..last (inclusive) between two known moments.

    measured_s, price_s, expected_s: their duration, its price, and the price with the lateness that the replay counted steps with. mixed:
    how many of the steps hold a chunk. counted: their number is known from the requests' tokens, not from `expected_s`.
    """

    first: int
    last: int
    measured_s: float
    price_s: float
    expected_s: float
    mixed: int
    counted: bool

    @property
    def steps(self) -> int:
        return self.last - self.first + 1

    @property
    def sure(self) -> bool:
        by = self.price_s if self.counted else self.price_s / self.steps
        return abs(self.measured_s - self.expected_s) <= WRONG * by


@dataclass(frozen=True)
class Guided:
    """A replay along the measured stamps, and by how much steps are later than their price: decode-only ones by sequences, mixed by tokens."""

    replay: Replay
    intervals: list[Interval]
    decode_late_s: Curve
    mixed_late_s: Curve

    def late_s(self, tokens: int, chunks: int) -> float:
        return self.mixed_late_s(tokens) if chunks else self.decode_late_s(tokens)


def follow(ready: Setup, asynchronous: bool = True, caching: bool = True) -> Guided:
    """Replay a case along its stamps.

    The lateness of steps is learned in a few passes, as steps between two distant stamps cannot be counted without it. Where the engine
    fills up before the first request leaves (`by_count` False), requests leave by their stamp; else by their number of tokens, and the
    stamps of the first and last tokens then set the clock.
    """
    case, run = ready.case, ready.measured
    assert run.queue_delay_s is not None
    clock, price, known = stamps(case, run), pricer(ready.prices.cost), chains(case, run)
    limits = replace(ready.limits, async_scheduling=asynchronous, prefix_caching=caching)
    queued_s = run.arrival_s + run.queue_delay_s
    found = None
    for _ in range(PASSES):
        late_s = found.late_s if found else lambda tokens, chunks: 0.0
        clock = replace(clock, late_s=late_s)
        done = replay(limits, price, queued_s, run.prompt_tokens, run.output_tokens, known, clock)
        found = Guided(done, parts := intervals(done, late_s, case.by_count), _lateness(done, parts, False), _lateness(done, parts, True))
    assert found is not None
    return found


def intervals(done: Replay, late_s: Late, by_count: bool) -> list[Interval]:
    """The steps between consecutive known moments; late_s: what the replay counted its steps with."""
    steps = done.steps
    end, price, chunks = (steps.array(name) for name in ("end_s", "price_s", "chunks"))
    expected = price + np.array([late_s(t, c) for t, c in zip(steps.array("prefill") + steps.array("decodes"), chunks, strict=True)])
    at = np.flatnonzero(steps.array("known"))
    found = []
    for before, last in zip(at[:-1], at[1:], strict=True):
        inside = slice(before + 1, last + 1)
        measured_s = float(end[last] - end[before])
        mixed = int((chunks[inside] > 0).sum())
        found.append(Interval(int(before) + 1, int(last), measured_s, price[inside].sum(), expected[inside].sum(), mixed, by_count))
    return found


def formation_errors(ready: Setup, guided: Guided) -> tuple[np.ndarray, np.ndarray]:
    """Seconds by which the replay admitted each request, and gave its first token, later than the engine did; float64[R] each."""
    rows = [json.loads(line) for line in (ready.case.path / "vllm" / "requests.jsonl").open()]
    rows.sort(key=lambda row: row["arrival_time"])
    run = ready.measured
    assert run.queue_delay_s is not None
    wait_s = np.array([row["scheduled_ts"] - row["queued_ts"] for row in rows])
    admitted_s = run.arrival_s + run.queue_delay_s + wait_s
    return guided.replay.formed_s - admitted_s, guided.replay.first_s - (run.arrival_s + run.ttft_s)


def single_steps(done: Replay, parts: list[Interval], mixed: bool) -> np.ndarray:
    """Columns tokens, late_s, price_s, steps, context, a row for each sure interval of one mixed step, or of some decode-only ones."""
    steps = done.steps
    tokens, decodes, kv = steps.array("prefill") + steps.array("decodes"), steps.array("decodes"), steps.array("decode_kv")
    rows = []
    for part in parts:
        if not part.sure or part.mixed != (part.steps if mixed else 0) or part.steps > (1 if mixed else LONG_STEPS * (100 if part.counted else 1)):
            continue
        inside = slice(part.first, part.last + 1)
        late_s, price_s = ((x / part.steps) for x in (part.measured_s - part.price_s, part.price_s))
        context = kv[inside].sum() / max(decodes[inside].sum(), 1)
        rows.append((tokens[inside].mean(), late_s, price_s, part.steps, context))
    return np.array(rows).reshape(-1, 5)


def _lateness(done: Replay, parts: list[Interval], mixed: bool) -> Curve:
    return _medians(single_steps(done, parts, mixed), TOKENS if mixed else DECODES)


def _medians(points: np.ndarray, edges: np.ndarray) -> Curve:
    """Linear between the medians of the bins that hold points."""
    bins = [points[(points[:, 0] >= low) & (points[:, 0] < high)] for low, high in zip(edges[:-1], edges[1:], strict=True)]
    bins = [part for part in bins if len(part)]
    if not bins:
        return lambda tokens: 0.0
    at = [float(np.median(part[:, 0])) for part in bins]
    late = [float(np.median(np.repeat(part[:, 1], part[:, 3].astype(int)))) for part in bins]
    return lambda tokens: float(np.interp(tokens, at, late))
