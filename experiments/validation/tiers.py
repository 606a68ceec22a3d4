"""KV offloading against measured cases: when it pays, and when it does not.

    python tiers.py [shared|agents|rounds ...]        (SIMJAX_DATA: folder of the measured data)

Shared prefixes (`data/power/kv_tiers/offload_cases.csv`): eight engines of Qwen3-32B on two H100 each, 45 groups of prompts with one prefix
each, 45 requests in flight. The order of the prompts and the router of the measured run are not recorded, and they decide the result, so
there are two arrangements: `grouped`, in which one prompt of each group is in flight and all of a group go to one engine, and `shuffled`,
in which a client with 45 in flight sends all prompts in random order to a router that weighs caches, queues and KV use. Throughput is that
of the whole run (`total_tok_s`), and that as long as all groups have prompts left (`full_tok_s`, only `grouped`).

Multi-round conversations (Mooncake's SSD report): Qwen3-8B on an A100 of 40 GB, 20 clients of 10 rounds, 4,096 tokens more in each, four at
a time; an 80 GB pool of host memory overflows in the seventh round, and hits fall from 83 to 36 %. Agents (`agent_jobs_lmcache.csv`): jobs
of eight calls on an H100; how long the jobs came, and how many ran at once, is not recorded.

Prints a line a figure, `figure<TAB>value`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import simjax
from simjax.job import Run

DATA = Path(os.environ.get("SIMJAX_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
CASES = DATA / "power" / "kv_tiers" / "offload_cases.csv"
AGENTS = CASES.with_name("agent_jobs_lmcache.csv")
Figures = Iterator[tuple[str, float]]
PREFIXES = {"30000": 30_000, "8000": 8_000}
GROUPS, PROMPTS, QUESTION, ANSWER = 45, 10, 256, 1024
CLIENTS, ROUNDS, PER_ROUND, PARALLEL, POOL_BYTES = 20, 10, 4_096, 4, 80e9
AGENT_PROMPTS = (92, 1_840, 3_449, 6_025, 7_454, 10_299, 12_333, 13_193)
AGENT_S, TOOL_MS = 220.0, 500.0
"""Seconds in which jobs come, and the pause between calls."""
ID_TOKENS = 512
"""Tokens of an id of Mooncake's format of traces."""


ARRANGEMENTS = {
    "grouped": ["cluster.router=session_affinity"],
    "shuffled": ["cluster.router=weighted", f"workload.max_concurrency={GROUPS}"],
}


def measured() -> dict[tuple[str, bool], dict[str, float]]:
    """Numbers of a case by length of the prefix, without and with the tier."""
    with CASES.open() as file:
        rows = list(csv.DictReader(file))
    wanted = ("mean_ttft_s", "mean_e2e_s", "total_tok_s")
    return {(row["prefix_tokens"], row["variant"].startswith("CPU")): {x: float(row[x]) for x in wanted} for row in rows}


def shared(folder: Path) -> Figures:
    """Shared prefixes, with and without host memory behind eight engines, in two arrangements."""
    options = ["model=qwen3-32b", "device=h100", "cluster.tensor_parallel_size=2", "cluster.instances=8", "workload=trace"]
    options += ["scheduler.num_gpu_blocks_override=9271", "scheduler.async_scheduling=false", "scheduler.enable_prefix_caching=true"]
    for prefix, tokens in PREFIXES.items():
        for kind, more in ARRANGEMENTS.items():
            trace = _shared_trace(folder / f"{kind}_{prefix}.jsonl", tokens, kind == "grouped")
            found = {}
            for tier in (False, True):
                with_tier = ["kv_tiers.connector=vllm-offload", "kv_tiers.num_chunks=41000"] if tier else []
                found[tier] = _means(simjax.run(simjax.compose([*options, *more, f"workload.file={trace}", *with_tier])))
                for name, value in found[tier].items():
                    yield f"{kind}_{prefix}_{'cpu' if tier else 'none'}_{name}", value
            for name in found[True]:
                yield f"{kind}_{prefix}_{name}_change_percent", 100 * (found[True][name] / found[False][name] - 1)
        before, after = measured()[prefix, False], measured()[prefix, True]
        for name in before:
            yield f"measured_{prefix}_none_{name}", before[name]
            yield f"measured_{prefix}_cpu_{name}", after[name]
            yield f"measured_{prefix}_{name}_change_percent", 100 * (after[name] / before[name] - 1)


def _means(run: Run) -> dict[str, float]:
    """Means of all requests, and tokens a second: of the whole run, and of sessions as long as all of them have one in flight."""
    requests, sessions = run.result.requests, run.workload.sessions
    arrival_s, first_s, finish_s = (np.asarray(x) for x in (requests.arrival_s, requests.first_token_s, requests.finish_s))
    lengths = np.asarray(requests.prompt_tokens) + np.asarray(requests.output_tokens)
    rate = lambda until_s: float(lengths[finish_s <= until_s].sum() / (until_s - arrival_s.min()))
    found = {
        "mean_ttft_s": float((first_s - arrival_s).mean()),
        "mean_e2e_s": float((finish_s - arrival_s).mean()),
        "total_tok_s": rate(finish_s.max()),
    }
    if sessions is not None:
        found["full_tok_s"] = rate(min(finish_s[sessions.session == group].max() for group in range(GROUPS)))
    return found


def _shared_trace(path: Path, prefix: int, grouped: bool) -> Path:
    """Prompts of a group one after the other, or all in random order; ids of the last, partial block and the question are a prompt's."""
    ids = prefix // ID_TOKENS
    own = -(-(prefix + QUESTION) // ID_TOKENS) - ids
    rows = []
    for group in range(GROUPS):
        for turn in range(PROMPTS):
            last = [10**6 + (turn * GROUPS + group) * 10 + k for k in range(own)]
            when = {"timestamp": 0} if turn == 0 or not grouped else {"delay": 0}
            names = ({"session_id": group} if grouped else {}) | when
            hashes = [group * 1000 + k for k in range(ids)] + last
            rows.append({**names, "input_length": prefix + QUESTION, "output_length": ANSWER, "hash_ids": hashes})
    if not grouped:
        np.random.default_rng(0).shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def agents(folder: Path) -> Figures:
    """Jobs of eight calls, each of which goes on with the prompt of the one before, at several rates."""
    with AGENTS.open() as file:
        rows = [row for row in csv.DictReader(file) if row["gpu"] == "H100"]
    options = ["model=llama-3.1-8b", "device=h100", "scheduler.num_gpu_blocks_override=27125", "scheduler.async_scheduling=false"]
    tier = ["kv_tiers.connector=vllm-offload", "kv_tiers.capacity_bytes=400e9"]
    for row in rows:
        rate = float(row["jobs_per_s"])
        trace = _agent_trace(folder / f"agents_{rate:g}.jsonl", rate)
        mean_s = {}
        for name, more in (("prefix_cache_only", []), ("lmcache_cpu", tier)):
            run = simjax.run(simjax.compose([*options, "workload=trace", f"workload.file={trace}", *more]))
            finish_s, arrival_s = (np.asarray(x) for x in (run.result.requests.finish_s, run.result.requests.arrival_s))
            assert run.workload.sessions is not None
            session = run.workload.sessions.session
            jobs = [finish_s[session == job].max() - arrival_s[session == job].min() for job in np.unique(session)]
            mean_s[name] = float(np.mean(jobs))
            yield f"agents_{rate:g}_{name}_s", mean_s[name]
            yield f"agents_{rate:g}_{name}_s_measured", float(row[f"avg_job_completion_s_{name}"])
        yield f"agents_{rate:g}_gain", mean_s["prefix_cache_only"] / mean_s["lmcache_cpu"]
        measured_gain = float(row["avg_job_completion_s_prefix_cache_only"]) / float(row["avg_job_completion_s_lmcache_cpu"])
        yield f"agents_{rate:g}_gain_measured", measured_gain
        yield f"agents_{rate:g}_sign_right", float((mean_s["prefix_cache_only"] > mean_s["lmcache_cpu"]) == (measured_gain > 1))


def _agent_trace(path: Path, rate: float) -> Path:
    """Poisson jobs over `AGENT_S`; ids are of 16 tokens, stamps in seconds."""
    rng, clock, rows = np.random.default_rng(0), 0.0, []
    while (clock := clock + rng.exponential(1 / rate)) < AGENT_S:
        job = len(rows)
        calls = []
        for turn, tokens in enumerate(AGENT_PROMPTS):
            whole = [job * 10_000 + k for k in range(tokens // 16)]
            own = [job * 10_000 + 5_000 + turn] * (tokens % 16 > 0)
            when = {"timestamp": clock} if turn == 0 else {"delay": TOOL_MS}
            calls.append({"session_id": job, **when, "input_length": tokens, "output_length": 20, "hash_ids": whole + own})
        rows.append(calls)
    path.write_text("".join(json.dumps(call) + "\n" for calls in rows for call in calls))
    return path


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


CHAPTERS: dict[str, Callable[[Path], Figures]] = {"shared": shared, "agents": agents, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", choices=list(CHAPTERS), help="what to compare; all without any")
    with tempfile.TemporaryDirectory() as folder:
        for chapter in parser.parse_args().chapters or list(CHAPTERS):
            for figure, value in CHAPTERS[chapter](Path(folder)):
                print(f"{figure}\t{value:.6g}", flush=True)


if __name__ == "__main__":
    main()
