"""Many clusters side by side give, bit for bit, what each gives alone."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.engine.batch import MEDIUM_TICKS, compiled_batch
from simjax.engine.host.batch import make_batch, program_key, rank_bucket
from simjax.engine.host.collect import request_log
from simjax.engine.host.lower import Lowered
from simjax.engine.host.result import Result, Status
from simjax.engine.kv.block_pool import BOOKS
from simjax.engine.params import RouterParams
from simjax.engine.programs import compile_count
from simjax.engine.simulate import simulate
from tests.engine.factors import SMALL, TIGHT, caching_scenario
from tests.engine.scenario import Limits, RouterPolicy, Scenario, Timing
from tests.engine.strategies import scenarios, sharing
from tests.engine.test_engine import busy_scenario
from tests.quickly import OF_USERS, efforts


def lowered(scenario: Scenario, **changes) -> Lowered:
    return Lowered(scenario.shape(**{"log_rows": 0} | changes), scenario.params())


def run_stacked(designs: list[Lowered], stride: int = 1, max_ticks: int = 10**6, expected: float = 0):
    """Final states on the host, and which designs could go on; the program is compiled for as many ticks as are expected."""
    with jax.enable_x64(True):
        batch = make_batch(designs)
        params = jax.tree.map(jnp.asarray, batch.params)
        state, going = compiled_batch(batch.shape, stride, params, expected)(params, jnp.asarray(max_ticks, jnp.int32))
        return batch, jax.tree.map(np.asarray, state), np.asarray(going)


def assert_row_is(batch, state, i: int, alone: Result) -> None:
    """Row i of a batch is the single run, bit for bit."""
    mine = jax.tree.map(lambda x: x[i], state)
    params = dataclasses.replace(batch.params, ranks=jax.tree.map(lambda x: x[i], batch.params.ranks))
    log = request_log(batch.shape, dataclasses.replace(params, workload=batch.params.workload[i]), mine, alone.status)
    for field in dataclasses.fields(log):
        np.testing.assert_array_equal(getattr(log, field.name), getattr(alone.requests, field.name), err_msg=field.name)
    assert mine.steps == alone.steps and mine.ticks == alone.ticks
    np.testing.assert_array_equal(mine.peak_blocks[: len(alone.instances.peak_blocks)], alone.instances.peak_blocks)


@pytest.mark.parametrize(
    "instances, router, expected",
    [
        (1, RouterPolicy.ROUND_ROBIN, MEDIUM_TICKS),
        (3, RouterPolicy.ROUND_ROBIN, math.inf),
        (3, RouterPolicy.RANDOM, 0),
        (3, RouterPolicy.LEAST_KV, 0),
    ],
)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
@efforts(OF_USERS)
def test_a_batch_equals_its_single_runs(instances: int, router: RouterPolicy, expected: float, data: st.DataObject):
    """Drawn clusters side by side, three engines padded to four, each with a cost and a workload of its own; compiled with every effort."""
    drawn = data.draw(st.lists(scenarios(instances), min_size=4, max_size=4))
    designs = [lowered(dataclasses.replace(scenario, router=router)) for scenario in drawn]
    batch, state, _ = run_stacked(designs, expected=expected)
    for i, design in enumerate(designs):
        assert_row_is(batch, state, i, simulate(design.shape, design.params))


@given(drawn=st.lists(scenarios(2, closed=True), min_size=2, max_size=2))
@settings(max_examples=10, deadline=None)
def test_closed_loops_in_a_batch(drawn: list[Scenario]):
    """Loops of different widths: clients are padded to the most of the batch."""
    designs = [lowered(dataclasses.replace(scenario, router=RouterPolicy.LEAST_LOADED), clients=8) for scenario in drawn]
    batch, state, _ = run_stacked(designs)
    for i, design in enumerate(designs):
        assert_row_is(batch, state, i, simulate(dataclasses.replace(design.shape, clients=8), design.params))


@given(drawn=st.lists(sharing(2, sessions=True), min_size=3, max_size=3))
@settings(max_examples=10, deadline=None)
def test_prefix_caches_and_sessions_in_a_batch(drawn: list[Scenario]):
    """Each with a tree, sessions and a router of its own."""
    designs = [lowered(scenario, stale_view=True, live_routing=True) for scenario in drawn]
    batch, state, _ = run_stacked(designs)
    for i, design in enumerate(designs):
        alone = simulate(design.shape, design.params)
        assert_row_is(batch, state, i, alone)
        np.testing.assert_array_equal(state.kv.pool.books[i, :, BOOKS.index("num_evicted")], alone.instances.evicted_blocks)


def with_blocks(*num_blocks: int, caching: tuple[bool, bool] = (True, True)) -> tuple[Limits, ...]:
    """The engines of `caching_scenario` with other caches."""
    return tuple(
        dataclasses.replace(limits, num_blocks=blocks, enable_prefix_caching=flag)
        for limits, blocks, flag in zip((TIGHT, SMALL), num_blocks, caching, strict=True)
    )


def test_sizes_of_caches_and_weights_of_routers_in_a_batch_recompile_nothing():
    """Batches of designs that differ in what a study of caches varies; every row is its single run, all of them with two programs."""
    base, other_tree = caching_scenario(True), caching_scenario(False)
    batches = [
        [base, caching_scenario(True, limits=with_blocks(26, 34)), caching_scenario(True, limits=with_blocks(400, 300))],
        [
            caching_scenario(True, weights=(1.0, 2.0, 0.0)),
            caching_scenario(True, weights=(0.0, 0.3, 2.0), staleness_s=0.2),
            caching_scenario(True, limits=with_blocks(40, 30, caching=(False, True))),
        ],
        [
            other_tree,
            dataclasses.replace(other_tree, router=RouterPolicy.LONGEST_PREFIX, staleness_s=0.0),
            dataclasses.replace(base, arrival_s=0.4 * base.arrival_s, router=RouterPolicy.SESSION_AFFINITY),
        ],
    ]
    runs, compiled_after = [], []
    for rows in batches:
        designs = [lowered(scenario, stale_view=True) for scenario in rows]
        batch, state, _ = run_stacked(designs)
        for i, design in enumerate(designs):
            alone = simulate(design.shape, design.params)
            assert_row_is(batch, state, i, alone)
            np.testing.assert_array_equal(state.kv.pool.books[i, :, BOOKS.index("num_evicted")], alone.instances.evicted_blocks)
            runs.append(alone)
        compiled_after.append(compile_count())
    assert compiled_after == compiled_after[:1] * 3
    # Each of the values says something: no two runs are alike, and all but the roomy one evict; not where there is no cache.
    assert all(run.status == Status.FINISHED and run.requests.cached_tokens.sum() > 0 for run in runs)
    assert len({run.requests.finish_s.tobytes() for run in runs}) == len(runs)
    assert [run.instances.evicted_blocks.sum() > 0 for run in runs] == [i != 2 for i in range(9)] and runs[5].instances.evicted_blocks[
        0
    ] == 0


def test_rows_do_not_see_their_neighbours():
    """A design among others that starve, preempt, stall or finish at once."""
    limits = [
        Limits(num_blocks=26, block_size=4, max_num_seqs=6, max_num_batched_tokens=24),
        Limits(num_blocks=400, block_size=4, max_num_seqs=16, max_num_batched_tokens=64),
        Limits(num_blocks=90, block_size=1, max_num_seqs=1, max_num_batched_tokens=1, async_scheduling=False),
        Limits(num_blocks=3, block_size=4),
    ]
    rows = [busy_scenario(limits=(limit,), timing=Timing.drawn(i)) for i, limit in enumerate(limits)]
    rows += [busy_scenario(arrival_s=np.zeros(1), prompt=np.ones(1, int), output=np.ones(1, int))]
    designs = [lowered(row) for row in rows]
    batch, state, going = run_stacked(designs)
    alone = [simulate(design.shape, design.params) for design in designs]
    assert [run.status for run in alone] == [Status.FINISHED] * 3 + [Status.STALLED, Status.FINISHED]
    assert not going.any()
    for i, run in enumerate(alone):
        assert_row_is(batch, state, i, run)


def test_shared_records_are_stored_once():
    scenario = busy_scenario()
    one = lowered(scenario)
    twin = dataclasses.replace(one, params=dataclasses.replace(one.params, router=RouterParams.of("random")))
    batch = make_batch([one, twin, lowered(scenario), lowered(scenario)])
    assert batch.params.workload.tolist() == [0, 0, 1, 2]
    assert batch.params.requests.count.tolist() == [28, 28, 28, 0]  # three tables' rows, padded to four
    assert batch.params.ranks.step_time[:, 0].tolist() == [0, 0, 1, 2]


def test_a_batch_that_is_cut_knows_what_it_has():
    design = lowered(busy_scenario())
    batch, state, going = run_stacked([design, design], max_ticks=40)
    assert going.all() and state.ticks.tolist() == [40, 40]
    assert_row_is(batch, state, 1, simulate(design.shape, design.params, max_ticks=40))


@pytest.mark.parametrize("router", [RouterPolicy.ROUND_ROBIN, RouterPolicy.LEAST_KV])
def test_looking_seldom_changes_nothing(router: RouterPolicy):
    """Ticks after the end of a design, which an accelerator takes to save looks, are without effect."""
    design = lowered(busy_scenario(limits=(Limits(num_blocks=40),) * 2, router=router))
    batch, state, _ = run_stacked([design] * 2, stride=16)
    assert_row_is(batch, state, 0, simulate(design.shape, design.params))


def test_values_recompile_nothing():
    """Limits, costs, workloads, routers that look at nothing, and one engine more within the padding."""
    run_stacked([lowered(busy_scenario(limits=(Limits(),) * 3))] * 2)
    before = compile_count()
    other = Limits(num_blocks=70, block_size=8, max_num_seqs=3, max_num_batched_tokens=9, async_scheduling=False)
    changed = busy_scenario(limits=(other,) * 4, timing=Timing.drawn(5), router=RouterPolicy.RANDOM)
    run_stacked([lowered(changed)] * 2)
    assert compile_count() == before


def test_what_shares_a_program():
    assert [rank_bucket(n) for n in (1, 2, 3, 5, 8, 9, 17)] == [1, 2, 4, 8, 8, 16, 24]
    one, two = busy_scenario(), busy_scenario(limits=(Limits(),) * 2)
    assert program_key(lowered(one)) == program_key(lowered(one, slots=40, requests=32))
    assert program_key(lowered(one)) != program_key(lowered(two))
    assert program_key(lowered(two)) != program_key(lowered(dataclasses.replace(two, router=RouterPolicy.LEAST_KV)))
    assert program_key(lowered(one)) != program_key(lowered(one, leap=False))


def test_no_log_is_kept():
    with pytest.raises(ValueError, match="log_rows"), jax.enable_x64(True):
        compiled_batch(busy_scenario().shape(), 1, jax.tree.map(jnp.asarray, make_batch([lowered(busy_scenario())]).params))
