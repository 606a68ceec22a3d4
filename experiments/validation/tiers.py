"""KV offloading against measured cases: when it pays, and when it does not.

    python tiers.py [shared|rounds ...]        (SIMJAX_DATA: folder of the measured data)

Shared prefixes (`data/power/kv_tiers/offload_cases.csv`): eight engines of Qwen3-32B on two H100 each, 45 groups of prompts with one prefix
each, 45 requests in flight. The router of the measured run is not recorded; prompts of one group go to one engine here. Multi-round
conversations (Mooncake's SSD report): Qwen3-8B on an A100 of 40 GB, 20 clients of 10 rounds, 4,096 tokens more in each, four at a time; an
80 GB pool of host memory overflows in the seventh round, and hits fall from 83 to 36 %.

Prints a line a figure, `figure<TAB>value`.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import simjax

DATA = Path(os.environ.get("SIMJAX_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
CASES = DATA / "power" / "kv_tiers" / "offload_cases.csv"
Figures = Iterator[tuple[str, float]]
PREFIXES = {"30000": 30_000, "8000": 8_000}
GROUPS, QUESTION, ANSWER, IN_FLIGHT = 45, 256, 1024, 45
CLIENTS, ROUNDS, PER_ROUND, PARALLEL, POOL_BYTES = 20, 10, 4_096, 4, 80e9
ID_TOKENS = 512
"""Tokens of an id of Mooncake's format of traces."""


def measured() -> dict[tuple[str, bool], dict[str, float]]:
    """Numbers of a case by length of the prefix, without and with the tier."""
    with CASES.open() as file:
        rows = list(csv.DictReader(file))
    wanted = ("mean_ttft_s", "mean_e2e_s", "total_tok_s")
    return {(row["prefix_tokens"], row["variant"].startswith("CPU")): {x: float(row[x]) for x in wanted} for row in rows}


def shared(folder: Path) -> Figures:
    """Shared prefixes, with and without host memory behind eight engines."""
    options = ["model=qwen3-32b", "device=h100", "cluster.tensor_parallel_size=2", "cluster.instances=8", "cluster.router=longest_prefix"]
    options += ["scheduler.num_gpu_blocks_override=9271", "scheduler.async_scheduling=false", "scheduler.enable_prefix_caching=true"]
    options += [f"workload.max_concurrency={IN_FLIGHT}", "metrics.warmup_s=0", "metrics.cooldown_s=0"]
    for prefix, tokens in PREFIXES.items():
        found = {}
        trace = _shared_trace(folder / f"shared_{prefix}.jsonl", tokens)
        for tier in (False, True):
            with_tier = ["kv_tiers.connector=vllm-offload", "kv_tiers.num_chunks=41000"] if tier else []
            result = simjax.run(simjax.compose([*options, "workload=trace", f"workload.file={trace}", *with_tier])).result
            found[tier] = _means(result)
            for name, value in found[tier].items():
                yield f"{prefix}_{'cpu' if tier else 'none'}_{name}", value
                yield f"{prefix}_{'cpu' if tier else 'none'}_{name}_measured", measured()[prefix, tier][name]
        for name in found[True]:
            yield f"{prefix}_{name}_change_percent", 100 * (found[True][name] / found[False][name] - 1)
            yield f"{prefix}_{name}_change_percent_measured", 100 * (measured()[prefix, True][name] / measured()[prefix, False][name] - 1)


def _means(result) -> dict[str, float]:
    requests = result.requests
    spent_s = requests.finish_s.max() - requests.arrival_s.min()
    tokens = float((requests.prompt_tokens + requests.output_tokens).sum())
    return {
        "mean_ttft_s": float((requests.first_token_s - requests.arrival_s).mean()),
        "mean_e2e_s": float((requests.finish_s - requests.arrival_s).mean()),
        "total_tok_s": tokens / float(spent_s),
    }


def _shared_trace(path: Path, prefix: int) -> Path:
    """Ten rounds over the groups; the ids of the last, partial block and of the question are a prompt's own."""
    ids = prefix // ID_TOKENS
    of_group = lambda group: [group * 1000 + k for k in range(ids)]
    own = -(-(prefix + QUESTION) // ID_TOKENS) - ids
    rows = [
        (prefix + QUESTION, ANSWER, of_group(group) + [10**6 + (turn * GROUPS + group) * 10 + k for k in range(own)])
        for turn in range(10)
        for group in range(GROUPS)
    ]
    return _written(path, rows)


def rounds(folder: Path) -> Figures:
    """Conversations that go round: hits by round, with a pool of host memory that they outgrow."""
    own = PER_ROUND // ID_TOKENS
    rows = [
        (PER_ROUND * turn, 16, [client * 1000 + k for k in range(own * turn)]) for turn in range(1, ROUNDS + 1) for client in range(CLIENTS)
    ]
    trace = _written(folder / "rounds.jsonl", rows)
    options = ["model=qwen3-8b", "device=a100", "scheduler.num_gpu_blocks_override=7600", "scheduler.async_scheduling=false"]
    options += ["scheduler.max_model_len=45000", f"workload.max_concurrency={PARALLEL}", "workload=trace", f"workload.file={trace}"]
    tier = ["kv_tiers.connector=vllm-offload", f"kv_tiers.capacity_bytes={POOL_BYTES:g}"]
    tier += ["kv_tiers.load_bytes_per_s=24.8e9", "kv_tiers.store_bytes_per_s=24e9"]
    for name, more in (("none", []), ("cpu", tier)):
        requests = simjax.run(simjax.compose([*options, *more])).result.requests
        ttft_s = (requests.first_token_s - requests.arrival_s).reshape(ROUNDS, CLIENTS).mean(axis=1)
        hits = np.asarray(requests.cached_tokens) + (np.asarray(requests.tier_hit_tokens) if more else 0)
        share = hits.reshape(ROUNDS, CLIENTS).sum(axis=1) / np.asarray(requests.prompt_tokens).reshape(ROUNDS, CLIENTS).sum(axis=1)
        for turn in range(ROUNDS):
            yield f"rounds_{name}_{turn + 1}_ttft_s", float(ttft_s[turn])
            yield f"rounds_{name}_{turn + 1}_hit_percent", 100 * float(share[turn])
        if more:
            yield "rounds_cpu_round_of_the_fall", 2.0 + int(np.argmax(share[1:] < share[:-1] / 2))
            yield "rounds_cpu_round_of_the_fall_measured", 7.0


def _written(path: Path, rows: list[tuple[int, int, list[int]]]) -> Path:
    """A trace whose requests are all there at once, for a client with a cap."""
    line = '{{"timestamp": 0, "input_length": {}, "output_length": {}, "hash_ids": {}}}\n'
    path.write_text("".join(line.format(*row) for row in rows))
    return path


CHAPTERS: dict[str, Callable[[Path], Figures]] = {"shared": shared, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", choices=list(CHAPTERS), help="what to compare; all without any")
    with tempfile.TemporaryDirectory() as folder:
        for chapter in parser.parse_args().chapters or list(CHAPTERS):
            for figure, value in CHAPTERS[chapter](Path(folder)):
                print(f"{figure}\t{value:.6g}", flush=True)


if __name__ == "__main__":
    main()
