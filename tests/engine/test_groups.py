"""Ranks in lockstep against the reference: every request's times to 1e-9, and every dummy; the worked examples B1 and B2."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.engine.host.lowering.groups import NEVER_ASKS, group_part, refuse_with_groups
from simjax.engine.host.result import Status
from simjax.engine.simulate import simulate
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.metrics.steps import leap_durations
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from tests.engine.grouped import BalancedGroups, Grouped, Together, as_grouped, balanced_groups, grouped
from tests.engine.scenario import Limits, RouterPolicy, Scenario
from tests.engine.test_against_reference import LEAP, STEP, assert_same, leaps, undecided
from tests.engine.test_batch import assert_row_is, lowered, run_stacked
from tests.engine.test_engine import busy_scenario

FEWER = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIMITED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(scenario: Grouped, mode: str) -> None:
    theirs = scenario.run_reference()
    assume(not undecided(scenario, theirs))
    ours = scenario.run(leap=mode == "leap" and leaps(scenario))
    assert_same(ours, theirs)
    np.testing.assert_array_equal(ours.instances.dummy_steps, [len(dummies) for dummies in theirs.dummies])
    seconds = [sum(end - start for start, end in dummies) for dummies in theirs.dummies]
    np.testing.assert_allclose(ours.instances.dummy_s, seconds, rtol=1e-9, atol=1e-12)


@given(scenario=grouped(), mode=LEAP)
@LIMITED
def test_one_group_is_the_cluster(scenario: Grouped, mode: str):
    check(scenario, mode)


@given(scenario=balanced_groups(closed=True))
@LIMITED
def test_closed_loop_on_two_groups_behind_their_load_balancers(scenario: BalancedGroups):
    check(scenario, "leap")


@given(scenario=grouped(caching=True), mode=STEP)
@FEWER
def test_prefix_caches(scenario: Grouped, mode: str):
    check(scenario, mode)


# ---- the worked examples of tests/test_reference_groups.py


def example(rows: list[tuple[float, int, int]], async_scheduling: bool, own: Together, **rules) -> Grouped:
    """Requests (arrival_s, prompt, output) on two ranks by turns."""
    arrival_s, prompt, output = (np.array(x) for x in zip(*rows, strict=True))
    limits = (Limits(async_scheduling=async_scheduling),) * 2
    return Grouped(limits, arrival_s.astype(float), prompt, output, sizes=(2,), own=(own,), **rules)


@pytest.mark.parametrize(("interval", "first", "stop"), [(16, True, 16), (32, False, 32)])
@pytest.mark.parametrize("async_scheduling", [False, True])
def test_b1_a_group_goes_on_with_dummies_until_the_ranks_ask_each_other(interval: int, first: bool, stop: int, async_scheduling: bool):
    rules = {"sync_interval": interval, "syncs_first": first}
    result = example([(0.0, 1, 3)], async_scheduling, Together.taking(1.0, 2), **rules).run()
    assert result.requests.finish_s.tolist() == [3.0]
    assert result.instances.dummy_steps.tolist() == [stop - 3, stop]
    assert result.instances.dummy_s.tolist() == [stop - 3.0, float(stop)]
    again = example([(0.0, 1, 3), (stop - 0.5, 1, 1)], async_scheduling, Together.taking(1.0, 2), **rules).run()
    assert again.requests.scheduled_s.tolist() == [0.0, float(stop)], "it waits for the last dummy"


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_b2_all_ranks_take_as_long_as_the_slowest(async_scheduling: bool):
    scenario = example([(0.0, 1, 6), (0.5, 8, 2)], async_scheduling, Together.taking(1.0, 2, prompt_s=4.0))
    late = 1.0 if async_scheduling else 0.0  # rank 1 has committed itself to another dummy
    result, theirs = scenario.run(), scenario.run_reference()
    gaps = np.diff(theirs.requests[0].token_times_s).tolist()
    assert gaps == [1.0] * int(late) + [5.0] + [1.0] * (4 - int(late))
    assert result.requests.finish_s.tolist() == [10.0, 7.0 + late]
    assert result.requests.scheduled_s.tolist() == [0.0, 1.0 + late]


@pytest.mark.parametrize(("every", "scheduled_s"), [(1, 6.0), (4, 8.0)])
def test_prefills_wait_for_the_next_release_of_the_cadence(every: int, scheduled_s: float):
    rows = [(0.0, 2, 12), (0.0, 2, 12), (5.5, 8, 2)]
    scenario = example(rows, False, Together.taking(1.0, 2, prompt_s=4.0), prefill_schedule_interval=every)
    assert scenario.run().requests.scheduled_s.tolist() == [0.0, 0.0, scheduled_s]


def test_a_prompt_that_may_not_be_split_and_exceeds_the_budget_stalls_the_run_and_lets_the_others_sleep():
    scenario = example([(0.0, 5, 1), (0.0, 1, 3)], True, Together.taking(1.0, 2))
    limits = tuple(dataclasses.replace(x, enable_chunked_prefill=False, max_num_batched_tokens=4) for x in scenario.limits)
    result = dataclasses.replace(scenario, limits=limits).run()
    assert result.status == Status.STALLED and result.requests.finished.tolist() == [False, True]
    assert result.instances.dummy_steps.tolist() == [16, 13]


# ---- totals and log


def test_dummies_are_in_neither_the_activity_nor_the_log():
    scenario = as_grouped(busy(3), (3,))
    result, theirs = scenario.run(activity=True), scenario.run_reference()
    leaps = result.leaps
    assert leaps is not None
    np.testing.assert_allclose(result.instances.busy_s, [x.busy_s for x in theirs.activity])
    for name in ("prefill_tokens", "decode_tokens", "step_tokens_min", "step_tokens_max", "step_sequences_max"):
        np.testing.assert_array_equal(getattr(result.instances, name), [getattr(x, name) for x in theirs.activity], err_msg=name)
    durations, sums = leap_durations(leaps), np.zeros(3)
    np.add.at(sums, leaps.instance, durations)
    np.testing.assert_allclose(sums, result.instances.busy_s)
    assert leaps.first_outputs.sum() + (leaps.outputs * (leaps.steps - 1)).sum() == scenario.output.sum()
    assert result.instances.dummy_steps.sum() > 0


def busy(ranks: int) -> Scenario:
    return dataclasses.replace(busy_scenario(), limits=busy_scenario().limits[:1] * ranks, router=RouterPolicy.ROUND_ROBIN)


def test_a_batch_equals_its_single_runs():
    drawn = [as_grouped(busy(3), (3,), prefill_schedule_interval=every, sync_interval=16 * every) for every in (1, 2, 3)]
    designs = [lowered(x) for x in drawn]
    batch, state, _ = run_stacked(designs)
    for i, design in enumerate(designs):
        assert_row_is(batch, state, i, simulate(design.shape, design.params))


# ---- lowering


def test_what_does_not_go_together_is_refused():
    lockstep = InstanceSpec(load_model("qwen3-30b-a3b"), load_device("h200"), Parallelism(data=2))
    piped = dataclasses.replace(lockstep, parallelism=Parallelism(data=2, pipeline=2))
    with pytest.raises(SimjaxError, match=r"with ranks in lockstep .* together with pipeline_parallel_size=2"):
        refuse_with_groups(ClusterSpec((lockstep, piped)))


def test_a_cadence_needs_ranks_in_lockstep():
    limits = InstanceLimits(prefill_schedule_interval=4)
    dense = InstanceSpec(load_model("qwen3-8b"), load_device("h200"), Parallelism(data=2), limits)
    with pytest.raises(SimjaxError, match="prefill_schedule_interval=4: it is simulated for the data-parallel ranks"):
        refuse_with_groups(ClusterSpec((dense,)))


def test_every_instance_of_a_mixture_of_experts_is_a_group():
    limits = InstanceLimits(dp_sync_interval=16, dp_syncs_first=True, prefill_schedule_interval=2, max_num_seqs=100)
    model, device = load_model("qwen3-30b-a3b"), load_device("h200")
    cluster = ClusterSpec((InstanceSpec(model, device, Parallelism(data=2), limits), InstanceSpec(model, device, Parallelism(data=3))))
    part = group_part(cluster)
    assert part.sizes == {"groups": 2, "group_ranks": 3, "lone_ranks": False}
    groups = part.params["groups"]
    found = {x.name: np.asarray(getattr(groups, x.name)).tolist() for x in dataclasses.fields(groups)}
    assert found.pop("alone") is None
    assert found == {
        "of_rank": [0, 0, 1, 1, 1],
        "first": [0, 2],
        "size": [2, 3],
        "sync_interval": [16, 32],
        "syncs_first": [True, False],
        "prefill_schedule_interval": [2, 1],
        "most_captured": [200, 512],
    }


def test_ranks_that_step_by_themselves_are_groups_of_their_own():
    limits = InstanceLimits(dp_sync_interval=16, dp_syncs_first=True, prefill_schedule_interval=2)
    lockstep = InstanceSpec(load_model("qwen3-30b-a3b"), load_device("h200"), Parallelism(data=3), limits)
    dense = dataclasses.replace(lockstep, model=load_model("qwen3-8b"), parallelism=Parallelism(data=2))
    alone = dataclasses.replace(lockstep, parallelism=Parallelism(tensor=2))
    part = group_part(ClusterSpec((dense, lockstep, alone)))
    assert part.sizes == {"groups": 4, "group_ranks": 3, "lone_ranks": True}
    groups = part.params["groups"]
    assert groups.of_rank.tolist() == [0, 1, 2, 2, 2, 3] and groups.size.tolist() == [1, 1, 3, 1]
    assert groups.alone.tolist() == [True, True, False, True]
    assert groups.prefill_schedule_interval.tolist() == [1, 1, 2, 1] and groups.syncs_first.tolist() == [False, False, True, False]
    assert groups.sync_interval.tolist() == [NEVER_ASKS, NEVER_ASKS, 16, NEVER_ASKS]
