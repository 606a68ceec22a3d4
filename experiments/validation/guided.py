"""The measured schedule, step by step: a replay that follows the measured stamps, and its comparison with predicted step times."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from cases import SAME_S, Setup, chains, stamps, timing_of
from clock import Late
from replay import Replay, Timing, replay

CAPTURED = np.array([1, 2, 4, *range(8, 257, 8)])  # batches that vLLM captures CUDA graphs of
DECODES = CAPTURED + 1
TOKENS = np.arange(0, 2200, 64)
LONG_STEPS = 8  # steps between two known moments; the number of more steps is uncertain unless they were counted
WRONG = 0.3  # of a step (or of a counted interval): larger deviations from the expectation are disturbances, which are left out
PASSES = 3

Curve = Callable[[int], float]


@dataclass(frozen=True)
class Interval:
    """Steps first..last (inclusive) between two known moments.

    measured_s: their measured duration. predicted_s: the duration predicted by the step times. expected_s: the prediction plus the lateness
    with which the replay counted steps. mixed: number of steps that hold a chunk. counted: whether the number of steps is known from the
    requests' tokens, not from `expected_s`.
    """

    first: int
    last: int
    measured_s: float
    predicted_s: float
    expected_s: float
    mixed: int
    counted: bool

    @property
    def steps(self) -> int:
        return self.last - self.first + 1

    @property
    def sure(self) -> bool:
        by = self.predicted_s if self.counted else self.predicted_s / self.steps
        return abs(self.measured_s - self.expected_s) <= WRONG * by

    @property
    def pure(self) -> bool:
        """Whether the interval gives the time of one kind of step: it has only decode steps, or one mixed step."""
        most = 1 if self.mixed else LONG_STEPS * (100 if self.counted else 1)
        return self.sure and self.mixed in (0, self.steps) and self.steps <= most


@dataclass(frozen=True)
class Guided:
    """A replay along the stamps, and the lateness of steps (measured minus predicted time): decode-only by sequences, mixed by tokens."""

    done: Replay
    intervals: list[Interval]
    decode_late_s: Curve
    mixed_late_s: Curve

    def late_s(self, tokens: int, chunks: int) -> float:
        return self.mixed_late_s(tokens) if chunks else self.decode_late_s(tokens)


def follow(ready: Setup, asynchronous: bool = True, caching: bool = True) -> Guided:
    """Replay a case along its stamps.

    Steps between two distant stamps cannot be counted without knowing their lateness, which is learned in a few passes. If the instance
    fills up before the first request leaves (`by_count` False), requests leave by their stamps in the first passes.
    """
    case, run = ready.case, ready.run
    assert run.queue_delay_s is not None
    timing, known = timing_of(ready.timings.step_time), chains(case, run)
    limits = replace(ready.limits, async_scheduling=asynchronous, prefix_caching="on" if caching else "off")
    found = None
    for by_count in (case.by_count,) * PASSES + (True,) * PASSES:
        late_s = found.late_s if found else lambda tokens, chunks: 0.0
        clock = stamps(run, case.startup_s, by_count, late_s)
        done = replay(limits, timing, run.arrival_s + run.queue_delay_s, (run.prompt_tokens, run.output_tokens), known, clock)
        parts = intervals(done, late_s, by_count)
        found = Guided(done, parts, _decode_lateness(ready, done, parts, timing), _medians(single_steps(done, parts, True), TOKENS))
    assert found is not None
    return found


def intervals(done: Replay, late_s: Late, counted: bool) -> list[Interval]:
    """The steps between consecutive known moments; late_s: the lateness with which the replay counted its steps."""
    end, timing, chunks, tokens = (done.steps.array(name) for name in ("end_s", "predicted_s", "chunks", "tokens"))
    expected = timing + np.array([late_s(t, c) for t, c in zip(tokens, chunks, strict=True)])
    at = np.flatnonzero(done.steps.array("known"))
    found = []
    for before, last in pairwise(at):
        inside = slice(before + 1, last + 1)
        sums = float(end[last] - end[before]), float(timing[inside].sum()), float(expected[inside].sum())
        found.append(Interval(int(before) + 1, int(last), *sums, int((chunks[inside] > 0).sum()), counted))
    return found


def admissions(ready: Setup, done: Replay) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Delays of the replay against the instance in seconds: formation of the step that admits each request, first and last token."""
    rows = [json.loads(line) for line in (ready.case.path / "vllm" / "requests.jsonl").open()]
    rows.sort(key=lambda row: row["arrival_time"])
    run = ready.run
    assert run.queue_delay_s is not None
    wait_s = np.array([row["scheduled_ts"] - row["queued_ts"] for row in rows])
    formed_s = run.arrival_s + run.queue_delay_s + wait_s
    return done.formed_s - formed_s, done.first_s - run.arrival_s - run.ttft_s, done.last_s - run.arrival_s - run.e2e_s


def single_steps(done: Replay, parts: list[Interval], mixed: bool) -> np.ndarray:
    """Columns tokens, late_s, predicted_s, steps, with a row for each pure interval of the kind."""
    tokens = done.steps.array("tokens")
    rows = []
    for part in parts:
        if part.pure and (part.mixed > 0) == mixed:
            late_s, predicted_s = ((x / part.steps) for x in (part.measured_s - part.predicted_s, part.predicted_s))
            rows.append((tokens[part.first : part.last + 1].mean(), late_s, predicted_s, part.steps))
    return np.array(rows).reshape(-1, 4)


def last_leavers(ready: Setup, done: Replay, timing: Timing) -> np.ndarray:
    """Decode-only steps at the end of a run, after the last admission; columns as in `single_steps`, tokens being sequences.

    The number of steps from one leaving request to the next is exact (a request leaves its output tokens - 1 steps after its first token),
    and so are the requests of these steps. Only requests that were admitted after the first one left are used, which are certainly counted
    on the same scale; runs with preemptions have no such rows.
    """
    run = ready.run
    first_s, last_s = run.arrival_s + run.ttft_s, run.arrival_s + run.e2e_s
    leaves = done.first_step + run.output_tokens - 1
    if done.preemptions.any():
        return np.zeros((0, 4))
    order = [r for r in np.argsort(last_s) if first_s[r] > last_s.min() and last_s[r] > first_s.max()]
    rows = []
    for one, two in pairwise(order):
        steps, seconds = int(leaves[two] - leaves[one]), float(last_s[two] - last_s[one])
        if steps < 1:
            continue
        alive = np.flatnonzero(last_s > last_s[one] + SAME_S)
        context = run.prompt_tokens[alive] + leaves[one] - done.first_step[alive] + 0.5 * (steps + 1)
        predicted_s = timing([(1, int(x)) for x in context])
        rows.append((len(alive), seconds / steps - predicted_s, predicted_s, steps))
    return np.array(rows).reshape(-1, 4)


def _decode_lateness(ready: Setup, done: Replay, parts: list[Interval], timing: Timing) -> Curve:
    """Lateness by number of sequences: from the last leavers where there are some, from the other intervals for larger numbers."""
    sure, rest = last_leavers(ready, done, timing), single_steps(done, parts, mixed=False)
    sure = sure[np.abs(sure[:, 1]) < WRONG * sure[:, 2]]
    most = int(sure[:, 0].max()) if len(sure) else 0
    return _medians(np.concatenate([sure, rest[rest[:, 0] > most]]), np.append(np.arange(1, most + 1), DECODES[most < DECODES]))


def _medians(points: np.ndarray, edges: np.ndarray) -> Curve:
    """Linear interpolation between the medians of the bins that hold points."""
    bins = [points[(points[:, 0] >= low) & (points[:, 0] < high)] for low, high in pairwise(edges)]
    bins = [part for part in bins if len(part)]
    if not bins:
        return lambda tokens: 0.0
    at = [float(np.median(part[:, 0])) for part in bins]
    late = [float(np.median(np.repeat(part[:, 1], part[:, 3].astype(int)))) for part in bins]
    return lambda tokens: float(np.interp(tokens, at, late))
