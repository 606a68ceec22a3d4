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
WRONG = 0.15  # of a step: an interval that is further off was miscounted or disturbed, and is left out

Curve = Callable[[int], float]


@dataclass(frozen=True)
class Interval:
    """Steps first..last (inclusive) between two known moments: measured and predicted seconds, and how many of the steps hold a chunk."""

    first: int
    last: int
    measured_s: float
    price_s: float
    mixed: int

    @property
    def steps(self) -> int:
        return self.last - self.first + 1

    @property
    def sure(self) -> bool:
        return abs(self.measured_s - self.price_s) <= WRONG * self.price_s / self.steps * (1 if self.steps > 1 else 2)


@dataclass(frozen=True)
class Guided:
    """A replay along the measured stamps, and by how much steps are later than their price: decode-only ones by sequences, mixed by tokens."""

    replay: Replay
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
    clock, price, known = stamps(run, case.startup_s), pricer(ready.prices.cost), chains(case, run)
    limits = replace(ready.limits, async_scheduling=asynchronous, prefix_caching=caching)
    queued_s = run.arrival_s + run.queue_delay_s
    found = None
    for by_count in (False, False, False, *((True, True) if case.by_count else ())):
        late_s = found.late_s if found else lambda tokens, chunks: 0.0
        clock = replace(clock, late_s=late_s, by_count=by_count)
        done = replay(limits, price, queued_s, run.prompt_tokens, run.output_tokens, known, clock)
        found = Guided(done, *_lateness(done))
    assert found is not None
    return found


def intervals(done: Replay) -> list[Interval]:
    """The steps between consecutive known moments."""
    end, price, chunks = (done.steps.array(name) for name in ("end_s", "price_s", "chunks"))
    at = np.flatnonzero(done.steps.array("known"))
    inside = [slice(a + 1, b + 1) for a, b in zip(at[:-1], at[1:], strict=True)]
    return [Interval(s.start, s.stop - 1, end[s.stop - 1] - end[s.start - 1], price[s].sum(), int((chunks[s] > 0).sum())) for s in inside]


def formation_errors(ready: Setup, guided: Guided) -> tuple[np.ndarray, np.ndarray]:
    """Seconds by which the replay admitted each request, and gave its first token, later than the engine did; float64[R] each."""
    rows = [json.loads(line) for line in (ready.case.path / "vllm" / "requests.jsonl").open()]
    rows.sort(key=lambda row: row["arrival_time"])
    run = ready.measured
    assert run.queue_delay_s is not None
    wait_s = np.array([row["scheduled_ts"] - row["queued_ts"] for row in rows])
    admitted_s = run.arrival_s + run.queue_delay_s + wait_s
    return guided.replay.formed_s - admitted_s, guided.replay.first_s - (run.arrival_s + run.ttft_s)


def single_steps(done: Replay, mixed: bool) -> np.ndarray:
    """Columns tokens, late_s, price_s, steps, context of the sure intervals that hold only mixed steps, one of them, or only decode steps."""
    steps = done.steps
    tokens, decodes, kv = steps.array("prefill") + steps.array("decodes"), steps.array("decodes"), steps.array("decode_kv")
    rows = []
    for part in intervals(done):
        if not part.sure or part.mixed != (part.steps if mixed else 0) or part.steps > (1 if mixed else LONG_STEPS):
            continue
        inside = slice(part.first, part.last + 1)
        late_s, price_s = ((x / part.steps) for x in (part.measured_s - part.price_s, part.price_s))
        context = kv[inside].sum() / max(decodes[inside].sum(), 1)
        rows.append((tokens[inside].mean(), late_s, price_s, part.steps, context))
    return np.array(rows).reshape(-1, 5)


def _lateness(done: Replay) -> tuple[Curve, Curve]:
    return _medians(single_steps(done, mixed=False), DECODES), _medians(single_steps(done, mixed=True), TOKENS)


def _medians(points: np.ndarray, edges: np.ndarray) -> Curve:
    """Linear between the medians of the bins that hold points."""
    bins = [points[(points[:, 0] >= low) & (points[:, 0] < high)] for low, high in zip(edges[:-1], edges[1:], strict=True)]
    bins = [part for part in bins if len(part)]
    if not bins:
        return lambda tokens: 0.0
    at = [float(np.median(part[:, 0])) for part in bins]
    late = [float(np.median(np.repeat(part[:, 1], part[:, 3].astype(int)))) for part in bins]
    return lambda tokens: float(np.interp(tokens, at, late))
