"""What the engine promises beside its schedule: compiles once, batches exactly, ends, conserves, differentiates."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from simjax.engine.columns import recorded
from simjax.engine.host.result import NEVER, RequestLog, Status
from simjax.engine.programs import compile_count
from simjax.engine.simulate import advance, simulate, start
from tests.engine.scenario import SHAPE, Limits, RouterPolicy, Scenario, Timing
from tests.engine.strategies import scenarios
from tests.quickly import quickly

FINISH = recorded(RequestLog, SHAPE).index("finish_s")


def busy_scenario(**changes) -> Scenario:
    """Chunks, a queue and preemptions on one instance."""
    rng = np.random.default_rng(3)
    base = Scenario(
        limits=(Limits(num_blocks=40, block_size=4, max_num_seqs=6, max_num_batched_tokens=24),),
        arrival_s=np.cumsum(rng.exponential(0.02, 28)),
        prompt=rng.integers(1, 50, 28),
        output=rng.integers(1, 40, 28),
        timing=Timing.drawn(1),
    )
    return dataclasses.replace(base, **changes)


def test_it_compiles_once():
    """Limits, costs, arrivals, lengths and policies are traced: changing them recompiles nothing."""
    first = busy_scenario()
    first.run()
    before = compile_count()
    limits = Limits(num_blocks=55, block_size=8, max_num_seqs=3, max_num_batched_tokens=9, async_scheduling=False, reserve_full_isl=False)
    busy_scenario(limits=(limits,), timing=Timing.drawn(2), arrival_s=first.arrival_s * 3, prompt=first.prompt[::-1]).run()
    assert compile_count() == before

    routed = busy_scenario(limits=(Limits(), Limits(max_num_seqs=3)), router=RouterPolicy.LEAST_LOADED)
    routed.run()
    before = compile_count()
    dataclasses.replace(routed, router=RouterPolicy.LEAST_KV).run()
    assert compile_count() == before


def test_no_two_ticks_are_traced(monkeypatch):
    """One trace per program: a tick that is traced again would be compiled again."""
    import simjax.engine.simulate as module

    traces, tick = [], module.tick
    monkeypatch.setattr(module, "tick", lambda *args: (traces.append(1), tick(*args))[1])
    scenario = busy_scenario()
    shape = dataclasses.replace(scenario.shape(), log_rows=77)  # a shape no other test uses
    for _ in range(3):
        simulate(shape, scenario.params())
    assert len(traces) <= 2  # `while_loop` may trace its body twice to settle the carry's types


def test_leaps_save_ticks_and_change_nothing():
    roomy = Limits(num_blocks=1000, max_num_seqs=16, max_num_batched_tokens=64)
    scenario = busy_scenario(limits=(roomy,), output=np.arange(28) * 7 + 1)
    leaping, stepping = scenario.run(), scenario.run(leap=False)
    assert leaping.steps == stepping.steps and leaping.ticks < 0.3 * stepping.ticks
    np.testing.assert_allclose(leaping.requests.finish_s, stepping.requests.finish_s, rtol=1e-12)


@given(scenario=scenarios(instances=2))
@settings(max_examples=40, deadline=None)
def test_invariants(scenario: Scenario):
    result = scenario.run()
    log, leaps = result.requests, result.leaps
    assert log.finished.all() and result.status == Status.FINISHED
    assert (log.arrival_s <= log.scheduled_s).all()
    post_s = np.array([limits.api_post_s for limits in scenario.limits])[log.instance]
    assert (log.scheduled_s < log.first_token_s - post_s + 1e-12).all() and (log.first_token_s <= log.finish_s).all()
    emitted = leaps.first_outputs + leaps.outputs * (leaps.steps - 1)
    assert emitted.sum() == log.output_tokens.sum()
    assert leaps.prompt_tokens.sum() >= log.prompt_tokens.sum()
    totals = result.instances
    assert (leaps.kv_blocks <= totals.num_blocks[leaps.instance]).all() and (totals.peak_blocks <= totals.num_blocks).all()
    assert leaps.steps.sum() == result.steps
    for i in range(len(scenario.limits)):
        mine = leaps.instance == i
        ends = leaps.start_s[mine] + durations(leaps)[mine]
        assert (leaps.start_s[mine][1:] >= ends[:-1] - 1e-12).all()  # an engine does one step at a time
        served = np.flatnonzero(log.instance == i)
        assert (np.diff(log.scheduled_s[served]) >= 0).all()  # first come first served


def durations(leaps) -> np.ndarray:
    later = leaps.steps - 1
    return leaps.first_step_s + later * leaps.next_step_s + leaps.slope_s * later * (later - 1) / 2


def test_a_tick_limit_ends_a_run_with_what_it_has():
    scenario = busy_scenario()
    whole, cut = scenario.run(), simulate(scenario.shape(), scenario.params(), max_ticks=40)
    assert cut.status == Status.TICK_LIMIT and cut.ticks == 40
    done = cut.requests.finished
    assert 0 < done.sum() < 28
    np.testing.assert_array_equal(cut.requests.finish_s[done], whole.requests.finish_s[done])
    started = np.isfinite(cut.requests.first_token_s)
    assert (started & ~done).any()  # requests still in the engine keep what is known of them
    np.testing.assert_array_equal(cut.requests.first_token_s[started], whole.requests.first_token_s[started])
    assert (cut.requests.finish_s[~done] == NEVER).all()


def test_a_cluster_that_cannot_go_on_stalls_instead_of_hanging():
    """Lowering refuses such requests; the engine itself must still come to an end."""
    scenario = busy_scenario(limits=(Limits(num_blocks=3, block_size=4),), prompt=np.full(28, 20), output=np.full(28, 5))
    result = scenario.run()
    assert result.status == Status.STALLED and not result.requests.finished.any()
    assert (result.requests.scheduled_s == NEVER).all()


def test_the_log_is_the_same_in_small_pieces():
    scenario = busy_scenario()
    whole, pieces = scenario.run(), scenario.run(log_rows=5)
    for field in dataclasses.fields(whole.leaps):
        np.testing.assert_array_equal(getattr(whole.leaps, field.name), getattr(pieces.leaps, field.name))


def test_preemption_waits_its_turn_in_the_log():
    leaps = busy_scenario(limits=(Limits(num_blocks=26, block_size=4),)).run().leaps
    assert leaps.preempted.max() > 0 and leaps.resumed.sum() > 0
    assert (leaps.resumed_gap_s[leaps.resumed > 0] > 0).all() and (leaps.resumed_gap_s[leaps.resumed == 0] == 0).all()


SCALED = ("tokens_s", "decode_kv_s")


@functools.cache
def scaled_finishes() -> tuple[Callable, Callable]:
    """Finish times of `busy_scenario` with factors on its step times, and their derivative: (scales), (scales, their tangents)."""
    scenario = busy_scenario()
    shape = dataclasses.replace(scenario.shape(), log_rows=0)
    params = jax.tree.map(jnp.asarray, scenario.params())

    def finish_s(scales):
        step_time, attention = params.step_time, params.step_time.attention
        attention = dataclasses.replace(attention, decode_kv_s=attention.decode_kv_s * scales[1])
        step_time = dataclasses.replace(step_time, tokens_s=step_time.tokens_s * scales[0], attention=attention)
        scaled = dataclasses.replace(params, step_time=step_time)
        return advance(shape, scaled, start(shape, scaled), jnp.asarray(10**6, jnp.int32)).state.outcome[:28, FINISH]

    jit = functools.partial(jax.jit, compiler_options=quickly())
    return jit(finish_s), jit(lambda scales, tangents: jax.jvp(finish_s, (scales,), (tangents,))[1])


@pytest.mark.parametrize("leaf", SCALED)
def test_derivatives_through_a_run(leaf: str):
    """Forward mode through leaps and preemptions equals finite differences small enough to leave the schedule alone."""
    with jax.enable_x64(True):
        f, derivative = scaled_finishes()
        ones, along, h = jnp.ones(2, jnp.float64), jnp.asarray([leaf == name for name in SCALED], jnp.float64), 1e-7
        slope, difference = np.asarray(derivative(ones, along)), np.asarray((f(ones + h * along) - f(ones - h * along)) / (2 * h))
    assert np.isfinite(slope).all() and (slope > 0).sum() > 20  # a request of one token feels no decode
    np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-8)


def test_a_run_that_is_cut_knows_who_waits_and_who_was_never_sent():
    """At the cut some requests run, some queue at their instance, and the later ones have not been sent."""
    scenario = busy_scenario(arrival_s=np.linspace(0.0, 1.5, 28), limits=(Limits(num_blocks=26, block_size=4, max_num_seqs=1),))
    for case in (scenario, dataclasses.replace(scenario, limits=scenario.limits * 2, router=RouterPolicy.LEAST_LOADED)):
        log = simulate(case.shape(), case.params(), max_ticks=30).requests
        sent, served = np.isfinite(log.arrival_s), np.isfinite(log.scheduled_s)
        assert (sent & ~served).any() and (~sent).any()
        assert (log.instance[sent] >= 0).all() and (log.instance[~sent] == -1).all()
        assert (log.arrival_s[sent & ~served] <= log.scheduled_s[served].max() + 1.0).all()
        np.testing.assert_array_equal(log.arrival_s[sent], case.arrival_s[sent])


def test_what_is_not_asked_for_is_not_in_the_program():
    """No router stage when every instance is known before the run, no clients in an open loop, no log when none is kept."""
    scenario = busy_scenario()

    def equations(**changes) -> int:
        shape = scenario.shape(**changes)
        with jax.enable_x64(True):
            params = jax.tree.map(jnp.asarray, scenario.params())
            jaxpr = jax.make_jaxpr(lambda p: advance(shape, p, start(shape, p), jnp.asarray(1, jnp.int32)).state)(params)
        return str(jaxpr).count(" = ")

    plain, live = equations(log_rows=0), equations(log_rows=0, live_routing=True)
    closed = equations(log_rows=0, live_routing=True, clients=4)
    assert plain < live < closed and plain < equations() and equations(log_rows=0, leap=False) < plain
