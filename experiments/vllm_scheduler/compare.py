"""vLLM's own scheduler against simjax's reference and engine, on drawn scenarios.

    python -m experiments.vllm_scheduler.compare --python VENV/bin/python [--kind priority ...] [--count 200] [--release vllm-0.33]

`drive.py` runs under the other python, which has vllm. Every scenario has irregular step times, so that two different schedules never take
the same time. All token times must agree to 1e-9; preemptions, tokens found in the prefix cache at the first admission, evictions and
vLLM's counts of lookups exactly. Requests that are queued just when a step ends are left out: rounding decides there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from experiments.vllm_scheduler import kinds
from simjax.backend.releases import KNOWN, defaults_of, minor_of
from tests.engine.combined import staged_drafts
from tests.engine.pipelined import Pipelined, pipelined
from tests.engine.prioritized import Prioritized, prioritized
from tests.engine.scenario import Limits, Scenario, Timing
from tests.engine.speculating import Speculating, speculating
from tests.engine.strategies import scenarios
from tests.engine.test_against_reference import undecided
from tests.reference.pool import BlockPool
from tests.reference.simulator import RefResult

STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "plain": scenarios(),
    "priority": prioritized(),
    "speculation": speculating(),
    "pipeline": pipelined(),
    "pipeline_speculation": staged_drafts(),
}
"""Kinds that the tests draw; the others are those of `kinds`."""
NAMES = (*STRATEGIES, *kinds.KINDS, *kinds.SERVERS)
TOLERANCE = 1e-9


def as_vllm_takes_it(scenario: Scenario, release: str) -> Scenario | None:
    """The scenario with the rules of a release and within what vLLM accepts; None if it is outside."""
    rules = defaults_of(release)
    (limits,) = scenario.limits
    longest = int((scenario.prompt + scenario.output).max())
    limits = dataclasses.replace(
        limits,
        max_num_batched_tokens=max(limits.max_num_batched_tokens, limits.max_num_seqs),
        max_model_len=max(longest, limits.max_model_len if limits.max_model_len < 10_000 else 0),
        long_prefill_alone=rules["long_prefill_alone"],
        reuse_nameless_first=rules["reuse_nameless_first"],
        count_failed_lookups=minor_of(release) < (0, 28),
        watermark_blocks=0,
        api_pre_s=0.0,
        api_post_s=0.0,
    )
    if isinstance(scenario, Speculating) and scenario.drafts[0] and scenario.prompt.min() == 1 and scenario.contents is None:
        return None  # see README.md
    if not limits.enable_chunked_prefill and limits.max_num_batched_tokens < limits.max_model_len:
        return None
    if limits.long_prefill_token_threshold > limits.max_model_len:
        return None
    changes: dict[str, Any] = {"limits": (limits,)}
    if isinstance(scenario, Prioritized):
        changes |= {"rules": ((rules["preempt_self_goes_on"], rules["preempt_leaves_out"]),)}
    if isinstance(scenario, Speculating):
        changes |= {"pads": minor_of(release) >= (0, 28)}
        if minor_of(release) < (0, 33) and scenario.reuse != "all":
            changes |= {"reuse": "last"}
    return dataclasses.replace(scenario, **changes)


def for_vllm(scenario: Scenario) -> dict[str, Any]:
    """The scenario as `drive.py` reads it."""
    (limits,), count = scenario.limits, len(scenario.prompt)
    stages, send_s, broadcast_s, empty_pass_s = [scenario.timing], (0.0, 0.0), 0.0, 0.0
    if isinstance(scenario, Pipelined):
        stages = scenario.timings[: scenario.stages[0]]
        send_s, broadcast_s, empty_pass_s = scenario.send_s, scenario.broadcast_s, scenario.empty_pass_s
    drafts, lookahead, reuse, accepted = 0, 0, "all", [[0] * int(n) for n in scenario.output]
    if isinstance(scenario, Speculating):
        drafts, lookahead, reuse = scenario.drafts[0], scenario.lookahead[0], scenario.reuse
        rule = scenario.reference_instances()[0].speculation
        assert rule is not None
        tokens = [range(int(p), int(p + n)) for p, n in zip(scenario.prompt, scenario.output, strict=True)]
        accepted = [[rule.accepted(index, t, drafts) for t in own] for index, own in enumerate(tokens)]
    priority = scenario.priority.tolist() if isinstance(scenario, Prioritized) else [0] * count
    policy = scenario.policies[0] if isinstance(scenario, Prioritized) else "fcfs"
    prompt, output = scenario.prompt.tolist(), scenario.output.tolist()
    if scenario.contents is not None:
        prompt = [content[:before].tolist() for content, before in zip(scenario.contents, scenario.prompt, strict=True)]
        output = [content[before:].tolist() for content, before in zip(scenario.contents, scenario.prompt, strict=True)]
    waits = [()] * count if scenario.waits is None else scenario.waits
    columns = (scenario.arrival_s.tolist(), prompt, output, priority, accepted, waits)
    names = ("arrival_s", "prompt", "output", "priority", "accepted", "after")
    return {
        "limits": dataclasses.asdict(limits),
        "policy": policy,
        "stages": [_times(x, limits) for x in stages],
        "send_s": send_s,
        "broadcast_s": broadcast_s,
        "empty_pass_s": empty_pass_s,
        "drafts": drafts,
        "lookahead": lookahead,
        "reuse": reuse,
        "requests": [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)],
    }


def _times(timing: Timing, limits: Limits) -> dict[str, Any]:
    """Step times, the tables no longer than any step."""
    tables = {
        "tokens_s": timing.tokens_s[: limits.max_num_batched_tokens + 1].tolist(),
        "sequences_s": timing.sequences_s[: limits.max_num_seqs + 1].tolist(),
    }
    return {**tables, "decode_s": timing.decode_s, "mixed_s": timing.mixed_s}


def drawn(kind: str, count: int, seed: int, release: str, tiny: bool = False) -> list[tuple[Scenario, RefResult]]:
    """Scenarios of one kind that vLLM takes, and for which rounding decides nothing, with what the reference makes of them."""
    found: list[tuple[Scenario, RefResult]] = []

    def look(scenario: Scenario) -> None:
        if (taken := as_vllm_takes_it(scenario, release)) is None:
            return
        reference = taken.run_reference()
        if not undecided(taken, reference):
            found.append((taken, reference))

    if kind not in STRATEGIES:
        for number in range(count):
            look(kinds.drawn(kind, number, seed, tiny))
        return found

    @seeded(seed)
    @settings(max_examples=count, database=None, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
    @given(STRATEGIES[kind])
    def draw(scenario: Scenario) -> None:
        look(scenario)

    draw()
    return found


def ask(python: Sequence[str], given: Sequence[dict[str, Any]], release: str, steps: bool = False) -> list[dict[str, Any]]:
    """vLLM's results. The second model runner is 0.33's default, but on a GPU; it decides how pp stages are kept full."""
    words = [*python, str(Path(__file__).with_name("drive.py")), *(["--steps"] if steps else [])]
    lines = "".join(json.dumps(x) + "\n" for x in given)
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "VLLM_USE_V2_MODEL_RUNNER": str(int(release == KNOWN[-1]))}
    run = subprocess.run(words, input=lines, capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        sys.exit(f"{' '.join(words)}: {run.stderr.strip().splitlines()[-1] if run.stderr.strip() else run.returncode}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def difference(scenario: Scenario, theirs: dict[str, Any], reference: RefResult) -> str:
    """How vLLM's result differs from the reference's; empty if it does not."""
    if "error" in theirs:
        return theirs["error"]
    for index, (row, one) in enumerate(zip(theirs["requests"], reference.requests, strict=True)):
        if len(row["tokens_s"]) != len(one.token_times_s):
            return f"request {index}: {len(row['tokens_s'])} tokens, reference {len(one.token_times_s)}"
        apart = np.flatnonzero(np.abs(np.subtract(row["tokens_s"], one.token_times_s)) > TOLERANCE)
        if apart.size:
            k = int(apart[0])
            return f"request {index}: token {k} at {row['tokens_s'][k]:.6f}, reference {one.token_times_s[k]:.6f}"
        if row["preemptions"] != one.preemptions:
            return f"request {index}: {row['preemptions']} preemptions, reference {one.preemptions}"
        if row["cached_tokens"] != one.cached_tokens:
            return f"request {index}: {row['cached_tokens']} tokens found, reference {one.cached_tokens}"
    (evictions,), (lookups,) = reference.evictions, reference.lookups
    for name, ours in (("evictions", evictions), ("lookups", list(dataclasses.astuple(lookups)))):
        if theirs[name] != ours:
            return f"{name} {theirs[name]}, reference {ours}"
    return ""


def differs_from_engine(scenario: Scenario, reference: RefResult) -> str:
    """How the engine's result differs from the reference's; empty if it does not."""
    ours = scenario.run()
    for name in ("first_token_s", "finish_s", "preemptions", "cached_tokens"):
        theirs = np.array([getattr(one, name) for one in reference.requests], float)
        if not np.allclose(getattr(ours.requests, name), theirs, rtol=TOLERANCE, atol=0.0):
            return name
    return "" if ours.instances.evicted_blocks.tolist() == reference.evictions else "evicted_blocks"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.vllm_scheduler.compare", description="vLLM's scheduler against simjax.")
    parser.add_argument("--python", required=True, help="a python that has vllm")
    parser.add_argument("--release", default="vllm-0.33", choices=KNOWN, help="whose rules simjax takes")
    parser.add_argument("--kind", action="append", choices=NAMES, help="only this kind of scenarios; may be repeated")
    parser.add_argument("--count", type=int, default=200, help="scenarios to draw of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", action="store_true", help="run the engine too")
    parser.add_argument("--show", type=int, default=3, help="differences to print of each kind")
    asked, wrong = parser.parse_args(words), 0
    BlockPool.check = lambda self: None  # of all blocks after each step; the tests do so
    all_found = {kind: drawn(kind, asked.count, asked.seed, asked.release) for kind in asked.kind or NAMES}
    rows = iter(ask(asked.python.split(), [for_vllm(x) for found in all_found.values() for x, _ in found], asked.release))
    for kind, found in all_found.items():
        answers = [next(rows) for _ in found]
        seen: Counter[str] = Counter()
        for number, ((scenario, reference), answer) in enumerate(zip(found, answers, strict=True)):
            apart = difference(scenario, answer, reference)
            seen["preemptions"] += sum(x.preemptions for x in reference.requests)
            seen["requests"] += len(reference.requests)
            seen["different"] += bool(apart)
            if apart and seen["different"] <= asked.show:
                print(f"{kind} {number}: {apart}")
            if asked.engine and (name := differs_from_engine(scenario, reference)):
                seen["engine"] += 1
                print(f"{kind} {number}: the engine's {name} differs from the reference's")
        same = len(found) - seen["different"]
        said = f"{kind}\t{same} of {len(found)} agree ({seen['requests']} requests, {seen['preemptions']} preemptions)"
        print(said + (f"; engine = reference in {len(found) - seen['engine']}" if asked.engine else ""), flush=True)
        wrong += seen["different"] + seen["engine"]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
