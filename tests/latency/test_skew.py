"""Parameters of exchanges and experts in step times: their derivatives, and the spline through loads at several powers of a popularity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.deployment import Deployment
from simjax.hardware import load_device
from simjax.latency.experts.load import load_of
from simjax.latency.experts.skew import _with_power, skewed_load
from simjax.latency.parameters import PARALLEL, parallel_effects, with_parameters
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.file import generic_profile, load_profile, save_profile
from simjax.model import load_model
from simjax.parallel.experts import LLMSERVINGSIM, LOW_LATENCY, Experts
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity
from simjax.speculation.methods import Speculation
from tests.quickly import jit

H100, QWEN = load_device("h100"), load_model("Qwen/Qwen3-30B-A3B")
TOKENS = np.array([1, 4, 16, 64, 256])


def deployed(kind: str = "zipf", exponent: float = 1.0, ranks: int = 4, **experts) -> Deployment:
    popularity = Popularity(kind, exponent)
    return Deployment(QWEN, H100, Parallelism(1, data=ranks, expert=ranks, experts=Experts(popularity=popularity, **experts)))


def test_which_parameters_matter() -> None:
    exchanges = ("exchange_bandwidth", "exchange_latency")
    assert parallel_effects(deployed("uniform")) == exchanges
    assert parallel_effects(deployed()) == (*exchanges, "expert_skew")
    assert parallel_effects(deployed(all2all_backend=LLMSERVINGSIM)) == ()
    one = Deployment(QWEN, H100, speculation=Speculation("ngram", 1, (0.5,)))
    assert parallel_effects(one) == ("draft_acceptance",)


@pytest.mark.parametrize("eplb", [False, True])
def test_a_traced_power_meets_the_load_itself(eplb: bool) -> None:
    for skew in (0.3, 0.9, 1.0, 1.4):
        exact, at = load_of(_with_power(deployed(eplb=eplb), skew), TOKENS), deployed(eplb=eplb)
        with jax.enable_x64(True):
            splined = skewed_load(at, TOKENS, jnp.asarray(skew, jnp.float64))
        assert exact is not None and splined is not None
        np.testing.assert_allclose(splined.pairs, exact.pairs, rtol=0.01)
        np.testing.assert_allclose(splined.distinct, exact.distinct, rtol=0.01)
        number = skewed_load(at, TOKENS, skew)
        assert number is not None and np.array_equal(number.pairs, exact.pairs), "a number is taken at its word"


def test_a_power_changes_what_is_uneven_only() -> None:
    half, law = skewed_load(deployed(), TOKENS, 0.5), skewed_load(deployed(exponent=0.5), TOKENS, 1.0)
    assert half is not None and law is not None
    np.testing.assert_allclose(half.pairs, law.pairs, rtol=1e-12)
    even = [skewed_load(deployed("uniform"), TOKENS, skew) for skew in (1.0, 2.0)]
    assert even[0] is not None and even[1] is not None and np.array_equal(even[0].distinct, even[1].distinct)


@pytest.mark.parametrize("backend", ["allgather_reducescatter", LOW_LATENCY])
def test_derivatives_of_step_times_are_those_of_differences(backend: str) -> None:
    """Of exchanges to rounding; of the skew within the spline and the stairs of tiles, whose mean slope it has."""
    base, deployment = generic_profile(H100), deployed(all2all_backend=backend)

    def group_s(value, name: str, xp=jnp):
        times = compile_profile(with_parameters(base, {name: value}), deployment, 64, 16, xp).group
        return jnp.concatenate([times.experts_s[0, TOKENS[:4]], times.exchange_s[0, TOKENS[:4]], times.token_s])

    with jax.enable_x64(True):
        for name, step, tolerance in (("exchange_bandwidth", 1e-5, 1e-6), ("exchange_latency", 1e-5, 1e-6), ("expert_skew", 0.1, 0.05)):
            slope = jit(jax.jacfwd(lambda x, name=name: group_s(x, name)))(1.0)
            high, low = (group_s(1.0 + sign * step, name, np) for sign in (1.0, -1.0))
            assert jnp.abs(slope).sum() > 0
            np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=tolerance, atol=tolerance * float(jnp.abs(slope).max()))


def test_factors_of_a_profile_multiply_and_are_kept_in_its_file(tmp_path) -> None:
    twice = with_parameters(with_parameters(generic_profile(H100), dict.fromkeys(PARALLEL, 1.5)), {"exchange_latency": 2.0})
    assert (twice.parallel.exchange_latency, twice.parallel.expert_skew) == (3.0, 1.5)
    save_profile(twice, tmp_path / "p.yaml")
    assert load_profile(tmp_path / "p.yaml").parallel == twice.parallel
    save_profile(generic_profile(H100), tmp_path / "plain.yaml")
    assert "parallel" not in (tmp_path / "plain.yaml").read_text()
