"""Step times at lower clocks: of a device whose clock is locked, or whose power is capped below the limit of its board.

At a fraction f of the clock, matrix products take 1 / f as long; memory keeps its rate until the clock is too slow to feed it (`KNEE`).
Power beyond standby goes with f to the device's `clock_exponent`, in addition to what bandwidth and compute attain then. A cap finds, for
each number of scheduled tokens, the clock at which the step just keeps it. Measured times hold the limit of the board already: clocks are
relative to those that it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from simjax.deployment import Deployment
from simjax.latency.step_time import StepTime
from simjax.power.spec import DevicePower
from simjax.power.work import StepWork, step_work

KNEE = 0.55
"""Clock, as a share of the highest one, below which memory slows down too."""
OVERLAP = 3.0
"""How completely reading and computing overlap, as in rooflines: time is the norm of this order of the two."""
LEAST, HALVINGS = 0.05, 40
_COMPUTED = ("mixed_floor_s", "mixed_sequence_s", "mixed_kv_s", "chunk_tile_s", "chunk_kv_s", "empty_tile_s", "longest_s", "spill_s")
_READ = ("decode_floor_s", "decode_sequence_s", "decode_kv_s")


@dataclass(frozen=True)
class Clock:
    """What holds the clock of a device down.

    Attributes:
        power: the device, with the limit of its board.
        cap_w: most power, at most that limit; infinity for none.
        share: clock to which it is locked as a share of the highest one, 1 for none.
    """

    power: DevicePower
    cap_w: float = np.inf
    share: float = 1.0


def slowed(step_time: StepTime, deployment: Deployment, clock: Clock) -> StepTime:
    """The step times (C = 1) of a deployment under a clock; call it inside `jax.enable_x64(True)`."""
    tokens_s, sequences_s = np.asarray(step_time.tokens_s)[0], np.asarray(step_time.sequences_s)[0]
    work, tokens = step_work(deployment), np.arange(1.0, len(tokens_s))
    memory_s, compute_s = _bytes_s(work, tokens), work.token_compute_s * tokens
    ratio = clock_ratio(clock, tokens_s[1:], memory_s, compute_s)
    attention = step_time.attention
    prefill, decode = float(ratio[-1]), float(ratio[0])
    scale: dict[str, float] = {**dict.fromkeys(_COMPUTED, 1.0 / prefill), **dict.fromkeys(_READ, 1.0 / _fed(decode))}
    slower = {x.name: getattr(attention, x.name) * scale[x.name] for x in fields(attention) if x.name in scale}
    heads = np.minimum(np.arange(len(sequences_s)), len(ratio)) - 1
    at_head = np.append(1.0, ratio[np.maximum(heads[1:], 0)])
    return replace(
        step_time,
        tokens_s=np.append(0.0, stretched(tokens_s[1:], memory_s, compute_s, ratio))[None],
        sequences_s=(sequences_s / _fed(at_head))[None],
        attention=replace(attention, **slower),
    )


def _bytes_s(work: StepWork, tokens: np.ndarray) -> np.ndarray:
    """Time of the bytes of steps of so many tokens at the data sheet's bandwidth, but for those of attention."""
    return work.weights_s + work.token_s * tokens + work.experts_s * (1.0 - (1.0 - work.expert_share) ** tokens)


def stretched(step_s: Any, memory_s: Any, compute_s: Any, ratio: Any) -> Any:
    """Times of steps at a share of the clock, from the times that their bytes and FLOPs take at the data sheet's rates."""
    whole = memory_s**OVERLAP + compute_s**OVERLAP
    slow = (memory_s / _fed(ratio)) ** OVERLAP + (compute_s / ratio) ** OVERLAP
    return step_s * (slow / np.where(whole > 0, whole, 1.0)) ** (1.0 / OVERLAP)


def clock_ratio(clock: Clock, step_s: np.ndarray, memory_s: np.ndarray, compute_s: np.ndarray) -> np.ndarray:
    """The clock of each step as a share of the one at which its time was measured, in (0, 1]."""
    locked = np.full(len(step_s), clock.share)
    if not np.isfinite(clock.cap_w):
        return locked
    limit_w = min(clock.power.limit_w, 1e30)
    measured = _keeping(clock.power, limit_w, step_s, memory_s, compute_s)
    capped = _keeping(clock.power, min(clock.cap_w, limit_w), step_s, memory_s, compute_s)
    return np.minimum(locked, capped / measured)


def _keeping(power: DevicePower, limit_w: float, step_s: np.ndarray, memory_s: np.ndarray, compute_s: np.ndarray) -> np.ndarray:
    """The highest clock at which a step draws no more than a limit, by halving; `LEAST` where none does."""
    low, high = np.full(len(step_s), LEAST), np.ones(len(step_s))
    free = drawn_w(power, high, step_s, memory_s, compute_s) <= limit_w
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        keeps = drawn_w(power, middle, step_s, memory_s, compute_s) <= limit_w
        low, high = np.where(keeps, middle, low), np.where(keeps, high, middle)
    return np.where(free, 1.0, low)


def drawn_w(power: DevicePower, ratio: Any, step_s: Any, memory_s: Any, compute_s: Any) -> Any:
    """Power of a device at a share of its clock if no limit held it, in watts."""
    took_s = stretched(step_s, memory_s, compute_s, ratio)
    form = power.footprint_w + power.memory_w * np.sqrt(memory_s / took_s) + power.compute_w * np.sqrt(compute_s / took_s)
    return power.standby_w + ratio**power.clock_exponent * form


def _fed(ratio: Any) -> Any:
    """Share of its rate that memory keeps at a share of the clock."""
    return np.minimum(1.0, ratio / KNEE)
