"""Energy of the devices: the engine against the reference's steps, and its own log; alone, in a batch, and by derivatives."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simjax.engine.columns import columns
from simjax.engine.differentiate import guarded
from simjax.engine.host.lower import Lowered
from simjax.engine.host.result import InstanceLog, LeapLog, Result
from simjax.engine.params import ClusterParams, PowerParams
from simjax.engine.simulate import advance, simulate, start
from simjax.engine.state import initial_state
from tests.engine.scenario import Scenario
from tests.engine.speculating import speculating
from tests.engine.strategies import scenarios
from tests.engine.test_against_reference import leaps, undecided
from tests.engine.test_batch import run_stacked
from tests.engine.test_engine import busy_scenario
from tests.quickly import quickly
from tests.reference import simulator as reference
from tests.reference.power import RefDevice, RefMeter
from tests.reference.simulator import result_of

NAMES = [x.name for x in columns(InstanceLog) if x.needs == "power"]
LOGGED = [x.name for x in columns(LeapLog) if x.needs == "power"]
PARTS = ("footprint_j", "memory_j", "compute_j")


def device(seed: int) -> RefDevice:
    """Irregular numbers: work of the order of the scenarios' step times, and a limit that some steps reach."""
    rng = np.random.default_rng(seed)
    drawn = lambda low, high: float(rng.uniform(low, high))
    return RefDevice(
        standing_w=drawn(10, 90),
        standby_s=drawn(0.0, 0.05),
        footprint_w=drawn(0, 100),
        memory_w=drawn(100, 500),
        compute_w=drawn(100, 500),
        limit_w=drawn(200, 700),
        sequence_host_s=drawn(0, 5e-5),
        weights_s=drawn(1e-4, 3e-3),
        token_s=drawn(1e-6, 1e-4),
        sequence_s=drawn(1e-6, 1e-5),
        experts_s=drawn(0, 2e-3),
        expert_share=drawn(0, 0.3),
        kv_s=drawn(1e-7, 1e-5),
        token_compute_s=drawn(1e-6, 1e-4),
        sequence_compute_s=drawn(1e-7, 1e-5),
        pair_compute_s=drawn(1e-9, 1e-8),
    )


def powered(scenario: Scenario, devices: list[RefDevice]) -> ClusterParams:
    table = PowerParams(**{x.name: np.array([getattr(d, x.name) for d in devices]) for x in dataclasses.fields(RefDevice)})
    return dataclasses.replace(scenario.params(), power=table)


def run(scenario: Scenario, devices: list[RefDevice], **changes) -> Result:
    return simulate(scenario.shape(power=True, **changes), powered(scenario, devices))


def metered(scenario: Scenario, devices: list[RefDevice]) -> tuple[reference.RefResult, list[RefMeter]]:
    meters = [RefMeter(device, scenario.timing.step_time) for device in devices]
    engines = [dataclasses.replace(x, step_time=meter) for x, meter in zip(scenario.reference_instances(), meters, strict=True)]
    extra = {"concurrency": scenario.concurrency or None, "think_s": scenario.think_s}
    return reference.simulate(engines, scenario.reference_requests(), scenario.router.name.lower(), *extra.values()), meters


def check(scenario: Scenario, seed: int, leap: bool) -> None:
    devices = [device(seed + i) for i in range(len(scenario.limits))]
    theirs, meters = metered(scenario, devices)
    assume(not undecided(scenario, theirs))
    ours = run(scenario, devices, leap=leap and leaps(scenario)).instances
    for i, meter in enumerate(meters):
        steps, joules = [x for x in theirs.steps if x.instance == i], meter.joules()
        assert len(steps) == len(joules)
        for name, values in zip(PARTS, np.sum(np.reshape(joules, (-1, 3)), axis=0), strict=True):
            np.testing.assert_allclose(getattr(ours, name)[i], values, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(ours.standby_j[i], meter.standby_j(steps), rtol=1e-9)
        np.testing.assert_allclose(ours.ended_s[i], steps[-1].end_s if steps else np.inf, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(scenario=scenarios(instances=3), seed=st.integers(0, 2**30), leap=st.booleans())
def test_three_instances(scenario, seed, leap):
    check(scenario, seed, leap)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenario=speculating(), seed=st.integers(0, 2**30))
def test_drafts(scenario, seed):
    meter = RefMeter(device(seed), scenario.step_time)
    watched = dataclasses.replace(scenario)
    object.__setattr__(watched, "step_time", meter)  # the reference asks the scenario for the time of each step
    cluster = watched.reference_cluster()
    cluster.run(1_000_000)
    theirs = result_of(cluster)
    assume(not undecided(scenario, theirs))
    assert len(theirs.steps) == len(meter.joules())
    ours = run(scenario, [meter.device]).instances
    for name, values in zip(PARTS, np.sum(np.reshape(meter.joules(), (-1, 3)), axis=0), strict=True):
        np.testing.assert_allclose(getattr(ours, name)[0], values, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(ours.standby_j[0], meter.standby_j([s for rank in cluster.engines for s in rank.ended]), rtol=1e-9)


@pytest.fixture(scope="module")
def busy() -> Result:
    return run(busy_scenario(), [device(1)] * len(busy_scenario().limits))


def test_the_log_adds_up_to_the_totals(busy):
    logged = busy.leaps
    for name in PARTS:
        both = getattr(logged, name) + getattr(logged, f"later_{name}")
        by_instance = np.bincount(logged.instance, both, len(busy.instances.num_blocks))
        np.testing.assert_allclose(getattr(busy.instances, name), by_instance, rtol=1e-12)
        assert (both >= 0).all() and both.any()


def test_no_step_draws_more_than_the_limit(busy):
    logged, limit_w = busy.leaps, device(1).limit_w
    first = sum(getattr(logged, name) for name in PARTS)
    assert (first <= limit_w * logged.first_step_s * (1 + 1e-12)).all() and (first > 0.5 * limit_w * logged.first_step_s).any()


@pytest.mark.parametrize("name", NAMES)
def test_columns_of_runs_without_it_are_zero(name):
    assert (getattr(busy_scenario().run().instances, name) == 0).all()


def test_the_state_has_no_array_of_it():
    scenario = busy_scenario()
    with jax.enable_x64(True):
        off = jax.eval_shape(lambda p: initial_state(scenario.shape(), p), scenario.params())
        on = jax.eval_shape(lambda p: initial_state(scenario.shape(power=True), p), powered(scenario, [device(0)]))
    planned = 9
    assert len(jax.tree.leaves(on)) == len(jax.tree.leaves(off)) + len(NAMES) + planned


def test_times_are_what_they_are_without_it(busy):
    plain = busy_scenario().run()
    for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_array_equal(getattr(plain.requests, name), getattr(busy.requests, name))
    assert jnp.isfinite(busy.instances.memory_j).all()


def test_a_batch_is_its_designs_one_by_one():
    scenario = busy_scenario()
    designs = [Lowered(scenario.shape(power=True, log_rows=0), powered(scenario, [device(seed)])) for seed in (3, 4, 5)]
    batch, state, _ = run_stacked(designs)
    for b, design in enumerate(designs):
        single = simulate(design.shape, design.params).instances
        for name in NAMES:
            np.testing.assert_array_equal(getattr(state.energy, name)[b], getattr(single, name), err_msg=name)
    assert len(batch) == 3


LEAVES = ("power.memory_w", "power.limit_w", "power.weights_s", "power.standing_w", "step_time.host_s", "step_time.tokens_s")


def test_derivatives_of_the_energy():
    """Forward mode against central differences, by a factor on each of several parameters."""
    scenario = busy_scenario()
    shape, params = scenario.shape(power=True, log_rows=0), powered(scenario, [device(1)])
    params = dataclasses.replace(params, step_time=dataclasses.replace(params.step_time, host_s=np.array([1e-3])))

    def energy_j(factors):
        scaled = params
        for name, factor in zip(LEAVES, factors, strict=True):
            part, leaf = name.split(".")
            record = getattr(scaled, part)
            scaled = dataclasses.replace(
                scaled, **{part: dataclasses.replace(record, **{leaf: jnp.asarray(getattr(record, leaf)) * factor})}
            )
        scaled = guarded(scaled)
        energy = advance(shape, scaled, start(shape, scaled), jnp.asarray(10**6, jnp.int32)).state.energy
        return jnp.sum(energy.footprint_j + energy.memory_j + energy.compute_j + energy.standby_j)

    with jax.enable_x64(True):
        run_it, ones, step = jax.jit(energy_j, compiler_options=quickly()), np.ones(len(LEAVES)), 1e-7
        slopes = jax.jit(jax.jacfwd(energy_j), compiler_options=quickly())(ones)
        ends = [[run_it(ones + sign * step * unit) for sign in (1, -1)] for unit in np.eye(len(LEAVES))]
    difference = np.array([(float(high) - float(low)) / (2 * step) for high, low in ends])
    np.testing.assert_allclose(np.asarray(slopes), difference, rtol=2e-5)
    assert (np.abs(np.asarray(slopes)) > 0).all()
