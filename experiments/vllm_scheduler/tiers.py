"""vLLM's own scheduler with OffloadingConnector against the reference's rank with a tier, on drawn scenarios.

    python -m experiments.vllm_scheduler.tiers --python VENV/bin/python [--kind tight ...] [--count 200] [--seed 1]

`tiers_drive.py` runs under the other python. All token times must agree to 1e-9; preemptions, the tokens that were there before the first
step, those that the first load brought, and evictions on the device and in the tier exactly.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.vllm_scheduler.kinds import SEATS
from tests.engine.scenario import Timing
from tests.reference.instance import RefInstance
from tests.reference.pool import chain_names
from tests.reference.tiered import TieredLeg, TieredRank, play
from tests.reference.tiers import RefTier

TOKENS, REQUESTS, LETTERS = 256, 24, 3
TOLERANCE = 1e-9
EMPTY_PASS_S = 1e-3


@dataclass(frozen=True)
class Kind:
    """`device`: blocks beyond those of the longest request; `tier`: chunks; `rate`: mean seconds between arrivals, `block_s` of a copy."""

    device: tuple[int, int] = (0, 12)
    tier: tuple[int, int] = (2, 60)
    gap_s: float = 0.02
    block_s: float = 2e-3
    generated: bool = False
    chunk: int = 1
    threshold: int = 1
    same: bool = False


KINDS = {
    "roomy": Kind(device=(60, 90), tier=(200, 300)),
    "tight": Kind(),
    "small_tier": Kind(tier=(1, 12)),
    "slow_copies": Kind(block_s=2e-2),
    "generated": Kind(generated=True),
    "chunks": Kind(chunk=3),
    "threshold": Kind(threshold=2),
    "same": Kind(same=True, gap_s=0.01),
    "idle": Kind(gap_s=0.3),
}


def drawn(kind: Kind, seed: int) -> dict[str, Any]:
    """A scenario as `tiers_drive.py` reads it."""
    rng = np.random.default_rng(seed)
    size, count = int(rng.choice([2, 4])), int(rng.integers(4, REQUESTS + 1))
    trunks = [rng.integers(0, LETTERS, 64).tolist() for _ in range(1 if kind.same else 3)]
    rows, clock = [], 0.0
    for index in range(count):
        clock += float(rng.exponential(kind.gap_s)) * (rng.random() < 0.8)
        shared = trunks[rng.integers(len(trunks))][: int(rng.integers(0, 40))]
        own = [1000 + index * 100 + k for k in range(int(rng.integers(1, 12)))]
        output = [100_000 + index * 100 + k for k in range(int(rng.integers(1, 14)))]
        if rows and rng.random() < 0.3:  # goes on where another request ended
            before = rows[int(rng.integers(len(rows)))]
            shared, own = (before["prompt"] + before["output"])[:80], own[:4]
        if shared and rng.random() < 0.15:
            own = []
        rows.append({"arrival_s": clock, "prompt": [*shared, *own], "output": output, "priority": 0, "accepted": [0] * len(output)})
    longest = max(len(row["prompt"]) + len(row["output"]) for row in rows)
    a, b, c, d, e, f = rng.uniform(0.5, 1.5, 6).tolist()
    tables = {"tokens_s": (1.1e-3 * a * np.arange(TOKENS + 1)).tolist(), "sequences_s": (3.1e-4 * b * np.arange(SEATS + 1)).tolist()}
    seats, budget = int(rng.integers(2, 9)), int(rng.integers(10, 80))
    limits = {
        "num_blocks": -(-longest // size) + int(rng.integers(*kind.device)),
        "block_size": size,
        "max_num_seqs": seats,
        "max_num_batched_tokens": budget,
        "max_model_len": longest,
        "long_prefill_token_threshold": 0,
        "enable_chunked_prefill": True,
        "reserve_full_isl": bool(rng.random() < 0.7),
        "async_scheduling": bool(seed % 2),
        "enable_prefix_caching": True,
    }
    copies = {way: [float(rng.uniform(0, 1e-3)), kind.block_s * float(rng.uniform(0.3, 1.7))] for way in ("load_s", "store_s")}
    tier = {"num_chunks": int(rng.integers(*kind.tier)), "blocks_per_chunk": kind.chunk, "prompt_only": not kind.generated}
    tier |= {"store_threshold": kind.threshold, "policy": "lru", "load_after_step": bool(rng.random() < 0.5)} | copies
    timing = tables | {"decode_s": [3e-3 * c, 2e-4 * d, 1.3e-5 * e], "mixed_s": [5e-3 * f, 4e-5 * e]}
    rest = {"policy": "fcfs", "send_s": [0.0, 0.0], "broadcast_s": 0.0, "empty_pass_s": EMPTY_PASS_S, "drafts": 0, "lookahead": 0}
    return {"limits": limits, "tier": tier, "stages": [timing], "reuse": "all", "requests": rows, **rest}


def rank_of(scenario: dict[str, Any]) -> TieredRank:
    """The reference's rank for a scenario."""
    tier, (timing,) = dict(scenario["tier"]), scenario["stages"]
    (load_first, load_each), (store_first, store_each) = tier.pop("load_s"), tier.pop("store_s")
    assert load_first >= 0 and store_first >= 0
    rules = {name: value for name, value in tier.items() if name not in ("num_chunks",)}
    rates = {"load_bytes_per_s": 1 / load_each, "store_bytes_per_s": 1 / store_each}
    times = Timing(*map(np.array, (timing["tokens_s"], timing["sequences_s"])), tuple(timing["decode_s"]), tuple(timing["mixed_s"]))
    config = RefInstance(
        **scenario["limits"],
        step_time=times.step_time,
        long_prefill_alone=True,
        reserve_kv_loads=True,
        reuse_nameless_first=True,
        count_failed_lookups=False,
    )
    rank = TieredRank(0, config, RefTier(tier["num_chunks"], **rules, **rates), scenario["empty_pass_s"])
    rank.reads.copy_s = lambda blocks: load_first + load_each * blocks
    rank.stores.copy_s = lambda blocks: store_first + store_each * blocks
    return rank


def replayed(scenario: dict[str, Any]) -> dict[str, Any]:
    """What the reference makes of a scenario, as `tiers_drive.py` says it."""
    rank, legs = rank_of(scenario), []
    for index, row in enumerate(scenario["requests"]):
        names = chain_names((*row["prompt"], *row["output"]), scenario["limits"]["block_size"])
        legs.append(TieredLeg(index, len(row["prompt"]), len(row["output"]), row["arrival_s"], names))
    play(rank, legs)
    rows = [
        {"tokens_s": x.token_times_s, "preemptions": x.preemptions, "cached_tokens": x.computed_at_start, "loaded": x.tier_hit_tokens}
        for x in legs
    ]
    return {"requests": rows, "evictions": rank.pool.evictions, "tier": [rank.chunks.evictions, rank.chunks.failed], "flush_s": rank.flush_s}


def difference(vllm: dict[str, Any], ours: dict[str, Any]) -> str:
    """The first difference, "" for none."""
    if "error" in vllm:
        return vllm["error"]
    for index, (theirs, own) in enumerate(zip(vllm["requests"], ours["requests"], strict=True)):
        for name in ("preemptions", "cached_tokens", "loaded"):
            if theirs[name] != own[name]:
                return f"request {index}: {name} {theirs[name]} in vLLM, {own[name]} here"
        if len(theirs["tokens_s"]) != len(own["tokens_s"]) or not np.allclose(theirs["tokens_s"], own["tokens_s"], rtol=0, atol=TOLERANCE):
            return f"request {index}: times {theirs['tokens_s']} in vLLM, {own['tokens_s']} here"
    for name in ("evictions", "tier"):
        if vllm[name] != ours[name]:
            return f"{name} {vllm[name]} in vLLM, {ours[name]} here"
    return ""


def of_vllm(python: str, scenarios: list[dict[str, Any]]) -> list[dict[str, Any]]:
    text = "\n".join(json.dumps(scenario) for scenario in scenarios)
    script = Path(__file__).with_name("tiers_drive.py")
    done = subprocess.run([*python.split(), str(script)], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="python that has vllm")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--count", type=int, default=200, help="scenarios of each kind")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    each = {kind: [drawn(KINDS[kind], 10_000 * given.seed + number) for number in range(given.count)] for kind in given.kind}
    answers, wrong = iter(of_vllm(given.python, [scenario for scenarios in each.values() for scenario in scenarios])), 0
    for kind, scenarios in each.items():
        results, own = [next(answers) for _ in scenarios], [replayed(scenario) for scenario in scenarios]
        said = [difference(*pair) for pair in zip(results, own, strict=True)]
        loads = sum(row["loaded"] > 0 for x in own for row in x["requests"])
        preemptions = sum(row["preemptions"] for x in own for row in x["requests"])
        counts = f"{sum(len(x['requests']) for x in own)} requests, {loads} loads, {preemptions} preemptions"
        counts += f", {sum(x['tier'][0] for x in own)} chunks evicted, {sum(x['flush_s'] > 0 for x in own)} with flushes"
        print(f"{kind}\t{said.count('')} of {len(said)} equal\t{counts}", flush=True)
        for number, words in [(n, words) for n, words in enumerate(said) if words][:3]:
            print(f"  {kind}:{number}: {words}"[:600])
        wrong += len(said) - said.count("")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
