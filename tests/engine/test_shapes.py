"""Shapes and data types are those that the engine's annotations state, in every stage and with every subsystem on and off."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from simjax.engine import tick as tick_module
from simjax.engine.batch import BATCH_AXES, run_batch
from simjax.engine.host.batch import make_batch
from simjax.engine.host.lower import Lowered
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.engine.simulate import Chunk, advance, start
from simjax.engine.turn import Turn
from tests.engine.combined import StagedDrafts
from tests.engine.factors import caching_scenario
from tests.engine.pipelined import as_pipelined
from tests.engine.scenario import Limits, RouterPolicy
from tests.engine.shapes import check_record, checked_functions, checked_stage
from tests.engine.speculating import as_speculating
from tests.engine.test_energy import device, powered
from tests.engine.test_engine import busy_scenario


def programs() -> dict[str, tuple[EngineShape, ClusterParams]]:
    """Static shapes with most subsystems on and off; KV tiers, groups and hand-overs are not among them."""
    one, two, sessions = busy_scenario(), (Limits(), Limits(max_num_seqs=3)), caching_scenario(sessions=True)
    alone = dataclasses.replace(sessions, limits=sessions.limits[:1], waits=None, session=None, router=RouterPolicy.ROUND_ROBIN)
    drafts = {"drafts": (2, 3), "lookahead": (0, 3)}
    cases = {
        "one rank": (one, {}),
        "no leaps, no log, few slots": (one, {"leap": False, "log_rows": 0, "tight": True}),
        "two ranks": (dataclasses.replace(one, limits=two), {}),
        "a router that looks": (dataclasses.replace(one, limits=two, router=RouterPolicy.LEAST_KV), {"router_books": False}),
        "a router with an old view": (
            dataclasses.replace(one, limits=two, router=RouterPolicy.LEAST_KV, staleness_s=0.1),
            {"router_books": False},
        ),
        "a closed loop": (dataclasses.replace(one, limits=two, concurrency=4), {}),
        "a client with a cap": (dataclasses.replace(one, limits=two, max_concurrency=4), {}),
        "a prefix cache": (alone, {}),
        "pp stages": (as_pipelined(one, (2,)), {}),
        "pp stages of two ranks, a closed loop": (as_pipelined(dataclasses.replace(one, limits=two, concurrency=4), (2, 3)), {}),
        "drafts": (as_speculating(one), {}),
        "drafts on pp stages": (StagedDrafts(**vars(as_pipelined(one, (2,)))), {}),
        "drafts of two ranks, a closed loop": (as_speculating(dataclasses.replace(one, limits=two, concurrency=4), **drafts), {}),
        "sessions": (sessions, {}),
    }
    found = {name: (scenario.shape(**changes), scenario.params()) for name, (scenario, changes) in cases.items()}
    two_ranks = dataclasses.replace(one, limits=two)
    return {**found, "power": (two_ranks.shape(power=True, activity=True), powered(two_ranks, [device(0), device(1)]))}


PROGRAMS = programs()


@pytest.fixture(autouse=True)
def _checked(monkeypatch: pytest.MonkeyPatch):
    """The engine with every stage and every function that names shapes checked."""
    for where, name, checked in list(checked_functions()):
        monkeypatch.setattr(where, name, checked)
    checked_stages = {stage: checked_stage(stage) for stage in tick_module.STAGES}
    of_pipelines = {checked_stages[stage]: checked_stage(other) for stage, other in tick_module.OF_PIPELINES.items()}
    of_speculation = {checked_stages[stage]: checked_stage(other) for stage, other in tick_module.OF_SPECULATION.items()}
    of_both = {checked_stages[stage]: checked_stage(other) for stage, other in tick_module.OF_STAGED_DRAFTS.items()}
    monkeypatch.setattr(tick_module, "STAGES", tuple(checked_stages.values()))
    monkeypatch.setattr(tick_module, "OF_PIPELINES", of_pipelines)
    monkeypatch.setattr(tick_module, "OF_SPECULATION", of_speculation)
    monkeypatch.setattr(tick_module, "OF_STAGED_DRAFTS", of_both)
    with jax.enable_x64(True):
        yield


def trace(shape: EngineShape, params: ClusterParams) -> Chunk:
    """The result of a chunk of ticks as shapes and data types, with what is before the first tick traced anew."""

    def run(params: ClusterParams, ticks: jax.Array) -> Chunk:
        state = start(shape, params)
        check_record(shape, state, "start")
        return advance(shape, params, state, ticks)

    return jax.eval_shape(run, params, jnp.zeros((), jnp.int32))


@pytest.mark.parametrize("name", PROGRAMS)
def test_stages_keep_to_their_annotations(name: str):
    shape, params = PROGRAMS[name]
    chunk = trace(shape, params)
    assert chunk.state.outcome.shape[0] == shape.requests + 1


@pytest.mark.parametrize("name", ["two ranks", "sessions"])
def test_stages_keep_to_their_annotations_in_a_batch(name: str):
    """A stage sees one cluster of a batch: its shapes are the same."""
    shape, params = PROGRAMS[name]
    batch = make_batch([Lowered(dataclasses.replace(shape, log_rows=0), params)] * 3)
    state, going = jax.eval_shape(partial(run_batch, batch.shape, 1), batch.params, jnp.zeros((), jnp.int32))
    assert BATCH_AXES.workload == 0 and going.shape == (3,) and state.num_finished.shape == (3,)


def with_stage_after(monkeypatch: pytest.MonkeyPatch, wrong: Any, name: str) -> None:
    """Let a stage return what `wrong` makes of its turn."""
    stages = []
    for stage in tick_module.STAGES:
        inner = stage.__wrapped__

        def spoilt(shape: EngineShape, params: ClusterParams, turn: Turn, inner=inner) -> Turn:
            return wrong(inner(shape, params, turn))

        spoilt.__name__ = inner.__name__
        stages.append(checked_stage(spoilt) if inner.__name__ == name else stage)
    monkeypatch.setattr(tick_module, "STAGES", tuple(stages))


def wrong_dtype(turn: Turn) -> Turn:
    formation = dataclasses.replace(turn.formation, seats=turn.formation.seats.astype(jnp.int64))
    return dataclasses.replace(turn, formation=formation)


def wrong_length(turn: Turn) -> Turn:
    return dataclasses.replace(turn, demand=dataclasses.replace(turn.demand, blocks=turn.demand.blocks[:-1]))


def wrong_rank(turn: Turn) -> Turn:
    return turn.with_state(num_sent=turn.state.num_sent[None])


@pytest.mark.parametrize(
    "wrong, message",
    [
        (wrong_dtype, r"after schedule_running: turn\.formation\.seats: int64\[\] is not int32\[\]"),
        (wrong_length, r"after schedule_running: turn\.demand\.blocks: int32\[27\] is not int32\[ ?A\]"),
        (wrong_rank, r"after schedule_running: turn\.state\.num_sent: int32\[1\] is not int32\[\]"),
    ],
)
def test_the_checker_finds_a_wrong_leaf(wrong: Any, message: str, monkeypatch: pytest.MonkeyPatch):
    with_stage_after(monkeypatch, wrong, "schedule_running")
    with pytest.raises(TypeError, match=message):
        trace(*PROGRAMS["one rank"])


def test_the_checker_finds_a_wrong_argument():
    from simjax.engine.scheduler import running

    checked = running.blocks_of
    assert checked is not blocks_of
    checked(jnp.arange(3, dtype=jnp.int32), jnp.asarray(4, jnp.int32))
    with pytest.raises(TypeCheckError, match="block_size"):
        checked(jnp.arange(3, dtype=jnp.int32), jnp.asarray([4, 4], jnp.int32))
    with pytest.raises(TypeCheckError, match="tokens"):
        checked(jnp.arange(3, dtype=jnp.int64), jnp.asarray(4, jnp.int32))


def test_most_functions_that_the_stages_call_are_checked():
    names = {name for _, name, _ in checked_functions()}
    wanted = "blocks_of end_after first_step_reaching take_steps cut_short loads kv_loads eligible scores in_turn look_up touch evict"
    assert {*wanted.split(), "steps_within_blocks", "free", "reach", "due_s"} <= names
