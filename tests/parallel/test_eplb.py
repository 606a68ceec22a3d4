"""The load balancer of experts: replication, packing, balancedness and epochs, by hand-worked cases and by properties."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.parallel.eplb import Epochs, balancedness, balancedness_by_epoch, initial, packed, rank_loads, rebalanced, replicated
from simjax.parallel.experts import Experts, placed, placement_in_effect

LOADS = np.array([90.0, 60.0, 40.0, 10.0])


def test_c1_packing_makes_two_ranks_even():
    linear, moved = placed(4, 2), rebalanced(LOADS, 2)
    assert balancedness(rank_loads(LOADS, linear)[None]) == pytest.approx(100 / 150)
    assert [sorted(rank) for rank in moved.tolist()] == [[0, 3], [1, 2]]
    assert balancedness(rank_loads(LOADS, moved)[None]) == 1.0


def test_c2_redundant_experts_can_be_worse_than_a_plain_packing():
    slots, copies = replicated(LOADS, 2)
    assert copies.tolist() == [2, 2, 1, 1] and sorted((LOADS / copies)[slots]) == [10, 30, 30, 40, 45, 45]
    moved = rebalanced(LOADS, 2, redundant=2)
    assert moved.tolist() == [[0, 2, 3], [0, 1, 1]]
    assert rank_loads(LOADS, moved).tolist() == [95, 105]
    assert balancedness(rank_loads(LOADS, moved)[None]) == pytest.approx(100 / 105)


def test_c3_the_first_rearrangement_comes_after_a_fourth_of_the_interval():
    epochs = Epochs()
    assert list(islice(epochs.steps(), 3)) == [750, 3750, 6750]
    assert epochs.epoch(np.array([0, 749, 750, 3749, 3750, 6750])).tolist() == [0, 0, 1, 1, 2, 3]
    assert [epochs.recorded(n) for n in (0, 1)] == [(0, 750), (2750, 3750)]
    assert list(islice(Epochs(interval=10, window=4).steps(), 2)) == [3, 13]


def test_balancedness_of_each_epoch_follows_the_loads_of_the_window():
    """The first two experts are hot up to step 900, the last two from then on: epoch 1 is placed for the past, epoch 2 for the present."""
    loads = np.ones((4000, 3, 8))
    loads[:900, :, :2], loads[900:, :, 6:] = 9.0, 9.0
    found = balancedness_by_epoch(loads, ranks=4)
    assert found[0] == pytest.approx(6 / 18), "experts 0 and 1 are on one rank"
    assert found[1] < 0.75 and found[2] == pytest.approx(6 / 10)
    assert balancedness_by_epoch(loads, ranks=4, redundant=4)[2] > found[2]


@pytest.mark.parametrize("seed", range(5))
def test_every_expert_has_a_slot_and_ranks_are_full(seed: int):
    rng = np.random.default_rng(seed)
    loads = rng.gamma(0.5, size=64)
    for nodes, groups, redundant in ((1, 1, 0), (2, 8, 16), (4, 8, 32), (2, 3, 16)):
        if 64 % groups:
            groups = 1
        slots = rebalanced(loads, 8, redundant, groups, nodes)
        assert slots.shape == (8, (64 + redundant) // 8) and set(slots.ravel()) == set(range(64))
        assert rank_loads(loads, slots).sum() == pytest.approx(loads.sum())
        assert rank_loads(loads, slots).max() <= rank_loads(loads, initial(64, 8, redundant)).max() + 1e-9


def test_copies_stay_in_the_node_of_their_group():
    loads = np.arange(32.0) + 1
    slots = rebalanced(loads, 8, redundant=8, groups=4, nodes=2)
    of_node = [set((slots[half] // 8).ravel()) for half in (slice(0, 4), slice(4, 8))]
    assert len(of_node[0]) == len(of_node[1]) == 2 and not of_node[0] & of_node[1]


def test_packs_are_as_large_as_one_another():
    assert np.bincount(packed(np.array([5.0, 4, 3, 2, 1, 0]), 3)).tolist() == [2, 2, 2]
    assert packed(np.array([1.0, 2.0]), 2).tolist() == [0, 1]


def test_linear_placement_gives_what_is_left_over_to_the_first_ranks():
    assert placed(10, 4).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, -1], [8, 9, -1]]
    assert placed(10, 4, "round_robin").tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, -1], [3, 7, -1]]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"groups": 8}, "round_robin"),
        ({"groups": 1}, "linear"),
        ({"groups": 8, "redundant": 8}, "linear"),
        ({"groups": 8, "eplb": True}, "linear"),
        ({"groups": 8, "data": 2, "all_to_all": "deepep_low_latency"}, "round_robin"),
        ({"groups": 8, "data": 2, "all_to_all": "deepep_high_throughput"}, "linear"),
        ({"groups": 8, "data": 1, "all_to_all": "deepep_high_throughput"}, "round_robin"),
    ],
)
def test_round_robin_placement_falls_back_to_linear_as_in_vllm(conditions: dict, expected: str):
    assert placement_in_effect("round_robin", **conditions) == expected
    assert placement_in_effect("linear", **conditions) == "linear"


def test_what_the_load_balancer_refuses():
    with pytest.raises(SimjaxError, match=r"^cluster.num_redundant_experts=3: .* 8 expert-parallel ranks$"):
        rebalanced(np.ones(128), 8, 3)
    with pytest.raises(SimjaxError, match=r"^cluster.num_redundant_experts=8: only with cluster.enable_eplb=true"):
        Experts(redundant=8)
    with pytest.raises(SimjaxError, match=r"^cluster.expert_placement_strategy=ring: there is no such strategy"):
        Experts(placement="ring")
