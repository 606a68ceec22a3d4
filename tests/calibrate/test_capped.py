"""Fits to the run of a client with a cap on its requests in flight."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.calibrate.job import calibrate
from simjax.calibrate.prepared_run import prepare_measured, simulated
from simjax.calibrate.targets.measured_run import LossWeights, RunTarget
from simjax.config.compose import compose_config, typed
from simjax.errors import SimjaxError
from simjax.latency.parameters import with_parameters
from simjax.validate.client import as_its_client_sent
from tests.calibrate.runs import cluster, measured, poisson, profile
from tests.data import data_path
from tests.quickly import jit

CAP = 12


def capped_run(truth: dict[str, float]):
    """A saturated run of a client with a cap, whose schedule is known, measured with these parameters."""
    workload = poisson(60.0, 200)
    run = measured(replace(workload, max_concurrency=CAP), truth)
    return replace(run, due_s=workload.arrival_s)


def test_a_saturated_run_under_its_cap_tells_the_speed_of_the_server() -> None:
    """The residuals vanish at the truth, and their derivative is that of differences of whole runs."""
    sent = as_its_client_sent(capped_run({}), CAP)
    prepared = prepare_measured(sent, cluster(), profile())
    assert prepared.shape.capped
    target = RunTarget(sent, prepared, LossWeights())

    run = jit(lambda log_bandwidth: simulated(prepared, with_parameters(profile(), {"gemm_bandwidth": jnp.exp(log_bandwidth)})))

    def end_s(log_bandwidth: jax.Array) -> jax.Array:
        found = run(log_bandwidth)
        return jnp.max(found.sent_s + found.e2e_s)

    with jax.enable_x64(True):
        now, slope = map(float, jax.jvp(end_s, (jnp.zeros(()),), (jnp.ones(()),)))
        step = 0.02
        difference = float(end_s(jnp.float64(step)) - end_s(jnp.float64(-step))) / (2 * step)
        residuals = np.asarray(target.of(run(jnp.zeros(()))))
    assert now > 5.0 and slope < 0.0
    np.testing.assert_allclose(slope, difference, rtol=0.1)
    np.testing.assert_allclose(residuals, 0.0, atol=1e-6)


def test_what_is_recorded_but_not_simulated_is_not_fitted(tmp_path) -> None:
    folder = data_path("cases/recorded_but_not_simulated/fp8")
    config = typed(compose_config("calibrate", [f"measured=[{folder}]"]))
    with pytest.raises(SimjaxError, match=r"quantization='fp8' is recorded but not simulated: .* allow_unsimulated=true"):
        calibrate(config, tmp_path / "profile.yaml")
