"""Schedules that vLLM's own scheduler made with its OffloadingConnector, and what the reference makes of the same scenarios.

`experiments/vllm_scheduler/tiers.py` draws and records them, `tiers_drive.py` there says what is in a scenario.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.reference.alone import priced
from tests.reference.instance import RefInstance
from tests.reference.pool import chain_names
from tests.reference.tiered import TieredLeg, TieredRank, play
from tests.reference.tiers import RefTier

FILE = Path(__file__).with_name("vllm_tiers.json")


def recorded() -> list[dict[str, Any]]:
    """Rows with a kind, a scenario and what vLLM made of it."""
    return json.loads(FILE.read_text())


def rank_of(scenario: dict[str, Any]) -> TieredRank:
    """The reference's rank for a scenario."""
    tier, times = dict(scenario["tier"]), scenario["times"]
    (load_first, load_each), (store_first, store_each) = tier.pop("load_s"), tier.pop("store_s")
    config = RefInstance(
        **scenario["limits"],
        step_time=priced(times),
        long_prefill_alone=True,
        reserve_kv_loads=True,
        reuse_nameless_first=True,
        count_failed_lookups=False,
    )
    rank = TieredRank(0, config, RefTier(**tier), scenario["empty_pass_s"])
    rank.reads.copy_s = lambda blocks: load_first + load_each * blocks
    rank.stores.copy_s = lambda blocks: store_first + store_each * blocks
    return rank


def replayed(scenario: dict[str, Any]) -> dict[str, Any]:
    """What the reference makes of a scenario, as `experiments/vllm_scheduler/tiers_drive.py` says it."""
    rank, legs = rank_of(scenario), []
    for index, row in enumerate(scenario["requests"]):
        names = chain_names((*row["prompt"], *row["output"]), scenario["limits"]["block_size"])
        legs.append(TieredLeg(index, len(row["prompt"]), len(row["output"]), row["arrival_s"], names))
    play(rank, legs)
    rows = [
        {"tokens_s": x.token_times_s, "preemptions": x.preemptions, "cached_tokens": x.computed_at_start, "loaded": x.tier_hit_tokens}
        for x in legs
    ]
    return {
        "requests": rows,
        "evictions": rank.pool.evictions,
        "tier": [rank.chunks.evictions, rank.chunks.failed],
        "flush_s": rank.flush_s,
    }
