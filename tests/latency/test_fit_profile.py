"""Latency profiles: the shipped ones compile, and the step times that they give are near to the measured ones."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.deployment import Deployment
from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError
from simjax.hardware import device_names, load_device
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.file import find_profile, load_profile, save_profile
from simjax.latency.profiles.profile import ANY_DEGREE
from simjax.latency.roofline import roofline_profile
from simjax.latency.step_time import mixed_step_s, row
from simjax.latency.warnings import profile_warnings
from simjax.model import load_model
from simjax.network.collectives import all_reduce_s
from simjax.parallel.parallelism import Parallelism
from tests.quickly import jit

LLAMA = load_model("llama-3.1-8b")
H100 = load_device("h100")
TWO = Parallelism(tensor=2)


def step_ms(step_time, new, computed):
    with jax.enable_x64(True):
        return 1e3 * float(mixed_step_s(row(step_time, 0), np.array(new, np.int32), np.array(computed, np.int32)))


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_device_has_step_times_of_any_model(name):
    device = load_device(name)
    for model in (LLAMA, load_model("mixtral-8x7b")):
        step_time = compile_profile(find_profile(device, model, 2), Deployment(model, device, TWO), max_tokens=300, max_sequences=10)
        tokens_s, sequences_s = np.asarray(step_time.tokens_s[0]), np.asarray(step_time.sequences_s[0])
        assert tokens_s.shape == (301,) and sequences_s.shape == (11,) and tokens_s.dtype == np.float64
        assert tokens_s[0] == sequences_s[0] == 0.0
        assert (tokens_s[1:] > 1e-3).all() and (sequences_s[1:] > 0).all()
        assert tokens_s[300] > tokens_s[1]
        assert all(np.isfinite(leaf).all() and (np.asarray(leaf) >= 0).all() for leaf in jax.tree.leaves(step_time.attention))
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize(
    ("model", "tp", "new", "computed", "measured_ms"),
    [
        # Medians of decode steps, and of steps with one and two prompts of 986 tokens, of vLLM 0.15 and 0.23 on H100.
        ("qwen3-14b", 1, [1] * 11, [1050] * 11, 12.3),
        ("qwen3-14b", 1, [986], [0], 40.6),
        ("qwen3-14b", 1, [986, 986], [0, 0], 80.5),
        ("llama-2-7b", 1, [1] * 9, [700] * 9, 7.2),
        ("llama-2-7b", 1, [1] * 84, [700] * 84, 16.7),
        ("codellama-34b", 2, [1] * 18, [700] * 18, 14.5),
        ("codellama-34b", 2, [1] * 86, [700] * 86, 17.0),
        ("llama-2-70b", 4, [1] * 21, [700] * 21, 17.2),
        ("llama-2-70b", 4, [1] * 114, [700] * 114, 22.2),
        ("mixtral-8x7b", 2, [1] * 22, [700] * 22, 17.8),
        ("mixtral-8x7b", 2, [1] * 104, [700] * 104, 20.5),
    ],
)
def test_data_sheet_and_kernel_fractions_alone_time_h100_steps_within_twelve_percent(model, tp, new, computed, measured_ms):
    spec = load_model(model)
    step_time = compile_profile(find_profile(H100, spec, tp), Deployment(spec, H100, Parallelism(tp)), max_tokens=2048, max_sequences=128)
    assert step_ms(step_time, new, computed) == pytest.approx(measured_ms, rel=0.12)


def test_tensor_parallelism_adds_two_all_reduces_a_layer():
    device = load_device("rtx_pro_6000")
    profile = find_profile(device, LLAMA, 2)
    free = replace(device.node.intra_link, bandwidth_bytes_per_s=1e30, latency_s=0.0, endpoint_s=0.0)
    slow = compile_profile(profile, Deployment(LLAMA, device, TWO), max_tokens=64, max_sequences=1).tokens_s
    fast = compile_profile(profile, Deployment(LLAMA, device, TWO, free), max_tokens=64, max_sequences=1).tokens_s
    message = 64 * 4096 * 2
    one = all_reduce_s(message, 2, device.node.intra_link, device.memory_bandwidth_bytes_per_s)
    free_one = all_reduce_s(message, 2, free, device.memory_bandwidth_bytes_per_s)
    assert float(slow[0, 64] - fast[0, 64]) == pytest.approx(2 * 32 * (one - free_one), rel=1e-9)


def test_the_models_own_profile_is_preferred():
    device = load_device("rtx_pro_6000")
    assert find_profile(device, LLAMA, 2).model == "meta-llama/Llama-3.1-8B"
    renamed = replace(LLAMA, name="mine", max_position_embeddings=4096)
    assert find_profile(device, renamed).model == "meta-llama/Llama-3.1-8B"
    assert find_profile(device, LLAMA, 4).model is None
    assert find_profile(device, load_model("mistral-7b")).model is None
    assert find_profile(replace(device, name="mine"), LLAMA).source == "roofline of mine"


def test_a_profile_at_another_degree_is_refused():
    device = load_device("rtx_4090")
    profile = load_profile(PROFILES / "latency" / "rtx_4090" / "llama-3.1-8b.yaml")
    with pytest.raises(
        SimjaxError, match="profile for another tensor-parallel degree: asked for tensor_parallel_size=2, measured 1"
    ) as error:
        compile_profile(profile, Deployment(LLAMA, device, TWO))
    assert "\n" not in str(error.value)


def test_a_profile_of_another_kind_of_model_is_refused():
    profile = load_profile(PROFILES / "latency" / "rtx_4090" / "llama-3.1-8b.yaml")
    with pytest.raises(SimjaxError, match="no coefficients for qk_norm"):
        compile_profile(profile, Deployment(load_model("qwen3-8b"), load_device("rtx_4090")))


def test_warnings_name_what_leaves_the_measured_range():
    device = load_device("rtx_pro_6000")
    one, four = Deployment(LLAMA, device), Deployment(LLAMA, device, Parallelism(4))
    assert profile_warnings(find_profile(device, LLAMA), one, 2048, 256) == []
    lines = profile_warnings(find_profile(device, LLAMA), one, 8192, 300)
    assert any("max_num_batched_tokens=8192 exceeds the measured 2048" in line for line in lines)
    assert any("max_num_seqs=300 exceeds the measured 256" in line for line in lines)
    generic = profile_warnings(find_profile(device, LLAMA, 4), four, 2048, 256)
    assert any("not measured for meta-llama/Llama-3.1-8B" in line for line in generic)
    assert any("tensor_parallel_size=4 is extrapolated" in line for line in generic)


@pytest.mark.parametrize("generic", [True, False])
def test_step_times_are_differentiable_in_the_coefficients(generic):
    device = load_device("rtx_pro_6000")
    profile = roofline_profile(device) if generic else find_profile(device, LLAMA)
    degree = ANY_DEGREE if generic else 1
    name = "gemm" if generic else "gate_up_proj"

    def total_s(value, xp):
        rank = profile.ranks[degree]
        ops = rank.ops | {name: replace(rank.ops[name], bandwidth_efficiency=value)}
        changed = replace(profile, ranks={degree: replace(rank, ops=ops)})
        return jnp.sum(compile_profile(changed, Deployment(LLAMA, device), max_tokens=64, max_sequences=8, xp=xp).tokens_s)

    value = profile.ranks[degree].ops[name].bandwidth_efficiency
    with jax.enable_x64(True):
        gradient = float(jit(jax.grad(lambda x: total_s(x, jnp)))(jnp.asarray(value, jnp.float64)))
        slope = float(total_s(value * (1 + 1e-6), np) - total_s(value * (1 - 1e-6), np)) / (2e-6 * value)
        assert gradient == pytest.approx(slope, rel=1e-5)


def test_coefficients_are_leaves_of_a_pytree():
    profile = find_profile(H100, LLAMA)
    doubled = jax.tree.map(lambda x: 2.0 * x, profile.ranks[ANY_DEGREE])
    assert doubled.ops["gemm"].floor_s == 2.0 * profile.ranks[ANY_DEGREE].ops["gemm"].floor_s
    assert doubled.attention.decode_floor_s == 2.0 * profile.ranks[ANY_DEGREE].attention.decode_floor_s


def test_a_wrong_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "p.yaml"
    save_profile(find_profile(H100, LLAMA), path)
    _, good = path.read_text().split("\n", 1)  # without its checksum
    for change, message in (
        (good.replace("floor_s: 2.6e-06", "floor_s: fast"), "floor_s must be a number, got 'fast'"),
        (good.replace("floor_s: 2.6e-06", "flor_s: 2.6e-06"), "unknown field 'flor_s'; did you mean floor_s"),
        (good.replace("device: h100", "gadget: h100"), "field 'device' is missing"),
        ("a: [", "is not valid YAML"),
        ("", "expected a mapping of names to values, found NoneType"),
        ("- a\n- b\n", "expected a mapping of names to values, found list"),
    ):
        path.write_text(change)
        with pytest.raises(SimjaxError, match=message) as error:
            load_profile(path)
        assert "\n" not in str(error.value)
    with pytest.raises(SimjaxError, match="cannot read latency profile nowhere"):
        load_profile("nowhere.yaml")
