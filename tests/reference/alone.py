"""One rank whose loads and reads take given times: scenarios in the format of vLLM's own scheduler in virtual time, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from tests.reference.instance import RefInstance, StepTime
from tests.reference.legs import Leg
from tests.reference.pool import chain_names
from tests.reference.rank import Rank

LIMITS = {name: name for name in RefInstance.__dataclass_fields__} | {"num_blocks": "num_gpu_blocks"}


@dataclass(frozen=True)
class Played:
    """What became of a request: times, preemptions and the tokens that were there before its first step."""

    scheduled_s: float | None
    first_token_s: float | None
    finish_s: float | None
    preemptions: int
    cached_tokens: int


def priced(price: dict[str, Any]) -> StepTime:
    """The step time of a scenario: linear in tokens, sequences and the tokens computed before of those that get one new token."""

    def step_time(batch: list[tuple[int, int]]) -> float:
        contexts = [computed for new, computed in batch if new == 1]
        seconds = price["token_s"] * sum(new for new, _ in batch) + price["sequence_s"] * len(batch)
        if len(contexts) == len(batch):
            floor, per_sequence, per_token = price["decode_s"]
            return seconds + floor + per_sequence * len(batch) + per_token * sum(contexts)
        return seconds + price["mixed_s"][0] + price["mixed_s"][1] * sum(contexts)

    return step_time


def limits_of(scenario: dict[str, Any]) -> RefInstance:
    """The instance of a scenario; vLLM's number of blocks counts its null block."""
    limits = {ours: scenario["limits"][theirs] for ours, theirs in LIMITS.items() if theirs in scenario["limits"]}
    return RefInstance(**{**limits, "num_blocks": limits["num_blocks"] - 1}, step_time=priced(scenario["price"]))


def legs_of(rows: Sequence[dict[str, Any]], config: RefInstance) -> list[Leg]:
    legs = []
    for index, row in enumerate(rows):
        parts = [row["prompt"], row["output"]]
        prompt, output = ([(index, part, place) for place in range(x)] if isinstance(x, int) else x for part, x in enumerate(parts))
        assert row.get("load_tokens", len(prompt)) == len(prompt) and row.get("hold_s", inf) > 0, row
        assert not ("load_s" in row and "hold_s" in row), "a rank prefills a request or decodes it"
        names = chain_names((*prompt, *output), config.block_size) if config.enable_prefix_caching else []
        leg = Leg(index, len(prompt), len(output), row["arrival_s"], names, loads="load_s" in row, holds="hold_s" in row)
        legs.append(leg)
    return legs


def play(scenario: dict[str, Any]) -> tuple[list[Played], Rank]:
    """Run a scenario of `vllm_scheduler.py`; a load has the whole prompt."""
    rows, config = scenario["requests"], limits_of(scenario)
    legs = legs_of(rows, config)

    def load(leg: Leg, blocks: int, now: float) -> None:
        leg.transfer.landed_s = now + rows[leg.index]["load_s"]

    rank = Rank(0, config, scenario["empty_pass_s"], load)
    for leg in sorted(legs, key=lambda leg: leg.queue_s):
        rank.enqueue(leg)
    while (now := rank.next_event_s()) < inf:
        for leg in rank.advance(now):
            if leg.holds:
                leg.transfer.landed_s = now + rows[leg.index]["hold_s"]
    return [outcome(leg) for leg in legs], rank


def outcome(leg: Leg) -> Played:
    times = leg.token_times_s
    ends = (times[0], times[-1]) if leg.ended else (times[0] if times else None, None)
    return Played(leg.scheduled_s, *ends, leg.preemptions, leg.computed_at_start)
