"""The reference of lockstep ranks on traces that are worked out by hand (B1, B2), and its rules one by one."""

import pytest

from tests.reference.groups import Group, RefGroup, Tokens
from tests.reference.simulator import Cluster, RefRouter, simulate
from tests.reference.toy import instance, requests, scheduled, tokens

BY_TURNS = "round_robin"


def unit(batches: list[Tokens]) -> float:
    return 1.0


def longest(batches: list[Tokens]) -> float:
    """A decode or a dummy takes 1, a prompt 5."""
    return max(5.0 if any(new > 1 for new, _ in batch) else 1.0 for batch in batches)


def ranks(count: int = 2, async_scheduling: bool = False, step_time=unit, **rules):
    """A group of so many ranks."""
    limits = {name: rules.pop(name) for name in ("max_num_batched_tokens", "max_num_seqs") if name in rules}
    group = RefGroup(0, step_time, **rules)
    return [instance(group=group, async_scheduling=async_scheduling, **limits) for _ in range(count)]


@pytest.mark.parametrize(("interval", "first", "stop"), [(16, True, 16.0), (32, False, 32.0)])
@pytest.mark.parametrize("async_scheduling", [False, True])
def test_b1_a_group_goes_on_with_dummies_until_the_ranks_ask_each_other(interval, first, stop, async_scheduling):
    # Work on rank 0 for 3 steps; a request that comes much later starts the next wave.
    servers = ranks(2, async_scheduling, sync_interval=interval, syncs_first=first)
    result = simulate(servers, requests((0.0, 1, 3), (100.0, 1, 3)), BY_TURNS)
    assert tokens(result) == [(1.0, 2.0, 3.0), (101.0, 102.0, 103.0)]
    first_wave = [[dummy for dummy in dummies if dummy[0] < 50.0] for dummies in result.dummies]
    assert [len(dummies) for dummies in first_wave] == [int(stop) - 3, int(stop)]
    assert {dummies[-1] for dummies in first_wave} == {(stop - 1.0, stop)}


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_b2_all_ranks_take_as_long_as_the_slowest(async_scheduling):
    # Rank 0 decodes while rank 1 computes a prompt in 5: so long does rank 0's token take.
    servers = ranks(2, async_scheduling, longest)
    result = simulate(servers, requests((0.0, 1, 6), (0.5, 8, 2)), BY_TURNS)
    late = 1.0 if async_scheduling else 0.0  # rank 1 has committed itself to another dummy
    assert result.requests[1].scheduled_s == 1.0 + late
    gaps = [b - a for a, b in zip(tokens(result)[0], tokens(result)[0][1:], strict=False)]
    assert gaps == [1.0] * int(late) + [5.0] + [1.0] * (4 - int(late))
    assert tokens(result)[1] == (6.0 + late, 7.0 + late)


@pytest.mark.parametrize(("async_scheduling", "stop"), [(False, 1.0), (True, 16.0)])
def test_the_first_question_of_an_asynchronous_rank_is_answered_before_its_request_has_finished(async_scheduling, stop):
    servers = ranks(2, async_scheduling, sync_interval=16, syncs_first=True)
    result = simulate(servers, requests((0.0, 1, 1)), BY_TURNS)
    assert result.dummies[1][-1] == (stop - 1.0, stop)


@pytest.mark.parametrize(("async_scheduling", "at"), [(False, [11.0, 100.5]), (True, [12.0, 100.5])])
def test_a_request_waits_for_the_dummy_under_way_and_wakes_a_group_that_sleeps(async_scheduling, at):
    servers = ranks(2, async_scheduling, sync_interval=16)
    assert scheduled(simulate(servers, requests((0.0, 1, 1), (10.5, 1, 1), (100.5, 1, 1)), BY_TURNS))[1:] == at


def test_a_request_that_comes_with_the_last_dummy_starts_a_wave_of_its_own():
    cluster = Cluster(ranks(2, sync_interval=16), requests((0.0, 1, 1), (15.5, 1, 1)), RefRouter(BY_TURNS), None, 0.0)
    cluster.run(1000)
    (group,) = cluster.units
    assert isinstance(group, Group) and group.stops_s == [16.0, 32.0]
    assert cluster.outcome(1).scheduled_s == 16.0


def test_prefills_are_held_for_a_multiple_of_the_interval():
    # Rank 0 decodes from forward 0 on; its second request comes during forward 1 and may begin in forward 4.
    servers = ranks(2, step_time=longest, prefill_schedule_interval=4)
    result = simulate([servers[0]], requests((0.0, 2, 12), (5.5, 8, 2)), BY_TURNS)
    assert scheduled(result) == [0.0, 8.0]


def test_prefills_are_not_held_where_nothing_decodes_nor_once_a_release_leaves_some_waiting():
    servers = ranks(2, step_time=longest, prefill_schedule_interval=4)
    result = simulate(servers, requests((0.0, 2, 12), (5.5, 8, 2)), BY_TURNS)
    assert scheduled(result) == [0.0, 6.0], "rank 1 decodes nothing"
    tight = ranks(1, step_time=longest, prefill_schedule_interval=4, max_num_seqs=2)
    result = simulate(tight, requests((0.0, 2, 20), (5.5, 8, 3), (5.6, 8, 1)), BY_TURNS)
    # Forward 4 at 8.0 admits the first of the two and has no seat for the other, which joins as soon as there is one.
    assert scheduled(result) == [0.0, 8.0, 15.0]


def test_groups_and_ranks_of_their_own_side_by_side():
    slower = RefGroup(1, lambda batches: 2.0, sync_interval=16)
    alone, others = instance(step_time=lambda batch: 3.0), [instance(group=slower) for _ in range(2)]
    result = simulate([*ranks(2, sync_interval=16), alone, *others], requests(*[(0.0, 1, 2)] * 5), BY_TURNS)
    assert tokens(result) == [(1.0, 2.0)] * 2 + [(3.0, 6.0)] + [(2.0, 4.0)] * 2
