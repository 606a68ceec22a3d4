"""The derivative that a measurement would see, against differences of whole runs."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simjax.calibrate.prepared_run import PreparedRun, prepare, simulated, with_profile
from simjax.engine.differentiate import outcome
from simjax.latency.parameters import with_parameters
from simjax.latency.profiles.profile import LatencyProfile
from simjax.workload.workload import Workload
from tests.calibrate.runs import cluster, poisson, profile
from tests.quickly import quickly

REQUESTS = 200
NAMES = ("gemm_bandwidth", "api_pre_s")
AT = np.array([0.0, np.log(4e-3)])


class Ttft(NamedTuple):
    """TTFT of every request, f64[R], and its derivatives by the logarithms of `NAMES`, f64[2, R]."""

    framed_s: np.ndarray
    framed: np.ndarray
    plain_s: np.ndarray
    pathwise: np.ndarray


@functools.cache
def program(prepared_shape: object) -> Callable:
    """One program for all workloads of a size."""
    first = prepare(cluster(), poisson(6.0, REQUESTS), profile())
    assert first.shape == prepared_shape

    def at(x: jax.Array) -> LatencyProfile:
        return with_parameters(profile(), {name: jnp.exp(x[i]) for i, name in enumerate(NAMES)})

    def framed(params, x: jax.Array) -> jax.Array:
        return simulated(replace(first, params=params), at(x)).ttft_s

    def plain(params, x: jax.Array) -> jax.Array:
        prepared = replace(first, params=params)
        now = with_profile(prepared, at(x))
        o = outcome(prepared.shape, now, prepared.max_ticks)
        return (o.first_token_s - o.arrival_s)[:REQUESTS]

    def both(params, x: jax.Array) -> list:
        push = lambda f: jax.vmap(lambda t: jax.jvp(functools.partial(f, params), (x,), (t,)), out_axes=(None, 0))(jnp.eye(2))
        return [*push(framed), *push(plain)]

    return jax.jit(both, compiler_options=quickly())


def ttft(workload: Workload, x: np.ndarray = AT) -> Ttft:
    prepared: PreparedRun = prepare(cluster(), workload, profile())
    with jax.enable_x64(True):
        return Ttft(*(np.asarray(y) for y in program(prepared.shape)(prepared.params, jnp.asarray(x))))


def arriving(at_s: np.ndarray) -> Workload:
    return replace(poisson(6.0, REQUESTS), arrival_s=at_s)


def test_a_busy_engine_that_is_never_saturated() -> None:
    """Within 20 % of a difference over 20 % of the bandwidth, on average over seeds.

    It is 14 % too small: it does not see that a slower engine is busy more of the time, and that an arrival at an idle one need not wait
    for a step's end.
    """
    step, moved, held, differences = np.array([0.1, 0.0]), [], [], []
    for seed in range(6):
        load = poisson(6.0, REQUESTS, seed)
        now, faster, slower = ttft(load), ttft(load, AT + step), ttft(load, AT - step)
        np.testing.assert_array_equal(now.framed_s, now.plain_s)
        moved.append(now.framed[0].mean())
        held.append(now.pathwise[0].mean())
        differences.append((faster.plain_s.mean() - slower.plain_s.mean()) / 0.2)
        assert abs(held[-1]) > 10 * now.plain_s.mean()
    assert abs(np.mean(held)) > 50 * abs(np.mean(differences))
    np.testing.assert_allclose(np.mean(moved), np.mean(differences), rtol=0.2)


def test_an_idle_engine() -> None:
    now = ttft(arriving(10.0 * np.arange(REQUESTS)))
    assert (now.pathwise[0] < 0).all()
    np.testing.assert_allclose(now.framed, now.pathwise, rtol=1e-9, atol=1e-12)


def test_a_backlog_from_the_start() -> None:
    now = ttft(arriving(np.zeros(REQUESTS)))
    assert now.pathwise[0].min() < -0.5  # the last one waits for all others
    np.testing.assert_allclose(now.framed, now.pathwise, rtol=1e-9, atol=1e-12)


def test_time_before_the_queue_is_added_to_every_request() -> None:
    now = ttft(poisson(6.0, REQUESTS))
    np.testing.assert_allclose(now.pathwise[1], 4e-3, rtol=1e-6)
    np.testing.assert_allclose(now.framed[1], 4e-3, rtol=1e-6)
