"""Step corrections, and parameters on top of a profile: from Python, the command line, and as axes of a sweep."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import simjax
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.timing import cluster_timing
from simjax.disk.paths import PROFILES
from simjax.engine.programs import compile_count
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.parameters import with_parameters
from simjax.latency.priors import CORRECTION_TOKENS, STEP_CORRECTIONS, parameter
from simjax.latency.profiles.compile import compile_profile, step_correction
from simjax.latency.profiles.file import load_profile, save_profile
from simjax.latency.profiles.profile import LatencyProfile
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from tests.calibrate.calibrated import LLAMA
from tests.cli.conftest import Cli, one_line
from tests.cli.conftest import cli as cli  # the fixture
from tests.quickly import jit

H100 = simjax.InstanceSpec(load_model("llama-3.1-8b"), load_device("h100"))


@pytest.fixture(scope="module")
def generic() -> LatencyProfile:
    return load_profile(PROFILES / "latency" / "h100" / "generic.yaml")


def tokens_s(profile: LatencyProfile, degree: int = 1) -> np.ndarray:
    return np.asarray(
        compile_profile(profile, replace(H100, parallelism=Parallelism(degree)).deployment, max_tokens=4096, max_sequences=4).tokens_s[0]
    )


def test_corrections_hold_at_their_tokens_and_are_log_linear_between() -> None:
    found = step_correction((1.1, 1.0, 0.9, 1.2, 0.8), 4096)
    assert found[np.array(CORRECTION_TOKENS) - 1] == pytest.approx([1.1, 1.0, 0.9, 1.2, 0.8])
    assert found[:8] == pytest.approx(1.1) and found[2047:] == pytest.approx(0.8)
    assert found[64 - 1] == pytest.approx(np.sqrt(1.0 * 0.9)), "64 is half way from 32 to 128"
    assert step_correction((), 4096) == 1.0


def test_all_work_by_tokens_is_corrected_collectives_included(generic: LatencyProfile) -> None:
    slower = with_parameters(generic, {"step_128": 1.25})
    ratio = tokens_s(slower, 2)[1:] / tokens_s(generic, 2)[1:]
    assert ratio[128 - 1] == pytest.approx(1.25)
    assert ratio[:32] == pytest.approx(1.0) and ratio[511:] == pytest.approx(1.0)
    twice = with_parameters(slower, {"step_128": 0.8})
    assert tokens_s(twice, 2) == pytest.approx(tokens_s(generic, 2)), "factors on factors"


def test_corrections_have_derivatives(generic: LatencyProfile) -> None:
    def at(log: jax.Array) -> jax.Array:
        profile = with_parameters(generic, {"step_32": jnp.exp(log)})
        return jnp.log(compile_profile(profile, H100.deployment, max_tokens=256, max_sequences=4, xp=jnp).tokens_s[0, 1:])

    with jax.enable_x64(True):
        slope = jit(jax.jacfwd(at))(jnp.zeros(()))
    assert slope[jnp.array([8, 16, 32, 64, 128]) - 1] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_corrections_of_one_model_hold_for_its_own_ranks(generic: LatencyProfile) -> None:
    profile = replace(generic, models={LLAMA: dict(generic.ranks), "Qwen/Qwen3-8B": dict(generic.ranks)})
    changed = with_parameters(profile, {"step_8": 2.0, f"step_8[{LLAMA}]": 1.5})
    first = {name: next(iter(ranks.values())).correction[0] for name, ranks in {"": changed.ranks, **changed.models}.items()}
    assert first == {"": 2.0, LLAMA: 3.0, "Qwen/Qwen3-8B": 2.0}
    assert parameter(f"step_8[{LLAMA}]").prior_sd == parameter("step_8").prior_sd
    with pytest.raises(
        SimjaxError, match=r"step_8\[Qwen/Qwen3-32B\]: .*generic.yaml has no coefficients of Qwen/Qwen3-32B for itself; did"
    ):
        with_parameters(profile, {"step_8[Qwen/Qwen3-32B]": 1.0})
    with pytest.raises(SimjaxError, match=r"gemm_tile is shared by all models; only step_8 to step_2048"):
        parameter("gemm_tile[x]")


def test_profile_files_keep_corrections(generic: LatencyProfile, tmp_path: Path) -> None:
    changed = with_parameters(generic, dict(zip(STEP_CORRECTIONS, (1.01, 1.02, 0.9, 1.0, 0.98765), strict=True)))
    save_profile(changed, tmp_path / "p.yaml")
    assert next(iter(load_profile(tmp_path / "p.yaml").ranks.values())).correction == (1.01, 1.02, 0.9, 1.0, 0.98765)
    save_profile(generic, tmp_path / "q.yaml")
    assert "correction" not in (tmp_path / "q.yaml").read_text()
    text = (tmp_path / "p.yaml").read_text().partition("\n")[2]  # without its checksum
    (tmp_path / "r.yaml").write_text(text.replace("[1.01, 1.02, 0.9, 1.0, 0.98765]", "[1.01, -1]"))
    with pytest.raises(SimjaxError, match=r"r.yaml: correction must be 5 positive factors, for steps of \(8, 32, 128, 512, 2048\) tokens"):
        load_profile(tmp_path / "r.yaml")


def test_parameters_of_a_source_are_those_of_the_profile(generic: LatencyProfile, tmp_path: Path) -> None:
    values = {"gemm_bandwidth": 1.1, "step_32": 0.9, "api_pre_s": 0.004}
    save_profile(with_parameters(generic, values), tmp_path / "p.yaml")
    on_top = cluster_timing((H100,), LatencySource(parameters=tuple(values.items())))
    inside = cluster_timing((H100,), LatencySource(profile=tmp_path / "p.yaml"))
    np.testing.assert_allclose(on_top.step_time.tokens_s, inside.step_time.tokens_s, rtol=1e-5)
    assert on_top.api_pre_s.tolist() == [0.004]
    given = cluster_timing((H100,), LatencySource(parameters=(("api_pre_s", 0.004),), api_pre_s=0.5))
    assert given.api_pre_s.tolist() == [0.5], "a host time that is given is known"


def test_parameters_are_axes_of_a_sweep_without_compilations(cli: Cli) -> None:
    small = ["workload.num_requests=20", "scheduler.max_num_batched_tokens=512"]
    one = simjax.SweepPlan.of(small, {"profile.parameters.gemm_bandwidth": [0.9, 1.0, 1.1]}, width=4)
    table = simjax.run_sweep(one)
    before = compile_count()
    other = simjax.run_sweep(simjax.SweepPlan.of(small, {"profile.parameters.layer_s": [1e-6, 2e-6, 3e-6]}, width=4))
    assert compile_count() == before
    assert (table["tpot_mean_s"].diff().dropna() < 0).all()
    assert other["tpot_mean_s"].nunique() == 3
    said = cli("run", *small, "-m", "profile.parameters.gemm_bandwidth=0.9,1.1", "out=s")
    assert said.code == 0, said.err
    shown = cli("show-point", "s", "1", "plots=false", "out=p")
    assert shown.code == 0, shown
    assert "simjax run workload.num_requests=20 scheduler.max_num_batched_tokens=512 profile.parameters.gemm_bandwidth=1.1" in shown.out
    assert "numbers of the row reproduced" in shown.out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (
            ["profile.parameters={gemm_bandwith: 1.1}"],
            "profile.parameters: there is no parameter 'gemm_bandwith'; did you mean gemm_bandwidth",
        ),
        (["profile.parameters.gemm_tile=0"], "profile.parameters: gemm_tile=0.0: it must be positive"),
        (["profile.parameters.overlap=1"], "profile.parameters: overlap=1.0: it must lie in (0, 1)"),
        (["profile.parameters.gemm_tile=fast"], "profile.parameters.gemm_tile=fast: it must be a number"),
        (["profile.parameters.gemm_tile=null"], "profile.parameters.gemm_tile=null: it needs a value"),
        (["profile.parameters=3"], "profile.parameters: it must be a mapping, in braces"),
        (["profile.parameters=[1]"], "profile.parameters: it must be a mapping, in braces"),
        (["profile.parameters.step_s=1e-4", "profile.step_s=0"], "profile.step_s and profile.parameters.step_s are both set"),
        (
            ["profile.parameters.gemm_tile=2", "profile.bundle_root=x"],
            "profile.parameters: gemm_tile is a parameter of a profile; measured tables",
        ),
        (["-m", "profile.parameters.gemm_tle=1,2"], "profile.parameters: there is no parameter 'gemm_tle'; did you mean gemm_tile"),
        (["-m", "profile.parameters.gemm_tile=0,-1"], "none of the 2 points can be simulated; point 0: profile.parameters: gemm_tile=0.0"),
    ],
)
def test_mistakes(cli: Cli, words: list[str], part: str) -> None:
    assert part in one_line(cli("run", *words))
