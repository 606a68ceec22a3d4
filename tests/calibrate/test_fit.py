"""Fits of runs whose parameters are known."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from simjax.calibrate.fit import FitOptions, fit
from simjax.calibrate.posterior import laplace, parameter_rows
from simjax.calibrate.prepared_run import prepare_measured
from simjax.calibrate.search.gradient_fit import fit_by_gradient
from simjax.calibrate.space import Choices, space_of
from simjax.calibrate.targets.measured_run import LossWeights, RunTarget
from tests.calibrate.runs import cluster, measured, poisson, profile

TRUTH = {
    "gemm_bandwidth": 0.95,
    "gemm_compute": 1.04,
    "gemm_tile": 1.1,
    "elementwise_bandwidth": 1.1,
    "kernel_floor": 1.1,
    "decode_attention": 0.93,
    "prefill_attention": 0.9,
    "decode_skew": 0.05,
    "step_s": 2e-4,
    "layer_s": 3e-6,
    "sequence_s": 5e-6,
    "api_pre_s": 6e-3,
    "api_post_s": 3e-3,
}
FEW = ("sequence_s", "api_pre_s")


@functools.cache
def target() -> RunTarget:
    run = measured(poisson(12.0, 100), TRUTH)
    return RunTarget(run, prepare_measured(run, cluster(), profile()), LossWeights())


@pytest.mark.slow
def test_recovers_what_the_data_tell(caplog: pytest.LogCaptureFixture) -> None:
    compiled: list[int] = []
    space = space_of(profile())
    assert set(space.names) == set(TRUTH)
    count = lambda *_: compiled.append(sum("Finished XLA compilation" in r.getMessage() for r in caplog.records))
    with jax.log_compiles():
        found = fit([target()], profile(), space, FitOptions(starts=2, max_steps=25), count)
    assert compiled[0] > 0
    assert compiled[1:] == compiled[:1] * (len(compiled) - 1), "a step compiled something"
    assert (found.steps, len(found.history)) == (len(compiled),) * 2
    assert (np.diff(found.history) <= 0).all()
    assert found.loss == pytest.approx(found.history[-1]) == pytest.approx(found.losses.min())
    assert found.loss < 0.003 * found.loss_before

    posterior = laplace(found, target().observations)
    assert posterior.misfit == 1.0
    rows = [row for row in parameter_rows(space, posterior, profile()) if row["fitted"]]
    told = [row for row in rows if row["constrained"] > 0.5]
    assert {"sequence_s", "api_pre_s"} <= {row["name"] for row in told}
    assert all(row["low"] <= TRUTH[row["name"]] <= row["high"] for row in told), told  # none may miss
    assert not any(row["at_bound"] for row in rows)


@pytest.mark.slow
def test_both_modes_find_the_same() -> None:
    # Two parameters from their priors, all others at the truth. Requests are served alone, so that the schedule never changes: with a busy
    # engine the loss has several valleys, and one start may end in another one than the next.
    rest = {name: value for name, value in TRUTH.items() if name not in FEW}
    space = space_of(profile(), choices=Choices(freeze=tuple(rest), medians=rest))
    run = measured(replace(poisson(12.0, 40), arrival_s=5.0 * np.arange(40)), TRUTH)
    alone = RunTarget(run, prepare_measured(run, cluster(), profile()), LossWeights())
    forward = fit([alone], profile(), space, FitOptions(starts=1, max_steps=15))
    reverse = fit_by_gradient([alone], profile(), space, FitOptions(max_steps=15), "lbfgs")
    at_truth = 0.5 * float((space.whitened(TRUTH) ** 2).sum())  # only the prior's part is left there
    assert reverse.loss_before > 100 * at_truth
    assert forward.loss <= at_truth * 1.01
    assert reverse.loss == pytest.approx(forward.loss, rel=0.05)
