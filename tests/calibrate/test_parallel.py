"""Parameters of exchanges, experts and drafts: drawn points of known values, fitted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.calibrate.fit import FitOptions, fit, with_jacobian
from simjax.calibrate.posterior import Posterior, fitted_rows, laplace
from simjax.calibrate.prepared_run import prepare, with_profile
from simjax.calibrate.search.gradient_fit import fit_by_gradient
from simjax.calibrate.space import Choices, Coverage, Space, space_of
from simjax.calibrate.targets.points import MeanPoint
from simjax.calibrate.targets.points_target import PointOptions, PointsTarget
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.engine.differentiate import outcome
from simjax.engine.programs import Effort
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.parameters import PARALLEL, with_parameters
from simjax.latency.priors import PARAMETERS
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity
from simjax.speculation.methods import Speculation
from tests.calibrate.runs import poisson, profile
from tests.quickly import jit

H100 = load_device("h100")
LIMITS = InstanceLimits(max_num_seqs=32, max_num_batched_tokens=256, num_gpu_blocks_override=4000, enable_prefix_caching=False)
EXPERTS = MeanPoint(
    id="experts",
    model=load_model("Qwen/Qwen3-30B-A3B"),
    device=H100,
    tensor_parallel_size=1,
    concurrency=8,
    prompt_tokens=64,
    output_tokens=24,
    ttft_s=1.0,
    tpot_s=1.0,
    max_num_batched_tokens=256,
    max_num_seqs=32,
    data_parallel_size=2,
    enable_expert_parallel=True,
    popularity=Popularity("zipf", 0.5),
)
DRAFTS = replace(
    EXPERTS,
    id="drafts",
    model=load_model("llama-3.1-8b"),
    output_tokens=96,
    data_parallel_size=1,
    enable_expert_parallel=False,
    popularity=Popularity(),
    speculation=Speculation("eagle", 3, (0.7, 0.5, 0.3)),
)


def free(*names: str) -> Space:
    return space_of(profile(), Coverage(parallel=PARALLEL), Choices(freeze=tuple(set(PARAMETERS) - set(names))))


def drawn(points: Sequence[MeanPoint], truth: Mapping[str, float], options: PointOptions) -> PointsTarget:
    """Points with the means that known values give, and the errors of measurement that the options expect."""
    target = PointsTarget.of(points, profile(), options)
    with jax.enable_x64(True):
        means = jit(lambda: target.means(with_parameters(profile(), truth)))()
    assert means.finished.all()
    rng = np.random.default_rng(0)
    ttft_s, tpot_s = (
        np.asarray(x) * np.exp(sd * rng.normal(size=len(points)))
        for x, sd in ((means.ttft_s, options.ttft_sd), (means.tpot_s, options.tpot_sd))
    )
    measured = [replace(p, ttft_s=float(a), tpot_s=float(b)) for p, a, b in zip(points, ttft_s, tpot_s, strict=True)]
    return replace(target, points=tuple(measured))


def fitted(target: PointsTarget, space: Space, starts: int = 1) -> tuple[Posterior, dict[str, dict]]:
    found = fit([target], profile(), space, FitOptions(starts=starts, max_steps=8))
    posterior = laplace(found, target.observations)
    return posterior, {row["name"]: row for row in fitted_rows(space, posterior)}


@pytest.mark.slow
def test_exchanges_and_experts_are_recovered() -> None:
    """What the points inform comes back within the 90 % interval; bandwidth, which short messages do not show, stays at its prior."""
    truth = {"gemm_bandwidth": 0.97, "exchange_latency": 1.6, "expert_skew": 1.5}
    points = [replace(EXPERTS, id=str(n), concurrency=n) for n in (2, 8, 16, 32)]
    target = drawn(points, truth, PointOptions(ttft_sd=0.02, tpot_sd=0.01))
    _, rows = fitted(target, free(*truth, "exchange_bandwidth"))
    for name, value in truth.items():
        assert rows[name]["low"] < value < rows[name]["high"], name
    assert rows["expert_skew"]["constrained"] > 0.9
    assert rows["exchange_latency"]["constrained"] > 0.2
    left = rows["exchange_bandwidth"]
    assert left["constrained"] < 0.1
    assert left["value"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
def test_acceptance_is_recovered() -> None:
    truth = {"gemm_bandwidth": 0.97, "draft_acceptance": 1.5}
    points = [replace(DRAFTS, id=str(n), concurrency=n) for n in (4, 8, 16)]
    target = drawn(points, truth, PointOptions(ttft_sd=0.1, tpot_sd=0.03))
    _, rows = fitted(target, free(*truth), starts=2)
    assert rows["draft_acceptance"]["low"] < 1.5 < rows["draft_acceptance"]["high"]
    assert rows["draft_acceptance"]["constrained"] > 0.8


def test_columns_of_draws_are_differences() -> None:
    """A function that jumps with one argument has the slope over many jumps, next to the derivatives of the others."""
    stairs = lambda u: jnp.stack([jnp.floor(1000.0 * u[0]) / 1000.0 + u[1] ** 2, 3.0 * u[1]])
    with jax.enable_x64(True):
        value, jacobian = with_jacobian(stairs, (0,))(jnp.array([0.2, 0.5]))
    np.testing.assert_allclose(value, [0.45, 1.5], atol=1e-3)
    np.testing.assert_allclose(jacobian, [[1.0, 1.0], [0.0, 3.0]], atol=2e-3)


def test_a_fit_by_gradients_has_none_of_acceptance() -> None:
    with pytest.raises(SimjaxError, match=r"fit\.method=lbfgs: draft_acceptance moves draws and has no gradient; fit\.method=lm, or"):
        fit_by_gradient([], profile(), free("gemm_bandwidth", "draft_acceptance"), FitOptions(), "lbfgs")


@pytest.mark.parametrize(
    "instance",
    [
        InstanceSpec(DRAFTS.model, H100, Parallelism(pipeline=2), LIMITS),
        InstanceSpec(DRAFTS.model, H100, limits=LIMITS, speculation=DRAFTS.speculation),
        InstanceSpec(DRAFTS.model, H100, Parallelism(data=2), LIMITS),
    ],
    ids=["stages", "drafts", "ranks"],
)
def test_derivatives_with_the_schedule_held_are_those_of_differences(instance: InstanceSpec) -> None:
    """Of first tokens and finishes by a bandwidth, over a change that leaves the schedule as it is."""
    prepared = prepare(ClusterSpec((instance,)), poisson(20.0, 12), profile())

    def times_s(bandwidth: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = outcome(prepared.shape, with_profile(prepared, with_parameters(profile(), {"gemm_bandwidth": bandwidth})))
        known = lambda x: jnp.where(found.finished, x, 0.0)
        return jnp.concatenate([known(found.first_token_s), known(found.finish_s)]), found.steps

    both = lambda x: (*jax.jvp(lambda y: times_s(y)[0], (x,), (jnp.ones(()),)), times_s(x)[1])
    with jax.enable_x64(True):
        run = jax.jit(both, compiler_options=Effort.MEDIUM.options())
        sides = [jax.tree.map(np.asarray, run(jnp.asarray(1.0 + step))) for step in (1e-6, -1e-6, 0.0)]
    (high, _, a), (low, _, b), (_, slope, _) = sides
    assert a == b, "the schedule is the same on both sides"
    assert np.abs(slope).sum() > 0
    np.testing.assert_allclose(slope, (high - low) / 2e-6, rtol=1e-5, atol=1e-7)
