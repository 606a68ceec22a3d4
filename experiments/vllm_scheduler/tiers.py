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
from tests.reference.tiered_schedules import FILE, replayed

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
    "reused": Kind(device=(0, 6), tier=(30, 80), same=True, gap_s=0.05),
    "reused_chunks": Kind(device=(0, 6), tier=(6, 20), same=True, gap_s=0.05, chunk=2, generated=True),
}


def drawn(kind: Kind, seed: int) -> dict[str, Any]:
    """A scenario as `tests.reference.tiered_schedules` reads it."""
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
        rows.append({"arrival_s": clock, "prompt": [*shared, *own], "output": output})
    longest = max(len(row["prompt"]) + len(row["output"]) for row in rows)
    a, b, c, d, e, f = rng.uniform(0.5, 1.5, 6).tolist()
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
    decode_s, mixed_s = [3e-3 * c, 2e-4 * d, 1.3e-5 * e], [5e-3 * f, 4e-5 * e]
    times = {"token_s": 1.1e-3 * a, "sequence_s": 3.1e-4 * b, "decode_s": decode_s, "mixed_s": mixed_s}
    return {"limits": limits, "tier": tier, "times": times, "empty_pass_s": EMPTY_PASS_S, "requests": rows}


def for_vllm(scenario: dict[str, Any]) -> dict[str, Any]:
    """The scenario as `tiers_drive.py` reads it."""
    times = dict(scenario["times"])
    tables = {"tokens_s": np.arange(TOKENS + 1) * times.pop("token_s"), "sequences_s": np.arange(SEATS + 1) * times.pop("sequence_s")}
    rows = [row | {"priority": 0, "accepted": [0] * len(row["output"])} for row in scenario["requests"]]
    rest = {"policy": "fcfs", "send_s": [0.0, 0.0], "broadcast_s": 0.0, "drafts": 0, "lookahead": 0, "reuse": "all"}
    return scenario | rest | {"stages": [times | {name: table.tolist() for name, table in tables.items()}], "requests": rows}


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
    text = "\n".join(json.dumps(for_vllm(scenario)) for scenario in scenarios)
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
    parser.add_argument("--record", type=int, default=0, help=f"write so many short schedules of each kind to {FILE.name}")
    given = parser.parse_args()
    each = {kind: [drawn(KINDS[kind], 10_000 * given.seed + number) for number in range(given.count)] for kind in given.kind}
    answers, wrong = iter(of_vllm(given.python, [scenario for scenarios in each.values() for scenario in scenarios])), 0
    kept: list[dict[str, Any]] = []
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
        short = sorted((len(x["requests"]), n) for n, x in enumerate(own) if not said[n] and any(row["loaded"] for row in x["requests"]))
        kept += [{"kind": kind, "scenario": scenarios[n], "vllm": results[n]} for _, n in short[: given.record]]
        wrong += len(said) - said.count("")
    if given.record:
        FILE.write_text("[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in kept) + "\n]\n")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
