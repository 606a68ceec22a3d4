"""Record small schedules of vLLM's own scheduler for `tests/engine/test_vllm_schedules.py`.

    python -m experiments.vllm_scheduler.record --python VENV/bin/python --release vllm-0.33 --kind priority --count 6 [--seed 0]

Scenarios of a kind are drawn until enough are found in which something happens: preemptions, and by kind priorities that matter, drafts of
which some are rejected, several requests in the pipeline. The rules of priorities that releases differ in are rare: the cases that
`tests/engine/test_priority.py` solves by hand are recorded too. All rows go into tests/engine/vllm_schedules.json, where those of the same
kind and release are replaced.
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


def by_hand(release: str) -> list[tuple[Scenario, list[dict[str, Any]]]]:
    """The cases solved by hand that have the rules of a release, and their step times of a second each."""
    times = [{"token_s": 0.0, "sequence_s": 0.0, "decode_s": [1.0, 0.0, 0.0], "mixed_s": [1.0, 0.0]}]
    taken = [(scenario, as_vllm_takes_it(scenario, release)) for scenario, _ in CASES.values()]
    return [(mine, times) for scenario, mine in taken if isinstance(mine, Prioritized) and mine.rules == scenario.rules]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.vllm_scheduler.record", description="Record schedules of vLLM.")
    parser.add_argument("--python", required=True, help="a python that has vllm")
    parser.add_argument("--release", required=True, choices=KNOWN)
    parser.add_argument("--kind", required=True, choices=NAMES)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found = [scenario for scenario, _ in drawn(asked.kind, asked.draws, asked.seed, asked.release)]
    linears = [with_linear_times(x, asked.seed + number) for number, x in enumerate(found)]
    chosen = [(scenario, times) for scenario, times in linears if something_happens(scenario)][: asked.count]
    chosen += by_hand(asked.release) if asked.kind == "priority" else []
    rows = []
    for (scenario, times), answer in zip(
        chosen, ask(asked.python.split(), [for_vllm(x) for x, _ in chosen], asked.release, steps=True), strict=True
    ):
        if "error" in answer:
            sys.exit(f"vLLM: {answer['error']}")
        rows.append(
            {
                "vllm": asked.release,
                "kind": asked.kind,
                "scenario": as_row(scenario, asked.kind, times),
                "steps": [tokens for _, _, tokens in answer["steps"]],
                "first_token_s": [x["tokens_s"][0] for x in answer["requests"]],
                "finish_s": [x["tokens_s"][-1] for x in answer["requests"]],
                "preemptions": [x["preemptions"] for x in answer["requests"]],
            }
        )
    old = json.loads(FILE.read_text()) if FILE.exists() else []
    kept = [row for row in old if (row["vllm"], row["kind"]) != (asked.release, asked.kind)]
    FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in kept + rows) + "\n]\n")
    print(f"{len(rows)} schedules of {asked.kind}, {asked.release}")


if __name__ == "__main__":
    main()
