"""How hard programs are compiled: by what they run, without a change of any value."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.engine import batch, simulate
from simjax.engine.programs import Effort, compiled, known
from tests.engine.scenario import RouterPolicy
from tests.engine.test_engine import busy_scenario
from tests.quickly import OF_USERS, efforts


def test_options_that_xla_does_not_know_are_left_out():
    """An option that a new version of XLA has dropped must not stop anybody."""
    assert known(()) and not known((("xla_cpu_no_such_option", False),))
    assert Effort.FULL.options() == {} and all(effort.options("cuda") == {} for effort in Effort)
    assert set(Effort.MEDIUM.options("cpu")) < set(Effort.BRIEF.options("cpu")), "the oldest and the newest jax know them"


@pytest.mark.parametrize("requests, effort", [(16, Effort.BRIEF), (256, Effort.BRIEF), (512, Effort.MEDIUM)])
@efforts(OF_USERS)
def test_a_run_is_compiled_by_its_requests(requests: int, effort: Effort):
    assert simulate.effort_for(dataclasses.replace(busy_scenario().shape(), requests=requests)) is effort


@pytest.mark.parametrize(
    "ticks, effort",
    [(16_384, Effort.BRIEF), (16_385, Effort.MEDIUM), (262_145, Effort.FULL), (math.inf, Effort.FULL)],
)
@efforts(OF_USERS)
def test_a_batch_is_compiled_by_its_ticks(monkeypatch: pytest.MonkeyPatch, ticks: float, effort: Effort):
    monkeypatch.setattr(batch, "compiled", lambda function, static, arguments, effort, keep: effort)
    shape = busy_scenario().shape(log_rows=0)
    assert batch.compiled_batch(shape, 1, busy_scenario().params(), ticks) is effort


def test_every_effort_gives_the_same_bits():
    """Two engines that preempt behind a live router, and the log of their leaps."""
    scenario = busy_scenario(limits=(busy_scenario().limits[0],) * 2, router=RouterPolicy.LEAST_LOADED)
    shape = scenario.shape()
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, scenario.params())
        state = simulate.compiled_start(shape, params)(params)
        arguments = (params, state, jnp.asarray(10**6, jnp.int32))
        brief, *others = (compiled(partial(simulate.advance, shape), ("bits", shape), arguments, effort)(*arguments) for effort in Effort)
        assert int(brief.state.num_finished) == int(params.requests.count[0])
    for other in others:
        jax.tree.map(partial(np.testing.assert_array_equal, strict=True), *jax.device_get((brief, other)))
