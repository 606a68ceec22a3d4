"""Free, frozen and tied parameters, and their whitened coordinates."""

from typing import Any

import numpy as np
import pytest

from simjax.calibrate.space import MOST, NEVER_BY_THEMSELVES, ONLY_FP8, ONLY_LAUNCHED, ONLY_WITH_RANKS, Choices, Coverage, Space, space_of
from simjax.errors import SimjaxError
from simjax.latency.parameters import PARALLEL, present_value
from simjax.latency.priors import BACKEND_TIMES, PARAMETERS, parameter
from tests.calibrate.runs import profile


def space(coverage: Coverage | None = None, **choices: Any) -> Space:
    return space_of(profile(), coverage, Choices(**choices))


def test_usual_parameters() -> None:
    alone, sharded = set(space().names), set(space(Coverage(several_ranks=True)).names)
    every = space(Coverage(several_ranks=True, launched=("vllm",), fp8=True, parallel=PARALLEL))
    assert set(every.names) == set(PARAMETERS) - set(NEVER_BY_THEMSELVES)
    assert sharded - alone == set(ONLY_WITH_RANKS)
    assert set(every.names) - sharded == {ONLY_LAUNCHED, ONLY_FP8, *PARALLEL}
    assert [every.names[i] for i in every.drawn] == ["draft_acceptance"]


def test_another_backend_has_host_times_of_its_own() -> None:
    mixed = set(space(Coverage(backends=("vllm", "trtllm"), launched=("trtllm",))).names)
    assert mixed - set(space().names) == {f"{name}[trtllm]" for name in BACKEND_TIMES}
    foreign = set(space(Coverage(backends=("sglang",))).names)
    assert {name for name in foreign if name.partition("[")[0] in BACKEND_TIMES} == {"step_s[sglang]", "sequence_s[sglang]"}


def test_brackets_hold_a_backend_that_there_is() -> None:
    for name in ("step_s[vllm]", "launch_s[meta-llama/Llama-3.1-8B]"):
        with pytest.raises(SimjaxError, match="a backend other than vLLM, one of trtllm, sglang"):
            parameter(name)
    with pytest.raises(SimjaxError, match="shared by all models"):
        parameter("gemm_tile[trtllm]")


def test_priors_are_those_of_the_parameters_except_the_skew_that_the_profile_knows() -> None:
    for prior in space().priors:
        p = prior.parameter
        known = present_value(profile(), p.name) if p.name == "decode_skew" else 0.0
        assert (prior.median, prior.sd) == (known or p.prior, p.prior_sd)


def test_freeze_free_and_tie() -> None:
    some = space(freeze=("step_s", "gemm_tile"), free=("overlap",), tie={"gemm_compute": "gemm_bandwidth"}, medians={"gemm_tile": 1.2})
    assert set(space().names) - set(some.names) == {"step_s", "gemm_tile", "gemm_compute"}
    assert "overlap" in some.names
    values = some.values(np.linspace(-1, 1, len(some)))
    assert values["gemm_compute"] == values["gemm_bandwidth"] != 1.0
    assert values["gemm_tile"] == 1.2, "a frozen parameter with a value of its own takes it"
    assert "step_s" not in values, "one without stays as the profile has it"


def test_values_of_the_prior() -> None:
    one = space(medians={"step_s": 3e-4, "decode_skew": 0.1}, sds={"step_s": 0.5})
    u = np.zeros(len(one))
    values = one.values(u)
    assert values["step_s"] == pytest.approx(3e-4)
    assert values["decode_skew"] == pytest.approx(0.1)
    u[one.names.index("step_s")] = 2.0
    u[one.names.index("decode_skew")] = 1.0
    values = one.values(u)
    assert values["step_s"] == pytest.approx(3e-4 * np.exp(1.0))
    assert values["decode_skew"] == pytest.approx(1 / (1 + 9 * np.exp(-PARAMETERS["decode_skew"].prior_sd)))
    np.testing.assert_allclose(one.whitened(values), u, atol=1e-9)
    np.testing.assert_allclose(one.whitened({}), 0.0, atol=1e-12)


def test_a_parameter_stays_on_its_bound() -> None:
    one = space()
    at, beyond = (one.values(np.full(len(one), x)) for x in (MOST, MOST + 3))
    assert at == beyond


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": ["gemm_bandwith"]}, "there is no parameter 'gemm_bandwith'; .*gemm_bandwidth"),
        ({"sds": {"step_s": 0.0}}, r"parameters.step_s.sd=0.0: it must be positive"),
        ({"medians": {"step_s": -1.0}}, r"parameters.step_s.prior=-1.0: it must be positive"),
        ({"medians": {"decode_skew": 1.0}}, r"parameters.decode_skew.prior=1.0: it must be in \(0, 1\)"),
        ({"tie": {"gemm_tile": "overlap"}}, "parameters.gemm_tile.tie=overlap: overlap is not fitted"),
        ({"tie": {"gemm_tile": "step_s"}}, "a factor cannot take the value of a s"),
        ({"freeze": list(PARAMETERS)}, "every parameter is frozen"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SimjaxError, match=message) as said:
        space(**options)
    assert "\n" not in str(said.value)
