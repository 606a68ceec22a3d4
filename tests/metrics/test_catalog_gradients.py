"""Metrics with a derivative: the catalogue's functions in JAX give what they give in numpy."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.cluster.configured.cluster import build_cluster
from simjax.cluster.latency_source import latency_source
from simjax.cluster.timing import cluster_timings
from simjax.config.compose import compose_config, typed
from simjax.engine.host.lower import lower
from simjax.engine.simulate import simulate
from simjax.metrics.catalog import CATALOG, Metric
from simjax.metrics.catalog.metric import catalog_of, ratio
from simjax.metrics.latency import STATISTICS, statistics_of
from simjax.metrics.rows import result_row
from simjax.metrics.steady.window import AUTOMATIC, WHOLE, Window
from simjax.sensitivity.pathwise import PATHWISE, pathwise, tangents_of
from simjax.workload import build_workload

TOKENS_PER_REQUEST = Metric(
    name="output_tokens_per_request",
    unit="tokens",
    better=None,
    words="output tokens per finished request",
    value=lambda clients, xp: ratio(clients.output_tokens, clients.finished, xp),
    smooth=True,
)
CATALOG_OF_TEST = catalog_of([*CATALOG.values(), TOKENS_PER_REQUEST])


def test_which_metrics_have_a_derivative() -> None:
    rates = ("requests_per_s", "prompt_tokens_per_s", "output_tokens_per_s", "output_tokens_per_s_per_gpu")
    assert ("duration_s", *rates, *(f"{latency}_{name}_s" for latency in ("ttft", "tpot", "e2e") for name in STATISTICS)) == PATHWISE


@pytest.mark.parametrize("window", [WHOLE, AUTOMATIC, Window(1.0, None)], ids=["whole", "automatic", "warmup"])
@pytest.mark.parametrize("max_ticks", [100_000, 60, 1], ids=["finished", "cut", "none finished"])
def test_values_in_jax_are_those_of_the_row(max_ticks: int, window: Window) -> None:
    """All of them, of a run whose requests have one output token or several, and of runs that are cut."""
    short = "workload.output={mean: 3, cv: 0.9, min: 1, max: 20}"
    config: Any = typed(compose_config("run", ["workload.num_requests=40", "workload.rate=8", short]))
    cluster = build_cluster(config.model, config.device, config.cluster, config.scheduler)
    workload = build_workload(config.workload)
    instances, source = cluster.instances, latency_source(config.profile)
    (timing,) = cluster_timings([instances], [(source,) * len(instances)], workload.tokens, len(workload))
    timing, tangents = tangents_of(timing, [(timing, timing, 1.0)])
    lowered = lower(cluster, timing, workload, log=False)
    result = replace(simulate(lowered.shape, lowered.params, max_ticks), stationary=workload.stationary)
    names = (*PATHWISE, TOKENS_PER_REQUEST.name)
    values, derivatives = pathwise(cluster, lowered, tangents, names, max_ticks, CATALOG_OF_TEST, window)
    row = result_row(result, None, cluster.num_devices, CATALOG_OF_TEST, window)
    assert (row["requests_finished"] == 40) == (max_ticks == 100_000)
    np.testing.assert_allclose(values, [row[name] or 0.0 for name in names], rtol=1e-9)
    np.testing.assert_array_equal(derivatives, 0.0)  # the parameter moves nothing


@pytest.mark.parametrize("seed", range(4))
def test_statistics_in_jax_are_those_of_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, there = rng.exponential(size=37), rng.random(37) < (0.0, 0.1, 0.7, 1.0)[seed]
    with jax.enable_x64(True):
        found = jax.jit(lambda x: statistics_of(x, there, jnp))(values)
        slopes = jax.tree.map(np.asarray, jax.jacfwd(lambda x: statistics_of(x, there, jnp))(jnp.asarray(values)))
    expected = statistics_of(values, there, np)
    for name in STATISTICS:
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-13)
        assert np.sum(slopes[name]) == pytest.approx(1.0 if there.any() else 0.0), "a second more of everything is one of the statistic"
        assert not slopes[name][~there].any()
        nudged = statistics_of(values * (1.0 + 1e-7), there, np)[name]
        assert np.dot(slopes[name], values) == pytest.approx((nudged - expected[name]) / 1e-7, rel=1e-5)
