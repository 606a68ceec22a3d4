"""Record small schedules of vLLM's own scheduler for `tests/engine/test_vllm_schedules.py`.

    python -m experiments.vllm_scheduler.record --python VENV/bin/python --release vllm-0.33 --kind priority --count 6 [--seed 0]

Scenarios of a kind are drawn until enough are found in which something happens: preemptions, and by kind priorities that matter, drafts of
which some are rejected, several requests in the pipeline; with a prefix cache tokens that are found, and blocks that are lost. The rules of
priorities that releases differ in are rare: the cases that `tests/engine/test_priority.py` solves by hand are recorded too. All rows go
into tests/engine/vllm_schedules.json, where those of the same kind and release are replaced.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

import numpy as np

from experiments.vllm_scheduler.compare import NAMES, as_vllm_takes_it, ask, drawn, for_vllm
from simjax.backend.releases import KNOWN
from tests.engine.pipelined import Pipelined
from tests.engine.prioritized import Prioritized
from tests.engine.scenario import Scenario
from tests.engine.speculating import Speculating
from tests.engine.test_against_reference import undecided
from tests.engine.test_priority import CASES
from tests.engine.vllm_schedules import FILE, as_row, linear

MOST_REQUESTS, MOST_STEPS = 8, 60
MOST_CALLS, MOST_STEPS_CACHED = 16, 90  # of scenarios with a prefix cache


def with_linear_times(scenario: Scenario, seed: int) -> tuple[Scenario, list[dict[str, Any]]]:
    """The scenario with step times that a few numbers say, and these."""
    rng = np.random.default_rng(seed)
    count = scenario.stages[0] if isinstance(scenario, Pipelined) else 1
    times = []
    for _ in range(count):
        a, b, c, d, e, f, g = rng.uniform(0.5, 1.5, 7).round(3).tolist()
        decode, mixed = [3e-3 * c, 2e-4 * d, 1.3e-5 * e], [5e-3 * f, 4e-5 * g]
        times.append({"token_s": 7e-4 * a, "sequence_s": 2e-4 * b, "decode_s": decode, "mixed_s": mixed})
    timings = [linear(**x) for x in times]
    own = {"own": tuple(timings)} if isinstance(scenario, Pipelined) else {}
    return dataclasses.replace(scenario, timing=timings[0], arrival_s=scenario.arrival_s.round(4), **own), times


def something_happens(scenario: Scenario) -> bool:
    """Whether it is small, decided, and shows what its kind is about."""
    reference = scenario.run_reference()
    finish_s = [x.finish_s for x in reference.requests]
    if scenario.caching:
        small = len(finish_s) <= MOST_CALLS and len(reference.steps) <= MOST_STEPS_CACHED
        found = any(x.cached_tokens for x in reference.requests) and sum(reference.evictions) > 0
        return small and found and not undecided(scenario, reference)
    if len(finish_s) > MOST_REQUESTS or len(reference.steps) > MOST_STEPS or undecided(scenario, reference):
        return False
    if sum(x.preemptions for x in reference.requests) == 0:
        return False
    if isinstance(scenario, Prioritized):
        plain = dataclasses.replace(scenario, policies=("fcfs",)).run_reference()
        return finish_s != [x.finish_s for x in plain.requests]
    if isinstance(scenario, Speculating):
        return scenario.drafts[0] > 0 and 0 < scenario.rates[0] < 1
    return not isinstance(scenario, Pipelined) or scenario.stages[0] > 1


def order_matters(scenario: Scenario) -> bool:
    """Whether it would take other times if nameless blocks were used again in another order."""
    (limits,) = scenario.limits
    other = dataclasses.replace(scenario, limits=(dataclasses.replace(limits, reuse_nameless_first=not limits.reuse_nameless_first),))
    return [x.finish_s for x in scenario.run_reference().requests] != [x.finish_s for x in other.run_reference().requests]


def by_hand(release: str) -> list[tuple[Scenario, list[dict[str, Any]]]]:
    """The cases solved by hand that have the rules of a release, and their step times of a second each."""
    times = [{"token_s": 0.0, "sequence_s": 0.0, "decode_s": [1.0, 0.0, 0.0], "mixed_s": [1.0, 0.0]}]
    taken = [(scenario, as_vllm_takes_it(scenario, release)) for scenario, _ in CASES.values()]
    return [(mine, times) for scenario, mine in taken if isinstance(mine, Prioritized) and mine.rules == scenario.rules]


def choice(kind: str, release: str, count: int, draws: int, seed: int) -> list[tuple[Scenario, list[dict[str, Any]]]]:
    """The first scenarios of a kind in which something happens, half of them with asynchronous scheduling if they have a prefix cache."""
    found = [scenario for scenario, _ in drawn(kind, draws, seed, release, tiny=True)]
    linears = [with_linear_times(x, seed + number) for number, x in enumerate(found)]
    shown = [(scenario, times) for scenario, times in linears if something_happens(scenario)]
    if any(scenario.caching for scenario, _ in shown):
        shown.sort(key=lambda one: not order_matters(one[0]))
        return [one for later in (False, True) for one in [x for x in shown if x[0].limits[0].async_scheduling == later][: count // 2]]
    return shown[:count] + (by_hand(release) if kind == "priority" else [])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.vllm_scheduler.record", description="Record schedules of vLLM.")
    parser.add_argument("--python", required=True, help="a python that has vllm")
    parser.add_argument("--release", required=True, choices=KNOWN)
    parser.add_argument("--kind", required=True, action="append", choices=NAMES, help="may be repeated")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chosen = [(kind, *one) for kind in asked.kind for one in choice(kind, asked.release, asked.count, asked.draws, asked.seed)]
    rows = []
    answers = ask(asked.python.split(), [for_vllm(scenario) for _, scenario, _ in chosen], asked.release, steps=True)
    for (kind, scenario, times), answer in zip(chosen, answers, strict=True):
        if "error" in answer:
            sys.exit(f"vLLM: {answer['error']}")
        rows.append(
            {
                "vllm": asked.release,
                "kind": kind,
                "scenario": as_row(scenario, kind, times),
                "steps": [tokens for _, _, tokens in answer["steps"]],
                "first_token_s": [x["tokens_s"][0] for x in answer["requests"]],
                "finish_s": [x["tokens_s"][-1] for x in answer["requests"]],
                "preemptions": [x["preemptions"] for x in answer["requests"]],
                "cached_tokens": [x["cached_tokens"] for x in answer["requests"]],
                "evictions": answer["evictions"],
                "lookups": answer["lookups"],
            }
        )
    old = json.loads(FILE.read_text()) if FILE.exists() else []
    kept = [row for row in old if row["vllm"] != asked.release or row["kind"] not in asked.kind]
    FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in kept + rows) + "\n]\n")
    print(f"{len(rows)} schedules of {', '.join(asked.kind)}, {asked.release}")


if __name__ == "__main__":
    main()
