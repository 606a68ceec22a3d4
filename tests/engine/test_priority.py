"""Ranks that schedule by priority against the reference: rules solved by hand, drawn scenarios to 1e-9; and side by side in a batch."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from simjax.engine.simulate import simulate
from tests.engine.prioritized import RULES, Prioritized, prioritized
from tests.engine.scenario import MAX_SEQUENCES, MAX_TOKENS, Limits, Timing
from tests.engine.test_against_reference import LEAP, assert_same, check
from tests.engine.test_batch import assert_row_is, lowered, run_stacked
from tests.engine.test_engine import busy_scenario

LIMITED = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEWER = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
UNIT = Timing(np.zeros(MAX_TOKENS + 1), np.zeros(MAX_SEQUENCES + 1), decode_s=(1.0, 0.0, 0.0), mixed_s=(1.0, 0.0))


@given(scenario=prioritized(), mode=LEAP)
@LIMITED
def test_one_instance(scenario: Prioritized, mode: str):
    check(scenario, mode)


@given(scenario=prioritized(caching=True))
@FEWER
def test_prefix_cache(scenario: Prioritized):
    check(scenario, "leap")


@given(scenario=prioritized(instances=2, closed=True))
@FEWER
def test_closed_loop_on_two_instances(scenario: Prioritized):
    check(scenario, "leap")


class Sent(NamedTuple):
    """A request of a case solved by hand, and the times of its tokens."""

    arrival_s: float
    priority: int
    prompt: int
    tokens_s: list[float]
    preemptions: int = 0


def case(*sent: Sent, release: str = "0.33", policy: str = "priority", **limits) -> tuple[Prioritized, tuple[Sent, ...]]:
    """One engine whose blocks are tokens and whose steps take a second each."""
    plain = Limits(**{"block_size": 1, "reserve_full_isl": False, "async_scheduling": False, **limits})
    columns = [np.array([getattr(x, name) for x in sent]) for name in ("arrival_s", "prompt")]
    output = np.array([len(x.tokens_s) for x in sent])
    own = {"priority": np.array([x.priority for x in sent]), "rules": (RULES[release],), "policies": (policy,)}
    return Prioritized((plain,), *columns, output, timing=UNIT, **own), sent


QUEUE = (Sent(0.0, 5, 1, [1, 2]), Sent(0.05, 1, 1, [4]), Sent(0.1, 1, 1, [5]), Sent(0.2, 0, 1, [3]))
CASES = {
    # The seat is not taken from the first; then the smallest priority, and of equals the earlier.
    "most_urgent_first": case(*QUEUE, max_num_seqs=1),
    "first_come_first_served": case(Sent(0.0, 5, 1, [1, 2]), Sent(0.1, 1, 1, [3]), Sent(0.2, 0, 1, [4]), max_num_seqs=1, policy="fcfs"),
    # At 3 the second needs a third block; the first has its tokens already, leaves, and the one that came at 2.5 waits a step.
    "victim_had_its_tokens": case(Sent(0.0, 9, 1, [1, 2, 3, 6], 1), Sent(0.5, 0, 1, [2, 3, 4, 5]), Sent(2.5, 0, 1, [5]), num_blocks=6),
    # Its token goes to the prompt of the third, which is then computed a step earlier.
    "its_tokens_return_to_the_budget": case(
        Sent(0.0, 9, 1, [1, 2, 3, 5], 1),
        Sent(0.5, 0, 1, [2, 3, 4]),
        Sent(1.5, 0, 5, [4]),
        num_blocks=8,
        max_num_batched_tokens=4,
        max_num_seqs=4,
    ),
    # At 4 the second preempts itself. 0.33 goes on with the third.
    "goes_on_after_itself": case(
        Sent(0.0, 0, 1, [1, 2, 3, 4, 5, 6]), Sent(0.5, 9, 1, [2, 3, 4, 7, 8], 1), Sent(1.5, 0, 1, [3, 4, 5, 6]), num_blocks=10
    ),
    "stops_after_itself": case(
        *(Sent(0.0, 0, 1, [1, 2, 3, 4, 5, 6]), Sent(0.5, 9, 1, [2, 3, 4, 7, 8], 1), Sent(1.5, 0, 1, [3, 4, 6, 7])),
        num_blocks=10,
        release="0.28",
    ),
    # At 5 the first has its last token in flight and is passed over. The second takes its blocks; the third is in the step as well,
    # or left out in releases that lose the place.
    "last_token_in_flight": case(
        *(Sent(0.0, 2, 2, [1, 2, 3, 4, 5], 1), Sent(0.5, 1, 2, [3, 4, 5, 6, 7]), Sent(1.5, 0, 2, [4, 5, 6, 7])),
        num_blocks=13,
        async_scheduling=True,
        release="0.28",
    ),
    "one_is_left_out": case(
        *(Sent(0.0, 2, 2, [1, 2, 3, 4, 5], 1), Sent(0.5, 1, 2, [3, 4, 5, 6, 7]), Sent(1.5, 0, 2, [4, 5, 7, 8])),
        num_blocks=13,
        async_scheduling=True,
        release="0.19",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str):
    scenario, sent = CASES[name]
    theirs = scenario.run_reference()
    assert [list(x.token_times_s) for x in theirs.requests] == [x.tokens_s for x in sent]
    assert [x.preemptions for x in theirs.requests] == [x.preemptions for x in sent]
    assert_same(scenario.run(), theirs)


def test_a_batch_equals_its_single_runs():
    busy = busy_scenario()
    own = {"priority": np.arange(len(busy.prompt)) * 7 % 3}
    same = {x.name: getattr(busy, x.name) for x in dataclasses.fields(busy)}
    kinds = [Prioritized(**same, **own, policies=(policy,), rules=(rule,)) for policy in ("priority", "fcfs") for rule in RULES.values()]
    tight = [dataclasses.replace(x, limits=(dataclasses.replace(x.limits[0], num_blocks=24),)) for x in kinds]
    designs = [lowered(x) for x in tight]
    batch, state, _ = run_stacked(designs)
    for i, design in enumerate(designs):
        assert_row_is(batch, state, i, simulate(design.shape, design.params))
