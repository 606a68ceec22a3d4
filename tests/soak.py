"""Random clusters and workloads, engine against reference, for as long as there is time: `python -m tests.soak --minutes 30`.

The tests compare small scenarios that are the same in every run; these are new ones, and some several times as large. A round is one
kind of scenario with one seed, chosen from --seed. A mismatch is made as small as Hypothesis can, printed with the command that repeats it,
and the soak continues; at the end the exit code is 1. Ties that rounding decides are left out, as in `tests.engine.test_against_reference`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from simjax.engine.shape import EngineShape, slots_for
from tests.engine import test_groups, test_tiers, test_two_legs
from tests.engine.balanced import balancing, balancing_legs
from tests.engine.combined import (
    caches_on_stages,
    check_staged_drafts,
    drafts_and_caches,
    prioritized_groups,
    sessions_in_groups,
    sessions_on_stages,
    sessions_with_drafts,
    speculating_grouped_legs,
    speculating_groups,
    speculating_legs,
    staged_drafts,
    urgent_drafts,
)
from tests.engine.grouped import balanced_groups, beside_one, grouped, mixed_groups
from tests.engine.grouped_legs import balanced_grouped_legs, check_grouped_legs, grouped_legs, mixed_legs
from tests.engine.pipelined import pipelined
from tests.engine.prioritized import prioritized
from tests.engine.scenario import FANOUT, NODES, PATH, SHAPE, Scenario
from tests.engine.speculating import speculating
from tests.engine.strategies import SMALL, Sizes, scenarios, sharing
from tests.engine.test_against_reference import check, check_as_shaped
from tests.engine.tiered import tiered
from tests.engine.two_legs import crowded, two_legs

REQUESTS, SEQUENCES, CLIENTS = 128, 64, 64


@dataclass(frozen=True)
class WideScenario(Scenario):
    """A scenario of up to `REQUESTS` requests, on programs of that size."""

    def shape(self, **changes) -> EngineShape:
        small = super().shape()
        larger = REQUESTS // SHAPE.requests
        sized = dataclasses.replace(
            small,
            requests=REQUESTS,
            slots=slots_for(SEQUENCES, REQUESTS, small.window),
            clients=CLIENTS if self.concurrency else small.clients,
            prefix_nodes=NODES * larger if self.caching else 0,
            prefix_path=PATH * larger if self.caching else 0,
            fanout=FANOUT * larger if self.waits is not None else 0,
        )
        return dataclasses.replace(sized, **changes)


WIDE = Sizes(
    scenario=WideScenario,
    tokens=512,
    sequences=SEQUENCES,
    blocks=(60, 300, 2000),
    requests=REQUESTS,
    prompt=400,
    outputs=(2, 12, 80),
    clients=CLIENTS,
)


class Kind(NamedTuple):
    """Scenarios that share a program in each mode, and the comparison of one."""

    scenarios: st.SearchStrategy[Any]
    examples: int  # of a round
    check: Callable[[Any, str], None] | None = None  # that of one leg


def check_steps(scenario: Scenario, mode: str) -> None:
    """The comparison of a scenario whose subsystem has no leaps in either mode."""
    check_as_shaped(scenario)


def kinds() -> dict[str, Kind]:
    found = {}
    for prefix, sizes, examples in (("", SMALL, 60), ("wide_", WIDE, 15)):
        found |= {
            f"{prefix}one": Kind(scenarios(sizes=sizes), examples),
            f"{prefix}three": Kind(scenarios(instances=3, sizes=sizes), examples),
            f"{prefix}closed_loop": Kind(scenarios(closed=True, sizes=sizes), examples),
            f"{prefix}closed_loop_on_two": Kind(scenarios(instances=2, closed=True, sizes=sizes), examples),
            f"{prefix}capped": Kind(scenarios(capped=True, sizes=sizes), examples),
            f"{prefix}capped_on_three": Kind(scenarios(instances=3, capped=True, sizes=sizes), examples),
            f"{prefix}prefix_cache": Kind(sharing(sizes=sizes), examples),
            f"{prefix}sessions": Kind(sharing(sessions=True, sizes=sizes), examples),
            f"{prefix}prefix_caches_on_three": Kind(sharing(instances=3, sizes=sizes), examples),
            f"{prefix}sessions_on_three": Kind(sharing(instances=3, sessions=True, sizes=sizes), examples),
        }
    found |= {
        "two_legs_on_two": Kind(two_legs(scenarios(instances=2)), 60, test_two_legs.check),
        "two_legs_on_three": Kind(two_legs(scenarios(instances=3)), 60, test_two_legs.check),
        "two_legs_closed_loop": Kind(two_legs(scenarios(instances=2, closed=True)), 60, test_two_legs.check),
        "two_legs_crowded": Kind(crowded(scenarios(instances=2)), 60, test_two_legs.check),
        "pipelined": Kind(pipelined(), 60, check_steps),
        "pipelined_closed_loop_on_two": Kind(pipelined(instances=2, closed=True), 60, check_steps),
        "pipelined_capped_on_two": Kind(pipelined(instances=2, capped=True), 60, check_steps),
        "speculating": Kind(speculating(), 60, check_steps),
        "speculating_closed_loop_on_two": Kind(speculating(instances=2, closed=True), 60, check_steps),
        "lockstep": Kind(grouped(), 60, test_groups.check),
        "lockstep_of_two_and_three": Kind(grouped(sizes=(2, 3)), 60, test_groups.check),
        "lockstep_closed_loop": Kind(grouped(sizes=(2, 3), closed=True), 60, test_groups.check),
        "lockstep_balanced": Kind(balanced_groups(), 60, test_groups.check),
        "lockstep_prefix_caches": Kind(grouped((1, 2), caching=True), 60, test_groups.check),
        "lockstep_capped": Kind(grouped(sizes=(1, 2), capped=True), 60, test_groups.check),
        "prioritized": Kind(prioritized(), 60),
        "prioritized_closed_loop_on_two": Kind(prioritized(instances=2, closed=True), 60),
        "prioritized_capped_on_two": Kind(prioritized(instances=2, capped=True), 60),
        "balanced": Kind(balancing(), 60),
        "balanced_closed_loop": Kind(balancing(scenarios(instances=4, closed=True)), 60),
        "balanced_prefix_caches": Kind(balancing(sharing(instances=4)), 60),
        "balanced_sessions": Kind(balancing(sharing(instances=4, sessions=True)), 60),
        "two_legs_headroom": Kind(crowded(scenarios(instances=2), ("sglang",)), 60, test_two_legs.check),
        "two_legs_headroom_prefix_caches": Kind(crowded(sharing(instances=3, sessions=True), ("sglang",)), 60, test_two_legs.check),
        "balanced_two_legs": Kind(balancing_legs(), 60, test_two_legs.check),
        "prioritized_prefix_caches": Kind(prioritized(caching=True), 60),
        "prioritized_prefix_caches_on_two": Kind(prioritized(2, caching=True), 60),
        "prioritized_cached_sessions": Kind(prioritized(sessions=True, caching=True), 60),
        "prioritized_sessions": Kind(prioritized(sessions=True), 60),
        "lockstep_sessions": Kind(sessions_in_groups(), 60, test_groups.check),
        "lockstep_speculating": Kind(speculating_groups(), 60, test_groups.check),
        "lockstep_speculating_closed_loop": Kind(speculating_groups((1, 2), closed=True), 60, test_groups.check),
        "lockstep_speculating_prefix_caches": Kind(speculating_groups((1, 2), caching=True), 60, test_groups.check),
        "pipelined_sessions_on_two": Kind(sessions_on_stages(2), 60, check_steps),
        "pipelined_prefix_caches": Kind(caches_on_stages(), 60, check_steps),
        "pipelined_prefix_caches_on_two": Kind(caches_on_stages(2), 60, check_steps),
        "pipelined_cached_sessions": Kind(caches_on_stages(sessions=True), 60, check_steps),
        "speculating_sessions_on_two": Kind(sessions_with_drafts(2), 60, check_steps),
        "lockstep_prioritized": Kind(prioritized_groups(), 60, test_groups.check),
        "lockstep_prioritized_closed_loop": Kind(prioritized_groups((1, 2), closed=True), 60, test_groups.check),
        "speculating_by_priority": Kind(urgent_drafts(), 60, check_steps),
        "speculating_by_priority_closed_loop_on_two": Kind(urgent_drafts(2, closed=True), 60, check_steps),
        "speculating_by_priority_prefix_caches": Kind(urgent_drafts(caching=True), 60, check_steps),
        "speculating_prefix_caches": Kind(drafts_and_caches(), 60, check_steps),
        "speculating_prefix_caches_on_two": Kind(drafts_and_caches(instances=2), 60, check_steps),
        "speculating_cached_sessions": Kind(drafts_and_caches(sessions=True), 60, check_steps),
        "pipelined_speculating": Kind(staged_drafts(), 60, check_staged_drafts),
        "pipelined_speculating_closed_loop_on_two": Kind(staged_drafts(2, closed=True), 60, check_staged_drafts),
        "pipelined_speculating_prefix_caches": Kind(staged_drafts(caching=True), 60, check_staged_drafts),
        "pipelined_speculating_cached_sessions": Kind(staged_drafts(caching=True, sessions=True), 60, check_staged_drafts),
        "speculating_two_legs": Kind(speculating_legs(), 60, test_two_legs.check),
        "speculating_two_legs_closed_loop": Kind(speculating_legs(closed=True), 60, test_two_legs.check),
        "speculating_two_legs_prefix_caches": Kind(speculating_legs(3, caching=True), 60, test_two_legs.check),
        "speculating_two_legs_cached_sessions": Kind(speculating_legs(caching=True, sessions=True), 60, test_two_legs.check),
        "lockstep_speculating_two_legs_prefix_caches": Kind(speculating_grouped_legs(caching=True), 60, check_grouped_legs),
        "lockstep_speculating_two_legs": Kind(speculating_grouped_legs(), 60, check_grouped_legs),
        "lockstep_two_legs": Kind(grouped_legs(), 60, check_grouped_legs),
        "lockstep_balanced_two_legs": Kind(balanced_grouped_legs(), 60, check_grouped_legs),
        "lockstep_two_legs_crowded": Kind(grouped_legs(tight=True), 60, check_grouped_legs),
        "lockstep_two_legs_prefix_caches": Kind(grouped_legs(caching=True), 60, check_grouped_legs),
        "lockstep_two_legs_crowded_prefix_caches": Kind(grouped_legs(caching=True, tight=True), 60, check_grouped_legs),
        "lockstep_two_legs_cached_sessions": Kind(grouped_legs(caching=True, sessions=True), 60, check_grouped_legs),
        "lockstep_beside_one": Kind(mixed_groups(), 60, test_groups.check),
        "lockstep_beside_one_closed_loop": Kind(mixed_groups(closed=True), 60, test_groups.check),
        "lockstep_beside_one_prioritized": Kind(beside_one(prioritized_groups((1, 2))), 60, test_groups.check),
        "lockstep_beside_one_speculating": Kind(beside_one(speculating_groups((1, 2))), 60, test_groups.check),
        "lockstep_beside_one_prefix_caches": Kind(mixed_groups(caching=True), 60, test_groups.check),
        "lockstep_beside_one_two_legs": Kind(mixed_legs(), 60, check_grouped_legs),
        "lockstep_beside_one_two_legs_closed_loop": Kind(mixed_legs(closed=True), 60, check_grouped_legs),
        "lockstep_beside_one_two_legs_prefix_caches": Kind(mixed_legs(caching=True), 60, check_grouped_legs),
        "lockstep_two_legs_closed_loop": Kind(grouped_legs(closed=True), 60, check_grouped_legs),
        "tiers": Kind(tiered(), 60, test_tiers.check),
        "tiers_sessions": Kind(tiered(sessions=True), 60, test_tiers.check),
        "tiers_on_two": Kind(tiered(instances=2), 60, test_tiers.check),
        "two_legs_sessions": Kind(two_legs(sharing(instances=3, sessions=True)), 60, test_two_legs.check),
    }
    return found


def one_round(kind: Kind, number: int, seen: Counter[str]) -> None:
    """Compare the scenarios of one kind and seed; raises on the smallest one found that differs."""

    @seed(number)
    @settings(
        max_examples=kind.examples,
        derandomize=False,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(scenario=kind.scenarios, mode=st.sampled_from(["leap", "step"]))
    def compare(scenario: Scenario, mode: str) -> None:
        (kind.check or check)(scenario, mode)
        seen.update({"scenarios": 1, "requests": len(scenario.prompt), mode: 1})

    compare()


def soak(minutes: float, first: int, names: list[str], rounds: int | None, show: Callable[[str], None] = print) -> list[str]:
    """Rounds until the time is over, or so many; the commands that repeat those that failed."""
    all_kinds, rng, seen, failed = kinds(), np.random.default_rng(first), Counter(), []
    began, done = time.monotonic(), 0
    while time.monotonic() - began < 60 * minutes and done != rounds:
        name = names[done % len(names)]
        number = first if rounds == 1 else int(rng.integers(2**31))
        try:
            one_round(all_kinds[name], number, seen)
        except Exception:
            failed.append(f"python -m tests.soak --kind {name} --seed {number} --rounds 1")
            show(f"{traceback.format_exc()}\nto repeat it: {failed[-1]}\n")
        done += 1
        if done % len(names) == 0:
            show(_state(began, done, seen, failed))
    if done % len(names):
        show(_state(began, done, seen, failed))
    return failed


def _state(began: float, done: int, seen: Counter[str], failed: list[str]) -> str:
    counts = ", ".join(
        f"{seen[name]:,} {word}" for name, word in (("scenarios", "scenarios"), ("requests", "requests"), ("leap", "with leaps"))
    )
    return f"{(time.monotonic() - began) / 60:.1f} min, {done} rounds: {counts}; {len(failed)} rounds failed"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Random scenarios, engine against reference.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long; a round that has begun is finished")
    parser.add_argument("--seed", type=int, default=None, help="the first seed; default: another one each time")
    parser.add_argument("--kind", action="append", choices=list(kinds()), help="only this kind of scenarios; may be repeated")
    parser.add_argument("--rounds", type=int, default=None, help="at most so many rounds")
    asked = parser.parse_args(words)
    first = int(np.random.SeedSequence().generate_state(1)[0] >> 1) if asked.seed is None else asked.seed
    print(f"seed {first}", flush=True)
    failed = soak(asked.minutes, first, asked.kind or list(kinds()), asked.rounds, lambda line: print(line, flush=True))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
