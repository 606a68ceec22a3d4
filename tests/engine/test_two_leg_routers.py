"""Routers of both legs: drawn policies against the reference, and the routers of llm-d and Dynamo by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simjax.cluster.routers import CostWeights
from simjax.engine.kv.block_pool import END, FIRST, OLDEST
from simjax.engine.kv.lookup import Contents
from simjax.engine.routing.books import ActiveWork, RouterBooks
from simjax.engine.routing.choice import by_odds
from simjax.engine.routing.scores import costs, look, relative_queues
from simjax.engine.state import initial_state
from tests.engine.scenario import Limits, RouterPolicy, Scenario
from tests.engine.strategies import scenarios, sharing
from tests.engine.test_against_reference import LEAP, SEEING
from tests.engine.test_two_legs import assert_same, compared
from tests.engine.two_legs import TwoLegs, one_to_one, two_legs

LIMITED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
FEWER = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
WEIGHTS = [
    CostWeights(),
    CostWeights(temperature=0.5),
    CostWeights(prefill_load_scale=0.7, overlap_credit=0.5, active_weight=1.5),
    CostWeights(prefill_load_scale=2.0, active_weight=0.25, temperature=3.0),
]


@st.composite
def routed(draw: st.DrawFn, of: st.SearchStrategy[Scenario], connectors: tuple[str, ...]) -> TwoLegs:
    """A scenario with a router for each leg, and a view of both that may be old."""
    return dataclasses.replace(
        draw(two_legs(of, connectors)),
        router=draw(st.sampled_from(list(RouterPolicy))),
        decode_router=draw(st.sampled_from(list(RouterPolicy))),
        costs=draw(st.sampled_from(WEIGHTS)),
        staleness_s=draw(st.sampled_from([0.0, 0.0, 0.02, 0.3])),
    )


def check(scenario: TwoLegs, mode: str) -> None:
    """Routers that see caches need steps one by one, as in clusters without roles; one program for all routers."""
    sees = scenario.caching and (scenario.router in SEEING or scenario.decode_router in SEEING or scenario.local_prefill_tokens > 0)
    theirs = compared(scenario)
    assert_same(scenario.run(leap=mode == "leap" and not sees, stale_view=True, router_books=True), theirs)


@given(scenario=routed(scenarios(instances=4), ("nixl", "mooncake", "p2p_nccl", "sglang")), mode=LEAP)
@LIMITED
def test_routers_of_both_legs(scenario: TwoLegs, mode: str):
    check(scenario, mode)


@given(scenario=routed(sharing(instances=4, sessions=True), ("nixl",)))
@FEWER
def test_routers_of_sessions(scenario: TwoLegs):
    check(scenario, "step")


# ---- by hand


@pytest.fixture
def doubles() -> Iterator[None]:
    """Arrays of float64 outside of a run."""
    with jax.enable_x64(True):
        yield


PAIR = Scenario(
    limits=(Limits(block_size=16, enable_prefix_caching=True), Limits(block_size=16, enable_prefix_caching=True)),
    arrival_s=np.zeros(1),
    prompt=np.array([160]),
    output=np.array([4]),
    router=RouterPolicy.DYNAMO,
    contents=(np.arange(164),),
)


@pytest.mark.usefixtures("doubles")
def test_d2_costs_of_dynamos_router():
    """Test D2 of the notes: 8 of 10 blocks are cached on the first rank, which decodes 10 blocks; the second decodes 3."""
    shape, params = PAIR.shape(stale_view=False), jax.tree.map(jnp.asarray, PAIR.params())
    state, request = jax.jit(partial(initial_state, shape))(params), jnp.asarray(0, jnp.int32)
    view = jax.jit(partial(look, shape))(params, state, jnp.asarray(1.0), jnp.asarray(True))
    tree = params.requests.prefix
    assert tree is not None and view.contents is not None
    node = tree.nodes[0, tree.offset[0, 0]]  # the only one on the path of the request
    runs = view.contents.runs.at[0, 1, FIRST].set(0).at[0, 1, END].set(8)
    view = dataclasses.replace(view, contents=Contents(runs, view.contents.nodes.at[0, node, OLDEST].set(1)))

    def cost(queued_tokens: int, credit: float = 1.0) -> list[float]:
        work = ActiveWork(jnp.array([queued_tokens, 0]), jnp.array([10, 3]), jnp.array([1, 1], jnp.int32))
        router = dataclasses.replace(params.router, overlap_credit=jnp.asarray(credit))
        books = dataclasses.replace(state, books=RouterBooks(work))
        return costs(shape, params, router, books, view, request, jnp.asarray(True), jnp.asarray(1.0)).tolist()

    assert cost(0) == [12.0, 13.0]
    assert cost(64) == [16.0, 13.0]
    assert cost(0, credit=0.0) == [20.0, 13.0]  # as in a pool of decode ranks


@pytest.mark.parametrize("credit, with_prefix", [(1.0, True), (0.0, False)])
def test_d2_in_a_run(credit: float, with_prefix: bool):
    """Two ranks decode 160 and 48 tokens when a prompt of 160 tokens comes, 128 of which are cached where 160 are decoded: 12 against 13.

    The second request goes where the first one is not, at a cost of 3 against 13.
    """
    limits = dataclasses.replace(PAIR.limits[0], num_blocks=200, max_num_batched_tokens=64)
    contents = (np.arange(560), 1000 + np.arange(448), np.r_[np.arange(128), 3000 + np.arange(36)])
    sent = {"arrival_s": np.array([0.0, 1e-3, 2.0]), "prompt": np.array([160, 48, 160]), "output": np.array([400, 400, 4])}
    costs = CostWeights(overlap_credit=credit)
    scenario = dataclasses.replace(PAIR, limits=(limits, limits), contents=contents, costs=costs, **sent)
    ours, theirs = scenario.run(leap=False), scenario.run_reference()
    assert ours.requests.instance.tolist() == [request.instance for request in theirs.requests]
    first, second, third = ours.requests.instance.tolist()
    assert second != first and (third == first) == with_prefix
    assert ours.requests.finish_s[0] > 3.0, "it still decodes when the last one comes"


@pytest.mark.parametrize("prompt, own, prefilled_by", [(1000, 104, -1), (200, 200, 0)])
def test_d3_a_prompt_is_prefilled_where_it_is_decoded(prompt: int, own: int, prefilled_by: int):
    """Test D3 of the notes: 14 blocks of 64 tokens are cached: 104 of 1,000 tokens are left, a share of 0.104; or all of 200 tokens."""
    limits = Limits(num_blocks=100, block_size=64, max_num_batched_tokens=64, enable_prefix_caching=True)
    contents = (np.arange(1002), np.r_[np.arange(prompt - own), 5000 + np.arange(own + 2)])
    plain = Scenario(
        (limits, limits), np.array([0.0, 30.0]), np.array([1000, prompt]), np.array([2, 2]), contents=contents, router=RouterPolicy.DYNAMO
    )
    scenario = one_to_one(plain, 1e-6, local_prefill_tokens=2048, local_prefill_ratio=0.7, decode_router=RouterPolicy.DYNAMO)
    ours, theirs = scenario.run(leap=False), scenario.run_reference()
    assert_same(ours, theirs)
    assert ours.handovers is not None
    assert ours.handovers.prefill_instance.tolist() == [0, prefilled_by]
    assert ours.requests.cached_tokens[1] == (896 if prefilled_by < 0 else 0)


@pytest.mark.usefixtures("doubles")
def test_queues_of_llm_d_count_by_their_place():
    able = jnp.array([True, True, True, False])
    assert relative_queues(jnp.array([4, 2, 6, 99], jnp.int32), able).tolist()[:3] == [0.5, 0.0, 1.0]
    assert relative_queues(jnp.array([2, 2, 2, 99], jnp.int32), able).tolist()[:3] == [0.0, 0.0, 0.0]


@pytest.mark.usefixtures("doubles")
def test_temperature_spreads_the_choices():
    """Costs 0, 1 and 2, and a rank that is not able: odds 1, e^(-1/2T), e^(-1/T)."""
    score, able = jnp.array([0.0, 9.0, 1.0, 2.0]), jnp.array([True, False, True, True])
    draws = (np.arange(30_000) + 0.5) / 30_000

    def shares(score: jax.Array, temperature: float) -> np.ndarray:
        chosen = jax.vmap(lambda draw: by_odds(score, able, jnp.asarray(temperature), draw))(jnp.array(draws))
        return np.bincount(np.asarray(chosen), minlength=4) / len(draws)

    odds = np.exp([0.0, -np.inf, -1.0, -2.0])
    np.testing.assert_allclose(shares(score, 0.5), odds / odds.sum(), atol=1e-4)
    np.testing.assert_array_equal(shares(score, 0.0), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(jnp.array([1.0, 0.0, 2.0, 1.0]), 0.0), [0.5, 0, 0, 0.5])
    np.testing.assert_allclose(shares(jnp.ones(4), 0.7), [1 / 3, 0, 1 / 3, 1 / 3], atol=1e-4)


@pytest.mark.parametrize("decode_router", [RouterPolicy.SESSION_AFFINITY, RouterPolicy.ROUND_ROBIN])
def test_calls_of_a_session_decode_where_the_first_one_did(decode_router: RouterPolicy):
    """Three sessions of four calls, one prefill rank and two decode ranks: with affinity each session has one of these, and hits there."""
    limits = Limits(num_blocks=400, enable_prefix_caching=True)
    calls, session = 12, np.repeat([0, 1, 2], 4)
    order = np.argsort(np.tile(np.arange(4), 3), kind="stable")  # first calls first
    waits = {r: ((r - 1, 0.01),) for r in range(calls) if r % 4}
    place = np.argsort(order)
    plain = Scenario(
        (limits,) * 3,
        np.arange(calls) * 1e-3,
        np.array([8 + 12 * (r % 4) for r in order]),
        np.full(calls, 4),
        router=RouterPolicy.SESSION_AFFINITY,
        contents=tuple(1000 * session[r] + np.arange(12 + 12 * (r % 4)) for r in order),
        waits=tuple(tuple((int(place[q]), s) for q, s in waits.get(int(r), ())) for r in order),
        session=session[order],
    )
    given = {x.name: getattr(plain, x.name) for x in dataclasses.fields(Scenario)}
    table = ((1e-6,) * 3,) * 3
    scenario = TwoLegs(
        **given, roles=("prefill", "decode", "decode"), bytes_per_token=table, setup_s=table, path=(((0,),) * 3,) * 3, capacity=(1.0,),
        decode_router=decode_router,
    )  # fmt: skip
    ours = scenario.run(leap=False)
    assert_same(ours, scenario.run_reference())
    ranks = [set(ours.requests.instance[session[order] == x].tolist()) for x in range(3)]
    assert ours.handovers is not None
    hits = ours.handovers.decode_cached_tokens[session[order] == 0]
    if decode_router == RouterPolicy.SESSION_AFFINITY:
        assert all(len(x) == 1 for x in ranks) and ranks[0] != ranks[1]
        assert np.all(hits[1:] > 0)
    else:
        assert any(len(x) == 2 for x in ranks)
