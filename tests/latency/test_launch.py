"""Steps that the host launches kernel by kernel: the floor of their time, leaps over it, gradients, and that it is free where it is not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.join import join_step_times
from simjax.latency.parameters import with_parameters
from simjax.latency.profiles.compile import compile_profile, kernels
from simjax.latency.profiles.file import generic_profile, load_profile, save_profile
from simjax.latency.step_time import StepTime, decode_steps, mixed_step_s, row
from simjax.model import load_model
from simjax.model.ops import step_ops
from simjax.parallel.parallelism import Parallelism
from tests.latency.step_times import example_step_time

SLOTS = 64
MIXED, DECODE = jax.jit(mixed_step_s), jax.jit(decode_steps)
H100, LLAMA = load_device("h100"), load_model("llama-3.1-8b")
GRAPHS, EAGER = InstanceLimits(), InstanceLimits(enforce_eager=True)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def launched(alone_s: float, chunk_s: float, step_time: StepTime | None = None) -> StepTime:
    return dataclasses.replace(step_time or example_step_time(), launch_s=jnp.asarray([[alone_s, chunk_s]], jnp.float64))


def mixed(step_time, new, computed):
    slots = np.zeros((2, SLOTS), np.int32)
    slots[0, : len(new)], slots[1, : len(computed)] = new, computed
    return float(MIXED(row(step_time, 0), *slots))


def decode(step_time, contexts):
    contexts = np.asarray(contexts)
    return tuple(x.item() for x in DECODE(row(step_time, 0), len(contexts), int(contexts.sum()), int(contexts.max())))


def step_time_of(limits: InstanceLimits, launch_s: float = 21e-6, degree: int = 1) -> StepTime:
    profile = with_parameters(generic_profile(H100), {"launch_s": launch_s})
    return compile_profile(profile, InstanceSpec(LLAMA, H100, Parallelism(degree), limits).deployment, 2048, 64)


def test_each_kind_of_step_has_its_own_floor():
    plain, step_time = example_step_time(), launched(0.5, 0.7)
    assert mixed(step_time, [1, 1], [100, 300]) == decode(step_time, [100, 300])[0] == 0.5
    assert mixed(step_time, [200], [0]) == pytest.approx(0.7, rel=1e-6)
    assert mixed(step_time, [0], [5]) == 0.0, "nothing is launched for a step of nothing"
    short = launched(1e-9, 1e-9)
    for new in ([1, 1], [200, 1]):
        assert mixed(short, new, [100, 300]) == mixed(plain, new, [100, 300])


def test_where_device_and_host_are_as_slow_a_step_with_a_prompt_takes_a_little_longer_than_either():
    device_s = mixed(example_step_time(), [200], [0])
    assert mixed(launched(0.0, device_s), [200], [0]) == pytest.approx(device_s * 2 ** (1 / 6), rel=1e-12)


def test_a_leap_under_the_floor_ends_where_the_device_becomes_slower():
    plain = example_step_time()
    first_s, slope_s, _ = decode(plain, [100, 300])
    step_time = launched(first_s + 10.5 * slope_s, 0.0)
    held_s, held_slope_s, valid = decode(step_time, [100, 300])
    assert (held_slope_s, valid) == (0.0, 11)
    for j in range(14):
        exact = max(first_s + j * slope_s, first_s + 10.5 * slope_s)
        assert mixed(step_time, [1, 1], [100 + j, 300 + j]) == pytest.approx(exact, rel=1e-13)
        assert decode(step_time, [100 + j, 300 + j])[0] == pytest.approx(exact, rel=1e-13)
        if j < valid:
            assert held_s == pytest.approx(exact, rel=1e-13)
    assert decode(step_time, [111, 311])[1:] == (pytest.approx(slope_s), decode(plain, [111, 311])[2])


def test_measured_attention_bends_a_leap_as_before():
    table = example_step_time(measured=True)
    first_s, _, valid = decode(table, [90])
    assert decode(launched(2 * first_s, 0.0, table), [90]) == (2 * first_s, 0.0, pytest.approx(valid, abs=0))
    assert decode(launched(first_s / 2, 0.0, table), [90]) == decode(table, [90])


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.95, 1.05, 3.0])
@pytest.mark.parametrize("chunk", [True, False])
def test_gradients_are_finite_and_those_of_finite_differences(ratio, chunk):
    new, computed = ([200, 1] if chunk else [1, 1]), [100, 300]
    slots = np.zeros((2, SLOTS), np.int32)
    slots[0, :2], slots[1, :2] = new, computed
    device_s = mixed(example_step_time(), new, computed)

    def seconds(floor_s, host_s):
        step_time = dataclasses.replace(example_step_time(), host_s=jnp.asarray([host_s]), launch_s=jnp.asarray([[floor_s, floor_s]]))
        return mixed_step_s(row(step_time, 0), *map(jnp.asarray, slots))

    at, h = (ratio * device_s, 1e-3), 1e-9
    found = jax.jit(jax.grad(seconds, (0, 1)))(*at)
    for k, gradient in enumerate(found):
        up, down = (seconds(*(x + s * h * (i == k) for i, x in enumerate(at))) for s in (1, -1))
        assert np.isfinite(gradient)
        assert float(gradient) == pytest.approx(float(up - down) / (2 * h), abs=1e-5)


def test_launches_are_counted_by_kernels():
    # 8 operations a layer, writing the cache, attention; embedding, last norm, head and sampler.
    assert kernels(step_ops(LLAMA), Deployment(LLAMA, H100)) == 32 * 10 + 4
    assert kernels(step_ops(LLAMA, 2), Deployment(LLAMA, H100, Parallelism(2))) == 32 * 12 + 4
    fp8 = dataclasses.replace(LLAMA, quantization="fp8")
    assert kernels(step_ops(fp8), Deployment(fp8, H100)) == 32 * 14 + 4
    eager = step_time_of(EAGER, 30e-6)
    assert eager.launch_s is not None
    np.testing.assert_allclose(eager.launch_s, [[324 * 30e-6, 324 * 30e-6]], rtol=1e-12)


def test_graphs_decide_which_steps_are_launched():
    assert step_time_of(GRAPHS).launch_s is None
    decodes = step_time_of(InstanceLimits(cudagraph_mode="full_decode_only")).launch_s
    assert decodes is not None
    assert decodes[0, 0] == 0.0 < decodes[0, 1]
    assert InstanceLimits(cudagraph_mode="none").launches == EAGER.launches == (True, True)
    with pytest.raises(SimjaxError, match=r"scheduler\.cudagraph_mode=piecewize: there is no such mode"):
        InstanceLimits(cudagraph_mode="piecewize")


def test_graphs_cost_nothing_and_change_nothing():
    """The same program, operation by operation, whatever the profile's launch time; a profile without one has no floor in eager mode."""
    slots = np.zeros((2, SLOTS), np.int32)
    texts = {jax.jit(mixed_step_s).lower(row(step_time_of(GRAPHS, x), 0), *slots).as_text() for x in (1e-6, 1e-3)}
    assert len(texts) == 1
    rtx = load_device("rtx_pro_6000")
    eager = InstanceSpec(LLAMA, rtx, limits=EAGER).deployment
    assert compile_profile(generic_profile(rtx), eager, 512, 64).launch_s is None


def test_instances_with_and_without_graphs_stand_side_by_side():
    both = join_step_times([step_time_of(GRAPHS), step_time_of(EAGER)])
    for index, limits in enumerate((GRAPHS, EAGER)):
        alone = step_time_of(limits)
        for new in ([1], [30, 1]):
            slots = np.zeros((2, SLOTS), np.int32)
            slots[0, : len(new)], slots[1, 0] = new, 50
            assert float(MIXED(row(both, index), *slots)) == pytest.approx(float(MIXED(row(alone, 0), *slots)), rel=1e-15)


def test_host_times_of_other_backends_survive_a_file_and_leave_vllm_alone(tmp_path):
    base = generic_profile(H100)
    changed = with_parameters(base, {"step_s[trtllm]": 5e-4, "launch_s[trtllm]": 4e-5, "fp8_compute": 0.9})
    save_profile(changed, tmp_path / "p.yaml")
    again = load_profile(tmp_path / "p.yaml")
    assert (again.host, again.collectives) == (base.host, base.collectives)
    assert (again.for_backend("trtllm").host.step_s, again.for_backend("trtllm").host.launch_s) == (5e-4, 4e-5)
    assert again.for_backend("sglang").host == again.for_backend("vllm").host == base.host
    before, after = base.rank(1).ops, again.rank(1).ops
    assert after["gemm_fp8"].compute_efficiency == pytest.approx(0.9 * before["gemm_fp8"].compute_efficiency, rel=1e-4)
    assert after["gemm"] == before["gemm"]


def test_a_file_of_the_old_wording_still_has_its_backends(tmp_path, caplog):
    changed = with_parameters(generic_profile(H100), {"step_s[trtllm]": 5e-4})
    save_profile(changed, tmp_path / "p.yaml")
    _, text = (tmp_path / "p.yaml").read_text().split("\n", 1)  # without its checksum
    assert "\nbackends:" in text
    (tmp_path / "p.yaml").write_text(text.replace("\nbackends:", "\nengines:"))
    assert load_profile(tmp_path / "p.yaml").for_backend("trtllm").host.step_s == 5e-4
    assert caplog.messages == [f"{tmp_path / 'p.yaml'}: 'engines' is called 'backends' now; rename it"]
