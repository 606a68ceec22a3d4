"""Compiled bundles: LLMServingSim's golden step times, interpolation, and the attention grid."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import LinkSpec, load_device
from simjax.latency.attention.coefficients import DecodeBatch, equal_contexts, step_batch
from simjax.latency.attention.grid import padded
from simjax.latency.attention.table import table_decode_s, table_mixed_s
from simjax.latency.join import join_step_times
from simjax.latency.profiles.profile import ValidRange
from simjax.latency.step_time import decode_steps, mixed_step_s, row
from simjax.latency.tables.bundle import Curve, MoePoints, find_bundle, read_bundle
from simjax.latency.tables.compile_tables import compile_tables
from simjax.latency.tables.curves import at_sizes, distinct_experts, moe_s, valid_range
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from tests.data import data_path
from tests.latency.step_times import example_step_time

RTX = load_device("rtx_pro_6000")
LLAMA, QWEN, EXPERTS = (Deployment(load_model(name), RTX) for name in ("llama-3.1-8b", "qwen3-32b", "qwen3-30b-a3b"))
TWO = Parallelism(tensor=2)
SLOTS = 8
MIXED = jax.jit(mixed_step_s)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def bundle(model, tensor_parallel_size=1, device="RTXPRO6000"):
    return read_bundle(find_bundle(data_path("llmservingsim/profiles"), device, model, "bf16", tensor_parallel_size))


def seconds_of(step_time, new, computed):
    slots = np.zeros((2, SLOTS), np.int32)
    slots[0, : len(new)], slots[1, : len(computed)] = new, computed
    return float(MIXED(row(step_time, 0), *slots))


# LLMServingSim truncates every kernel's time to whole nanoseconds, hence "to the microsecond"


def test_golden_llama_steps():
    step_time = compile_tables(bundle("Llama-3.1-8B"), LLAMA, 2048, 256)
    for new, computed, golden_ns in ((2048, 0, 82_945_344), (310, 2048, 19_496_205), (1, 2358, 11_506_465), (1, 2359, 11_506_529)):
        assert seconds_of(step_time, [new], [computed]) == pytest.approx(golden_ns * 1e-9, abs=1e-6)
    first_s, slope_s, _ = decode_steps(row(step_time, 0), 1, 2358, 2358)
    assert [first_s.item(), slope_s.item()] == pytest.approx([11_506_465e-9, 64e-9], abs=1e-6)


def test_golden_qwen_on_two_ranks():
    device = replace(RTX, memory_bandwidth_bytes_per_s=1597e9)
    two = Deployment(QWEN.model, device, TWO, LinkSpec(16 * 2**30, 20e-6, 10e-9))
    step_time = compile_tables(bundle("Qwen3-32B", 2), two, 2048, 256)
    assert seconds_of(step_time, [2048], [0]) == pytest.approx((184_646_666 + 128 * (1_260_702 + 19_695 + 30)) * 1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("new", "computed", "tokens", "activated", "golden_ns"), [(2048, 0, 2040, 64, 55_713_873), (1, 2362, 1, 4, 4_798_246)]
)
def test_golden_experts(new, computed, tokens, activated, golden_ns):
    """On two expert-parallel ranks LLMServingSim counts other tokens and activated experts than a single rank has; the rest is the same."""
    profile = bundle("Qwen3-30B-A3B-Instruct-2507")
    theirs_s = moe_s(profile.moe, np.array([float(tokens)]), np.array([float(activated)]))
    ours_s = moe_s(profile.moe, np.array([float(new)]), distinct_experts(np.array([new]), 128, 8))
    step_s = seconds_of(compile_tables(profile, EXPERTS, 2048, 256), [new], [computed])
    assert step_s + 48 * (theirs_s - ours_s).item() == pytest.approx(golden_ns * 1e-9, abs=1e-6)


def test_unequal_decodes_beside_a_chunk_as_measured():
    """Nothing was fitted to these batches but one number for those without a chunk: coefficients know how long the longest decode takes."""
    profile = bundle("Llama-3.1-8B")
    step_time = compile_tables(profile, Deployment(replace(LLAMA.model, num_hidden_layers=1), RTX), 16, 16)
    skew, fits = profile.skew, profile.skew.many * profile.skew.longest < 300e3
    some = np.flatnonzero(fits)[::5]
    sums = skew.many * skew.longest + (skew.decodes - skew.many) * skew.shortest
    decodes = DecodeBatch(skew.decodes[some], sums[some], skew.longest[some])
    chunk = step_batch(skew.chunk[some, None].astype(np.int64), skew.chunk_kv[some, None].astype(np.int64), np)[0]
    coefficients = jax.tree.map(lambda leaf: leaf[0], step_time.attention)

    def one(chunks, batch):
        mixed_s = table_mixed_s(step_time.table, 0, coefficients, chunks, batch)
        return jnp.where(chunks.count > 0, mixed_s, table_decode_s(step_time.table, 0, coefficients.decode_skew, batch)[0])

    timing = jax.jit(jax.vmap(one))
    error = np.abs(timing(chunk, decodes) / skew.skewed_s[some] - 1)
    equal = np.abs(timing(chunk, equal_contexts(decodes, np)) / skew.skewed_s[some] - 1)
    # LLMServingSim's correction: some 4,000 buckets, 2.7 % and 14.8 % in cross-validation
    assert np.quantile(error, 0.5) < 0.025 and np.quantile(error, 0.9) < 0.12
    assert np.quantile(equal, 0.9) > 0.2


def test_every_size_of_a_kernel():
    curve = Curve(np.array([2.0, 4.0, 8.0]), np.array([3.0, 4.0, 8.0]))
    np.testing.assert_allclose(at_sizes(curve, np.array([0, 2, 3, 6, 8, 10, 16])), [3, 3, 3.5, 6, 8, 10, 16])
    falling = Curve(np.array([1.0, 2.0]), np.array([5.0, 4.0]))
    np.testing.assert_allclose(at_sizes(falling, np.array([1, 100])), [5, 4])  # noise never makes more work faster


def test_experts_between_measurements():
    points = MoePoints(*(np.array(x, dtype=float) for x in ([1, 9, 9, 1], [2, 2, 6, 6], [10, 18, 40, 30])))
    tokens, activated = np.array([1, 5, 5, 1, 5]), np.array([2, 2, 4, 1, 100])
    np.testing.assert_allclose(moe_s(points, tokens, activated), [10, 14, 24.5, 10, 35])
    np.testing.assert_allclose(distinct_experts(np.array([0, 1, 2, 10**6]), 8, 2), [0, 2, 3.5, 8])


def test_experts_are_shared_among_tensor_parallel_ranks():
    device = replace(RTX, memory_bandwidth_bytes_per_s=np.inf)
    name, no_network = "Qwen3-30B-A3B-Instruct-2507", LinkSpec(np.inf, 0.0)
    deployments = (Deployment(EXPERTS.model, device, Parallelism(n), no_network) for n in (1, 2))
    one, two = (compile_tables(bundle(name, x.parallelism.tensor), x, 512, 8) for x in deployments)
    assert 0.5 < (two.tokens_s[0, 512] / one.tokens_s[0, 512]).item() < 0.6


def test_what_a_compilation_needs():
    with pytest.raises(SimjaxError, match="measured at tensor_parallel_size=2, asked for tensor_parallel_size=1"):
        compile_tables(bundle("Qwen3-32B", 2), QWEN, 64, 8)
    with pytest.raises(SimjaxError, match="number of experts"):
        compile_tables(bundle("Qwen3-30B-A3B-Instruct-2507"), LLAMA, 64, 8)
    with pytest.raises(SimjaxError, match="expert_parallel_size=2: vLLM's is that of all ranks, 4"):
        compile_tables(bundle("Qwen3-32B"), replace(QWEN, parallelism=Parallelism(data=4, expert=2)), 64, 8)


def test_beyond_the_profile_time_still_grows():
    step_time = compile_tables(bundle("Qwen3-32B"), QWEN, 8192, 512)
    tokens_s, sequences_s = np.asarray(step_time.tokens_s[0]), np.asarray(step_time.sequences_s[0])
    assert len(tokens_s) == 8193 and len(sequences_s) == 513
    # matrix multiplications of thousands of tokens: the time per token has settled
    assert tokens_s[8192] / 8192 == pytest.approx(tokens_s[2048] / 2048, rel=0.1)
    assert sequences_s[512] > sequences_s[256] > sequences_s[1] > sequences_s[0] == 0.0
    # attention is quadratic in the chunk: twice the tokens, four times the pairs
    attention_s = [seconds_of(step_time, [n], [0]) - tokens_s[n] - sequences_s[1] for n in (2048, 4096, 8192)]
    assert 3.4 < attention_s[1] / attention_s[0] < 4.2 and 3.4 < attention_s[2] / attention_s[1] < 4.2


def test_coefficients_alone_are_near_the_table():
    profile = bundle("Llama-3.1-8B", device="RTX 4090")
    with_table, without = (compile_tables(profile, LLAMA, 2048, 64, measured_attention=m) for m in (True, False))
    assert without.table is None
    for new, computed in (([1] * 8, [1500] * 8), ([512, 1, 1, 1], [0, 1000, 2000, 700]), ([2048], [0])):
        assert seconds_of(without, new, computed) == pytest.approx(seconds_of(with_table, new, computed), rel=0.03)


def test_tables_of_other_sizes_in_one_cluster():
    small, large = example_step_time(measured=True), example_step_time(2.0, measured=True)
    longer = padded(jax.tree.map(np.asarray, large.table), (6, 7, 8, 9))
    both = join_step_times([small, replace(large, table=longer)])
    assert both.table is not None and both.table.mixed_s.shape == (2, 6, 7, 8, 9)
    timing = jax.jit(lambda c, i, n, k: mixed_step_s(row(c, i), n, k))
    for new, computed in (([1, 1, 0, 0], [100, 50000, 0, 0]), ([300, 1, 1, 0], [1024, 1000, 40000, 0])):
        new, computed = jnp.array(new, jnp.int32), jnp.array(computed, jnp.int32)
        for i, alone in enumerate((small, large)):
            assert float(timing(both, i, new, computed)) == pytest.approx(float(MIXED(row(alone, 0), new, computed)), rel=1e-12)


def test_step_times_from_tables_and_from_coefficients_are_not_joined():
    with pytest.raises(ValueError, match="with and without measured attention"):
        join_step_times([example_step_time(), example_step_time(measured=True)])


def test_the_measured_range_is_where_every_operator_was_measured():
    profile = bundle("Llama-3.1-8B")
    assert valid_range(profile) == ValidRange((1, 2048), (1, 256), (16, 16384))
    short = {**profile.dense, "o_proj": Curve(np.array([8.0, 512.0]), np.array([1.0, 2.0]))}
    assert valid_range(replace(profile, dense=short)).tokens == (8, 512)
