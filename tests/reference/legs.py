"""What a rank of a cluster with prefill and decode ranks does for a request, and the passes in which it does it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.reference.instance import Live, RefStep
from tests.reference.transfers import Transfer


@dataclass(eq=False)
class Leg(Live):
    """What a rank does for a request: all of it, its prefill or its decode.

    `loads`: its KV cache is to be moved here before it can run. `holds`: it keeps its blocks after its end until they have been read.
    `carried`: its first token comes with the KV cache. `generated` counts tokens in flight, `token_times_s` those that have come back.
    """

    transfer: Transfer = field(default_factory=lambda: Transfer(-1))
    loads: bool = False
    holds: bool = False
    carried: bool = False
    polled: bool = False
    told: bool = False
    computed_at_start: int = 0  # tokens computed before its first step
    last_new: int = 0  # tokens of its latest step
    end_s: float | None = None


@dataclass(frozen=True)
class RefPass:
    """A pass that ran a step, preempted a request, or polled a landing. All but times are request indices, and `free_blocks` a number."""

    formed_s: float
    start_s: float
    end_s: float
    tokens: dict[int, int]
    preempted: list[int]
    arrived: list[int]
    read: list[int]
    free_blocks: int


@dataclass(eq=False)
class Batch:
    """A pass on its way through the device."""

    end_s: float
    step: RefStep | None
    tokens: list[tuple[Leg, int]]
    sampled: list[Leg]
    arrived: list[Leg]  # loads that were there at its launch
    read: list[Leg]  # ended requests whose blocks had been read by then
    running: int  # requests once it was formed, without those that have all their tokens in flight
