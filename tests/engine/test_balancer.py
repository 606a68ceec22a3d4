"""Load balancing within instances of several data-parallel ranks: vLLM's rules by hand, and the engine against the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from simjax.cluster.balancer import Balancer
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.engine.host.lower import lower
from simjax.engine.host.lowering.balancer import balancer_part
from simjax.engine.params import BalancerParams, ClusterParams, NoBalancerParams
from simjax.engine.routing.balancer import Balancers, balancers_of
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState, initial_state
from simjax.errors import SimjaxError
from simjax.model import load_model
from tests.engine.balanced import Balanced, BalancedLegs, balancing, balancing_legs
from tests.engine.scenario import Limits
from tests.engine.strategies import sharing
from tests.engine.test_against_reference import check
from tests.engine.test_ranks import SPEC, WORK, cluster
from tests.engine.test_two_legs import check as check_legs
from tests.quickly import jit
from tests.reference.balancer import ApiServer
from tests.reference.instance import RefEngine

DRAWN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEWER = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(scenario=balancing())
@DRAWN
def test_instances_of_four_ranks(scenario: Balanced):
    check(scenario, "leap")


@given(scenario=balancing(sharing(instances=4, sessions=True)))
@FEWER
def test_sessions_with_prefix_caches(scenario: Balanced):
    check(scenario, "step")


@given(scenario=balancing_legs())
@FEWER
def test_prefill_and_decode_instances(scenario: BalancedLegs):
    check_legs(scenario, "leap")


# ---- by hand: an instance of two ranks with as many API servers as asked for


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def two_ranks(servers: int, weighs_in_flight: bool) -> tuple[ClusterParams, ClusterState]:
    """The engine's arrays of an idle instance of two ranks, whose request r reaches API server r % servers."""
    scenario = Balanced(
        limits=(Limits(),) * 2,
        arrival_s=np.zeros(8),
        prompt=np.full(8, 5),
        output=np.full(8, 5),
        groups=(2,),
        api_servers=(servers,),
        publishes=(True,),
        weighs_in_flight=weighs_in_flight,
    )
    params = jax.tree.map(jnp.asarray, scenario.params())
    return params, jit(partial(initial_state, scenario.shape()))(params)


def seen(balancers: Balancers, waiting: tuple[int, int], running: tuple[int, int], kv_load: tuple[float, float]) -> Balancers:
    reports = (jnp.array(waiting, jnp.int32), jnp.array(running, jnp.int32), jnp.array(kv_load))
    params, _ = two_ranks(1, False)
    return balancers.published(params, jnp.array(True), jnp.array(1, jnp.int32), *reports)


def choice(params: ClusterParams, state: ClusterState, balancers: Balancers, request: int, t_s: float = 0.0) -> int:
    (rank,) = np.flatnonzero(np.asarray(balancers.choices(params, state.ranks, jnp.array(request, jnp.int32), jnp.array(t_s))))
    return int(rank)


def reference_server(clients: int, start: int) -> ApiServer:
    limits = two_ranks_of_reference()
    return ApiServer(limits, clients, start)


def two_ranks_of_reference() -> list[RefEngine]:
    scenario = Balanced(limits=(Limits(),) * 2, arrival_s=np.zeros(1), prompt=np.ones(1, int), output=np.ones(1, int))
    return [RefEngine(i, config) for i, config in enumerate(scenario.reference_instances())]


@pytest.mark.parametrize(
    ("weighs_in_flight", "kv_load", "scores", "rank"),
    [(False, 0.9, (10.0, 17.0), 0), (True, 0.9, (10.0, 15.2), 0), (True, 0.5, (10.0, 8.0), 1)],
)
def test_B3_the_two_rules(weighs_in_flight: bool, kv_load: float, scores: tuple[float, float], rank: int):
    """Rank 0 runs 10 requests, rank 1 runs 5 while 3 wait: waiting ones count for four, or for more the fuller the KV cache is."""
    params, state = two_ranks(1, weighs_in_flight)
    balancers = seen(balancers_of(state), (0, 3), (10, 5), (0.2, kv_load))
    assert choice(params, state, balancers, 0) == rank
    server = reference_server(clients=1, start=0)
    server.told(*(dict(zip(server.ranks, x, strict=True)) for x in ((0, 3), (10, 5), (0.2, kv_load))))
    assert [server.score(one, weighs_in_flight) for one in server.ranks] == pytest.approx(scores)
    assert server.pick(weighs_in_flight) is server.ranks[rank]


@pytest.mark.parametrize(("t_s", "rank"), [(0.9, 1), (1.0, 0)])
def test_a_request_is_in_flight_until_its_last_token_has_come_back(t_s: float, rank: int):
    """An asynchronous rank knows that a request is finished when it launches its last step, which here ends at 1 s."""
    params, state = two_ranks(1, True)
    ranks, slots = state.ranks, state.ranks.slots
    slots = dataclasses.replace(
        slots,
        request=slots.request.at[0, 0].set(0),
        num_tokens=slots.num_tokens.at[0, 0].set(10),
        final_tokens=slots.final_tokens.at[0, 0].set(10),
        token_s=slots.token_s.at[0, 0].set(1.0),
    )
    state = dataclasses.replace(state, ranks=dataclasses.replace(ranks, slots=slots, num_running=ranks.num_running.at[0].set(1)))
    balancers = balancers_of(state)
    balancers = dataclasses.replace(balancers, in_flight=balancers.in_flight.at[0, 0].set(1))
    assert choice(params, state, balancers, 1, t_s) == rank


@pytest.mark.parametrize(("servers", "added"), [(1, 1), (2, 2)])
def test_B4_requests_within_one_window(servers: int, added: int):
    """Each API server counts what it has sent, once for each of them; they begin with different ranks."""
    params, state = two_ranks(servers, False)
    balancers = balancers_of(state)
    chosen: dict[int, list[int]] = {server: [] for server in range(servers)}
    for request in range(8):
        sent = balancers.sent
        rank = choice(params, state, balancers, request)
        balancers = balancers.took(params, jnp.array(request, jnp.int32), jnp.arange(2) == rank)
        change = np.asarray(balancers.sent - sent)
        ((of, server),) = np.argwhere(change)
        assert (of, change[of, server]) == (rank, added)
        chosen[int(server)].append(rank)
    assert sum(map(len, chosen.values())) == 8 and all(chosen.values())
    for server, ranks in chosen.items():
        other = reference_server(servers, start=2 * server // servers)
        expected = [other.ranks.index(other.pick(weighs_in_flight=False)) for _ in ranks]
        assert ranks == expected == [(server + k) % 2 for k in range(len(ranks))]
        assert set(other.waiting.values()) <= {added * k for k in range(9)}


def test_ties_are_taken_in_turn_by_the_new_rule_only():
    for weighs_in_flight, ranks in ((False, [0, 0, 0]), (True, [0, 1, 0])):
        params, state = two_ranks(1, weighs_in_flight)
        balancers, found = balancers_of(state), []
        for request in range(3):
            found.append(choice(params, state, balancers, request))
            balancers = balancers.took(params, jnp.array(request, jnp.int32), jnp.arange(2) == found[-1])
            balancers = seen(balancers, (0, 0), (0, 0), (0.0, 0.0))  # all answered before the next one
            balancers = balancers.left(params, found[-1], jnp.array(request, jnp.int32), jnp.array(True))
        assert found == ranks


# ---- from configured clusters


def arrays(spec: ClusterSpec) -> tuple[EngineShape, ClusterParams]:
    lowered = lower(spec, cluster_timing(spec.instances, LatencySource()), WORK)
    return lowered.shape, lowered.params


def test_rules_of_a_cluster():
    """As many API servers as ranks; ranks of dense models report in new releases only, those of mixtures of experts always."""
    shape, params = arrays(cluster(3, 1))
    assert (shape.ranks, shape.api_servers, shape.live_routing) == (4, 3, True) and isinstance(params.balancer, BalancerParams)
    assert params.balancer.api_servers.tolist() == [3, 3, 3, 1] and params.balancer.number.tolist() == [0, 1, 2, 0]
    assert params.balancer.first.tolist() == [0, 0, 0, 3] and params.balancer.size.tolist() == [3, 3, 3, 1]
    assert params.balancer.publishes.tolist() == [False] * 4 and not params.balancer.weighs_in_flight
    mixture = dataclasses.replace(SPEC, model=load_model("mixtral-8x7b"))
    spec = ClusterSpec((*cluster(2).instances, *cluster(2, spec=mixture).instances), balancer=Balancer(api_server_count=5))
    found = balancer_part(spec, 0)
    assert found.sizes == {"api_servers": 5} and found.params["balancer"].publishes.tolist() == [False, False, True, True]
    shape, params = arrays(dataclasses.replace(cluster(2), balancer=Balancer(weighs_in_flight=True, publishes_dense=True)))
    assert isinstance(params.balancer, BalancerParams) and params.balancer.publishes.all() and params.balancer.weighs_in_flight


def test_without_a_balancer_there_is_nothing():
    for spec in (cluster(1, 1), dataclasses.replace(cluster(3, 1), balancer=Balancer(external=True))):
        shape, params = arrays(spec)
        assert (shape.api_servers, shape.live_routing) == (0, False) and isinstance(params.balancer, NoBalancerParams)


def test_what_is_refused():
    with pytest.raises(SimjaxError, match=r"^cluster.api_server_count=0: it must be at least 1$"):
        Balancer(api_server_count=0)
    with pytest.raises(SimjaxError, match=r"^cluster.router=dynamo chooses among the ranks of instances itself: set cluster.data_"):
        arrays(dataclasses.replace(cluster(2, 2), router="dynamo"))
    shape, _ = arrays(dataclasses.replace(cluster(2, 2), router="dynamo", balancer=Balancer(external=True)))
    assert shape.ranks == 4
    with pytest.raises(ValueError, match="needs live_routing"):
        EngineShape(requests=8, slots=8, ranks=2, api_servers=1)
