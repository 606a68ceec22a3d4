"""`simjax.prepare`, `simjax.simulate` and `simjax.stack`: values, batches, derivatives in both modes, and refusals."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import simjax
from simjax.library.simulate import simulate
from simjax.library.system import System
from simjax.metrics.rows import result_row
from simjax.metrics.steady.window import Window
from tests.quickly import jit

SMALL = ["workload.num_requests=60", "workload.rate=8", "workload.output.mean=12", "workload.prompt.mean=300"]
KINDS = {
    "two devices behind a router": ["cluster.groups=[{device: h100}, {device: l40s}]", "cluster.router=least_loaded"],
    "a closed loop": ["workload=closed_loop", "workload.concurrency=8", "workload.num_requests=60", "workload.output.mean=12"],
    "prefill and decode apart": ["cluster=disaggregated"],
    "drafts": ["speculation=eagle", "speculation.num_speculative_tokens=2", "speculation.synthetic_acceptance_rates=[0.7,0.5]"],
}


@pytest.fixture(autouse=True)
def in_64_bits() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def prepared(*more: str) -> System:
    return simjax.prepare(simjax.compose([*SMALL, *more]))


@pytest.fixture(scope="module")
def system() -> System:
    return prepared()


def latency(system: System, **values: Any) -> jax.Array:
    return simulate(system.with_values(**values))["e2e_mean_s"]


CASES = [pytest.param(more, id=name) for name, more in KINDS.items()]
SESSIONS = pytest.param(["workload=sessions", "workload.num_requests=12"], id="sessions with prefix caches", marks=pytest.mark.slow)


@pytest.mark.parametrize("more", [*CASES, SESSIONS])
def test_values_are_those_of_a_run(more: list[str]) -> None:
    config = simjax.compose([*SMALL, *more] if "workload" not in more[0] else more)
    run = simjax.run(config)
    metrics = simulate(simjax.prepare(config))
    row = result_row(run.result, None, run.cluster.num_devices, window=Window())
    assert bool(metrics.sound) and int(metrics.num_finished) == len(run.workload)
    for name, value in metrics.values.items():
        assert float(value) == pytest.approx(row[name], rel=1e-9), name
    ours = np.asarray(metrics.e2e_s)[: len(run.workload)]
    np.testing.assert_allclose(ours, run.result.requests.finish_s - run.result.requests.arrival_s, rtol=1e-9)


def test_a_limit_and_a_rate_that_are_changed(system: System) -> None:
    """As if they had been configured; a stacked system and a batch of values are the single runs to the last bit."""
    slow = simjax.summarize(simjax.run(simjax.compose([*SMALL, "workload.rate=16", "scheduler.max_num_seqs=4"])).result)
    changed = system.with_values(rate=2.0, max_num_seqs=4)
    assert float(simulate(changed)["e2e_mean_s"]) == pytest.approx(slow["e2e_s"]["mean"], rel=1e-9)
    others = [system, changed, prepared("workload.num_requests=90", "workload.seed=1")]
    together = jit(jax.vmap(simulate))(simjax.stack(others))
    for i, one in enumerate(others):
        for name, value in simulate(one).values.items():
            assert float(together[name][i]) == pytest.approx(float(value), rel=1e-12), name
    assert together.num_finished.tolist() == [60, 60, 90]


def test_nothing_recompiles(system: System) -> None:
    program = jit(simulate)
    for changed in (system, system.with_values(gemm_bandwidth=1.1), prepared("workload.seed=3", "workload.rate=5")):
        program(changed)
    assert program._cache_size() == 1


def test_pathwise_derivatives_in_both_modes(system: System) -> None:
    """Equal in both modes; where the schedule stays, equal to a small difference; of an API time exactly 1 a request."""
    x = {"gemm_bandwidth": jnp.float64(1.0), "api_post_s": jnp.float64(0.003), "prefill_attention": jnp.float64(1.0)}
    loss = lambda x: latency(system, **x)
    reverse, forward = jit(jax.grad(loss))(x), jit(jax.jacfwd(loss))(x)
    for name in x:
        assert float(reverse[name]) == pytest.approx(float(forward[name]), rel=1e-9)
    assert float(reverse["api_post_s"]) == pytest.approx(1.0, rel=1e-9)
    assert float(reverse["gemm_bandwidth"]) < 0.0
    one = prepared("workload.num_requests=1")  # alone a request has no schedule to change
    slope = (latency(one, gemm_bandwidth=1.0 + 1e-6) - latency(one, gemm_bandwidth=1.0 - 1e-6)) / 2e-6
    assert float(jit(jax.grad(lambda b: latency(one, gemm_bandwidth=b)))(1.0)) == pytest.approx(float(slope), rel=1e-6)


def test_total_derivatives_in_both_modes(system: System) -> None:
    x = {"gemm_bandwidth": jnp.float64(1.1), "rate": jnp.float64(1.0)}
    loss = jit(lambda x: latency(system, **x))
    both = simjax.total(loss)
    value, reverse = jax.value_and_grad(both)(x)
    forward = jax.jacfwd(both)(x)
    assert float(value) == pytest.approx(float(loss(x)), rel=1e-12)
    for name in x:
        change = 0.05 * x[name]
        slope = (loss({**x, name: x[name] + change}) - loss({**x, name: x[name] - change})) / (2.0 * change)
        assert float(reverse[name]) == pytest.approx(float(slope), rel=1e-9)
        assert float(forward[name]) == pytest.approx(float(slope), rel=1e-9)
    assert float(reverse["rate"]) > 0.0


def test_what_has_no_room_is_not_a_number(system: System) -> None:
    metrics = jit(lambda seats: simulate(system.with_values(max_num_seqs=seats)))(jnp.int32(2_000))
    assert not bool(metrics.sound) and np.isnan(metrics["e2e_mean_s"])
    short = replace(system, static=replace(system.static, ticks=16))
    value, _ = jit(jax.value_and_grad(lambda b: latency(short, gemm_bandwidth=b)))(1.0)
    assert np.isnan(value), "16 ticks are too few to differentiate the run"


def refused(line: str, function: Any, *arguments: Any, **named: Any) -> None:
    with pytest.raises(simjax.SimjaxError) as caught:
        function(*arguments, **named)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_refusals_in_one_line(system: System) -> None:
    with jax.enable_x64(False):
        refused("JAX is set to 32 bits", simulate, system)
        refused("JAX is set to 32 bits", jit(simulate), system)
    narrow = system.with_values(gemm_bandwidth=1.0)
    narrow.parameters["gemm_bandwidth"] = np.ones(1, np.float32)
    refused("system.parameters['gemm_bandwidth'] is float32", simulate, narrow)
    refused("no pathwise derivative by rate", jax.grad(lambda x: latency(system, rate=x)), 1.0)
    refused("did you mean", system.with_values, gemm_bandwith=1.0)
    refused("it must have (1,)", system.with_values, gemm_bandwidth=np.ones(2))
    refused("the system has room for 256", system.with_values, max_num_seqs=2_000)
    refused("there is no 'ttft'", simulate(system).__getitem__, "ttft")
    refused("system 1 has other devices", simjax.stack, [system, prepared("device=h200")])
    refused("system 1 has other subsystems", simjax.stack, [system, simjax.prepare(simjax.compose(KINDS["a closed loop"]))])
    refused("must be a relative change", simjax.total, simulate, step=0)
    refused("is int64", simjax.total(lambda x: x * 1.0), 1)
    refused("a system has no energy", prepared, "power=utilization")
