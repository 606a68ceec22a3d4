"""Energy of the steps of an instance, one step at a time: from its requests, what they move and compute, and the formula of a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.reference.instance import RefStep

TILE = 64


@dataclass(frozen=True)
class RefDevice:
    """Watts of the devices of an instance, and seconds that its bytes and FLOPs take at the data sheet's rates."""

    standing_w: float
    standby_s: float
    footprint_w: float
    memory_w: float
    compute_w: float
    limit_w: float
    sequence_host_s: float
    weights_s: float
    token_s: float
    sequence_s: float
    experts_s: float
    expert_share: float
    kv_s: float
    token_compute_s: float
    sequence_compute_s: float
    pair_compute_s: float


@dataclass
class RefMeter:
    """A step time that remembers the batches that it was asked for; every one of them is a step.

    Requests are (new, computed) tokens, with drafts (new, computed, decoding): the drafts of one that decodes are queries of one reading.
    """

    device: RefDevice
    step_time: Callable[[list], float]
    batches: list[tuple[list, float]] = field(default_factory=list)

    def __call__(self, batch: list) -> float:
        seconds = self.step_time(batch)
        self.batches.append((batch, seconds))
        return seconds

    def joules(self) -> list[tuple[float, float, float]]:
        """Energy of each step beyond standby: of the footprint, of memory and of compute."""
        return [self._step(batch, seconds) for batch, seconds in self.batches]

    def standby_j(self, steps: Sequence[RefStep]) -> float:
        """Energy of raised clocks from the first step to the end of the last one."""
        awake_s, ended_s = 0.0, math.inf
        for step in steps:
            pause_s = 0.0 if ended_s == math.inf else min(step.start_s - ended_s, self.device.standby_s)
            awake_s += step.end_s - step.start_s + pause_s
            ended_s = step.end_s
        return self.device.standing_w * awake_s

    def _step(self, batch: list, seconds: float) -> tuple[float, float, float]:
        d, tokens = self.device, sum(new for new, *_ in batch)
        decodes = [(new, before) for new, before, *decoding in batch if new == 1 or any(decoding)]
        chunks = [(new, before) for new, before, *decoding in batch if new > 1 and not any(decoding)]
        busy_s = max(seconds - d.sequence_host_s * len(batch), 0.0)
        keys, pairs = float(sum(before for _, before in decodes)), float(sum(new * before for new, before in decodes))
        if chunks:
            keys += len(chunks) * sum(new * before for new, before in chunks) / sum(new for new, _ in chunks)
        for new, before in chunks:
            for tile in range(1, math.ceil(new / TILE) + 1):
                pairs += TILE * (before + tile * TILE)
        hit = 1.0 - (1.0 - d.expert_share) ** tokens
        memory_s = d.weights_s + d.token_s * tokens + d.sequence_s * len(batch) + d.experts_s * hit + d.kv_s * (tokens + keys)
        compute_s = d.token_compute_s * tokens + d.sequence_compute_s * len(batch) + d.pair_compute_s * pairs
        memory_w, compute_w = (w * math.sqrt(x / busy_s) if busy_s else 0.0 for w, x in ((d.memory_w, memory_s), (d.compute_w, compute_s)))
        parts = [busy_s / seconds * w for w in (d.footprint_w, memory_w, compute_w)]
        held = (1.0 + (sum(parts) / d.limit_w) ** 16) ** (-1 / 16)
        footprint, memory, compute = (seconds * held * w for w in parts)
        return footprint, memory, compute
