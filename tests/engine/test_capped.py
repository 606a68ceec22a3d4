"""A client with a cap on its requests in flight: its schedule, its seats, and what it shares with a closed loop."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.engine.batch import compiled_batch
from simjax.engine.host.batch import make_batch, program_key
from simjax.engine.host.collect import batch_results
from simjax.engine.host.lower import Lowered
from simjax.engine.host.result import Result
from simjax.engine.programs import compile_count
from simjax.engine.shape import EngineShape
from simjax.engine.simulate import simulate
from tests.engine.scenario import Limits, Scenario
from tests.engine.test_engine import busy_scenario

APIS = Limits(num_blocks=40, api_pre_s=0.013, api_post_s=0.007)


def capped(cap: int, **changes) -> Scenario:
    return busy_scenario(limits=(APIS,), max_concurrency=cap, **changes)


def most_in_flight(result: Result) -> int:
    log = result.requests
    return max(int(np.sum((log.arrival_s <= t) & (log.finish_s > t))) for t in log.arrival_s)


@pytest.mark.parametrize("cap", [1, 3, 7])
def test_no_more_than_the_cap_are_in_flight_and_nobody_overtakes(cap: int):
    result = capped(cap).run()
    log = result.requests
    assert most_in_flight(result) == cap
    assert result.due_s is not None
    assert np.all(log.arrival_s >= result.due_s) and np.all(np.diff(log.arrival_s) >= 0)
    # A request that waited was sent at the very moment of an answer.
    late = log.arrival_s > result.due_s
    assert late.any() and np.isin(log.arrival_s[late], log.finish_s).all()


def test_a_cap_that_is_never_reached_changes_nothing():
    free, result = busy_scenario(limits=(APIS,)).run(), capped(28).run()
    for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_array_equal(getattr(result.requests, name), getattr(free.requests, name), err_msg=name)
    assert free.due_s is None


@pytest.mark.parametrize("ramp_s", [0.0, 0.4])
def test_all_requests_at_once_under_a_cap_are_a_closed_loop(ramp_s: float):
    """The first of a closed loop are spread over the ramp as the seats of the cap open."""
    scenario = capped(5, ramp_s=ramp_s)
    n = len(scenario.prompt)
    result = dataclasses.replace(scenario, arrival_s=np.zeros(n)).run()
    first_s = np.concatenate([ramp_s * np.arange(5) / 5, np.zeros(n - 5)])
    loop = dataclasses.replace(scenario, arrival_s=first_s, max_concurrency=0, ramp_s=0.0, concurrency=5).run()
    for name in ("arrival_s", "finish_s"):
        np.testing.assert_array_equal(getattr(result.requests, name), getattr(loop.requests, name), err_msg=name)


def test_another_cap_or_ramp_recompiles_nothing():
    capped(3).run()
    before = compile_count()
    capped(9, ramp_s=0.3).run()
    assert compile_count() == before


def test_caps_side_by_side_are_one_program_and_equal_their_single_runs():
    scenarios = [capped(cap, ramp_s=ramp_s) for cap, ramp_s in ((1, 0.0), (3, 0.4), (8, 0.0), (28, 0.0))]
    designs = [Lowered(scenario.shape(log_rows=0), scenario.params()) for scenario in scenarios]
    assert len({program_key(design) for design in designs}) == 1
    with jax.enable_x64(True):
        batch = make_batch(designs)
        params = jax.tree.map(jnp.asarray, batch.params)
        state, going = compiled_batch(batch.shape, 1, params, 0)(params, jnp.asarray(10**6, jnp.int32))
        found = batch_results(batch, dict(enumerate(designs)), state, np.asarray(going))
    for design, mine in zip(designs, found, strict=True):
        alone = simulate(design.shape, design.params)
        np.testing.assert_array_equal(mine.requests.arrival_s, alone.requests.arrival_s)
        np.testing.assert_array_equal(mine.requests.finish_s, alone.requests.finish_s)
        np.testing.assert_array_equal(mine.due_s, alone.due_s)  # pyright: ignore[reportArgumentType]


def test_a_client_with_a_cap_is_no_program_of_an_open_loop():
    assert program_key(Lowered(capped(3).shape(), capped(3).params())) != program_key(
        Lowered(busy_scenario().shape(), busy_scenario().params())
    )
    with pytest.raises(ValueError, match="seats"):
        EngineShape(requests=32, slots=24, ranks=1, live_routing=True, capped=True)
