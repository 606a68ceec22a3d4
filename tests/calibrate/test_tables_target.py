"""Kernel tables as a target: a bundle written from known coefficients, and measured ones."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.calibrate.targets.tables_target import TablesTarget, TableWeights
from simjax.deployment import Deployment
from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.attention.coefficients import decode_attention_s, mixed_attention_s
from simjax.latency.attention.fit import AttentionPoints, chunks_of, decodes_of
from simjax.latency.attention.roofline import attention_coefficients
from simjax.latency.fitting.efficiency import op_seconds
from simjax.latency.parameters import with_parameters
from simjax.latency.profiles.compile import op_efficiency
from simjax.latency.profiles.file import find_profile, load_profile
from simjax.model import load_model
from simjax.model.ops import step_ops
from simjax.parallel.parallelism import Parallelism
from tests.data import data_path

LLAMA, H100 = load_model("llama-3.1-8b"), load_device("h100")
PROFILE = load_profile(PROFILES / "latency" / "h100" / "generic.yaml")
TOKENS = [1, 2, 4, 7, 8, 16, 64, 256, 300, 1024, 2048]
SEQUENCES = [1, 2, 8, 32, 128]
BLOCKS = ("work by tokens", "head and sampler", "decode attention", "mixed attention")


def write(folder, degree):
    """The kernel times that `PROFILE` gives, as a bundle's tpN folder."""
    rank = PROFILE.rank(degree)
    folder.mkdir(parents=True)
    lines = {False: ["layer,tokens,time_us"], True: ["layer,sequences,time_us"]}
    for op in step_ops(LLAMA, degree):
        sizes = SEQUENCES if op.per_sequence else TOKENS
        seconds = op_seconds(op, op_efficiency(rank, op, "test"), H100, LLAMA.dtype, np.array(sizes), np)
        lines[op.per_sequence] += [f"{op.name},{n},{1e6 * s}" for n, s in zip(sizes, seconds, strict=True)]
    (folder / "dense.csv").write_text("\n".join(lines[False]) + "\n")
    (folder / "per_sequence.csv").write_text("\n".join(lines[True]) + "\n")
    # the last two: few decodes, and more context than the device holds
    grid = [(0, 0, n, kv) for n in (4, 16, 64) for kv in (128, 1024, 4096)]
    grid += [(q, k, n, 1024) for q in (64, 512, 2048) for k in (0, 2048) for n in (0, 16)] + [(0, 0, 1, 64), (0, 0, 256, 32768)]
    points = AttentionPoints(*np.array(grid).T, seconds=np.zeros(len(grid)))
    a = attention_coefficients(rank.attention, Deployment(LLAMA, H100, Parallelism(degree)))
    decode_s = decode_attention_s(a, decodes_of(points), np)
    seconds = np.where(points.chunk > 0, mixed_attention_s(a, chunks_of(points), decodes_of(points), np), decode_s) / 32
    seconds[-2:] *= 7.0
    rows = [",".join(map(str, row)) + f",{1e6 * s}" for row, s in zip(grid, seconds, strict=True)]
    (folder / "attention.csv").write_text("\n".join(["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", *rows]) + "\n")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "bf16"
    for degree in (1, 2):
        write(folder / f"tp{degree}", degree)
    (folder / "meta.yaml").write_text("model: meta-llama/Llama-3.1-8B\nhardware: h100\n")
    return folder


def test_the_profile_that_made_the_tables_leaves_nothing(bundle):
    target = TablesTarget.of(bundle)
    assert target.name == "kernels of meta-llama/Llama-3.1-8B on h100 (tp1, tp2)"
    residuals = np.asarray(target.residuals(PROFILE))
    assert len(residuals) == 2 * (len(TOKENS) + len(SEQUENCES) + 9 + 12) and residuals.dtype == np.float64
    np.testing.assert_allclose(residuals, 0.0, atol=1e-9)
    assert set(target.errors(PROFILE)) == {f"tp{degree} {block}" for degree in (1, 2) for block in BLOCKS}


def test_one_degree_alone(bundle):
    one = TablesTarget.of(bundle / "tp2", LLAMA, H100)
    assert one.name.endswith("(tp2)") and [rank.degree for rank in one.ranks] == [2]
    with pytest.raises(SimjaxError, match="tp4: no such folder"):
        TablesTarget.of(bundle / "tp4")
    with pytest.raises(SimjaxError, match="no tpN folder"):
        TablesTarget.of(bundle.parent)


def test_a_block_counts_as_its_weight_however_densely_it_was_measured(bundle):
    """All kernels 2 % slower in the profile: the sum of squares of each block is its weight times (2 % / sd)²."""
    weights = TableWeights(block_weight=5.0, outlier=1e3)
    target = TablesTarget.of(bundle / "tp1", weights=weights)
    assert target.observations == pytest.approx(4 * 5.0)
    assert TablesTarget.of(bundle / "tp1").observations == pytest.approx(len(TOKENS) + len(SEQUENCES) + 9 + 12)  # 20 at most
    slow = replace(target, ranks=tuple(_slower(rank, 0.02) for rank in target.ranks))
    residuals = np.asarray(slow.residuals(PROFILE))
    ends = np.cumsum([len(block.log_s) for block in slow.ranks[0].blocks])[:-1]
    for part, sd in zip(np.split(residuals, ends), (0.04, 0.04, 0.10, 0.10), strict=True):
        assert np.sum(part**2) == pytest.approx(5.0 * (0.02 / sd) ** 2, rel=1e-4)
    assert slow.errors(PROFILE)["tp1 work by tokens"] == pytest.approx((0.02, 0.02), rel=1e-6)


def _slower(rank, by):
    return replace(rank, blocks=tuple(replace(block, log_s=block.log_s - by) for block in rank.blocks))


def test_every_octave_counts_the_same(bundle):
    weight = TablesTarget.of(bundle / "tp1").ranks[0].blocks[0].weight
    by_tokens = dict(zip(TOKENS, weight, strict=True))
    assert by_tokens[7] + by_tokens[8] == pytest.approx(by_tokens[2] * (np.log(16 / 4) / np.log(4)), rel=0.2)
    assert weight.sum() == pytest.approx(len(TOKENS))


def test_derivatives_and_what_they_belong_to(bundle):
    target = TablesTarget.of(bundle / "tp1")
    names = ("gemm_bandwidth", "elementwise_bandwidth", "decode_attention", "prefill_attention", "kernel_floor")
    with jax.enable_x64(True):
        of = jax.jit(lambda u: target.residuals(with_parameters(PROFILE, {n: jnp.exp(u[i]) for i, n in enumerate(names)})))
        u, h = jnp.zeros(len(names)), 1e-6
        exact = np.asarray(jax.jacfwd(of)(u))
        steps = [(np.asarray(of(u.at[i].set(h))) - np.asarray(of(u.at[i].set(-h)))) / (2 * h) for i in range(len(names))]
        reverse = np.asarray(jax.grad(lambda u: jnp.sum(of(u)))(u))
    np.testing.assert_allclose(exact, np.stack(steps, axis=1), atol=1e-6)
    np.testing.assert_allclose(reverse, exact.sum(axis=0), rtol=1e-9)
    ends = np.cumsum([len(block.log_s) for block in target.ranks[0].blocks])[:-1]
    moves = np.stack([np.abs(part).max(axis=0) > 1e-3 for part in np.split(exact, ends)])
    kernels, attention = [True, True, False, False, True], [False, False, True, False, True]
    mixed = [False, False, True, True, True]  # where decodes are packed they read their keys as fast as alone
    np.testing.assert_array_equal(moves, [kernels, kernels, attention, mixed])


@pytest.mark.parametrize(
    ("folder", "most"),
    [("RTX4090/meta-llama/Llama-3.1-8B", 0.02), ("RTXPRO6000/Qwen/Qwen3-32B", 0.02), ("RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507", 0.03)],
)
def test_shipped_profiles_on_the_bundles_they_were_fitted_to(folder, most):
    """The model's own coefficients: work by tokens within `most`, attention within 11 % (rms), and about as good as the sds say."""
    target = TablesTarget.of(data_path(f"llmservingsim/profiles/{folder}/bf16"))
    first = target.ranks[0]
    own = find_profile(first.deployment.device, first.deployment.model)
    generic = load_profile(PROFILES / "latency" / first.deployment.device.name / "generic.yaml")
    errors = target.errors(own)
    assert errors["tp1 work by tokens"][1] < most
    assert max(rms for name, (_, rms) in errors.items() if "attention" in name) < 0.11
    own, generic = (float(np.sum(np.asarray(target.residuals(profile)) ** 2)) / target.observations for profile in (own, generic))
    assert own < generic < 1.0


def test_experts_are_compared_where_they_were_measured():
    """On one rank, and only for so many tokens that their weights do not stay in the profiler's cache."""
    one, two = TablesTarget.of(data_path("llmservingsim/profiles/RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16")).ranks
    assert any(op.experts for op in one.by_tokens) and one.tokens.min() > 1
    assert len(two.tokens) == 0 and len(two.blocks[0].log_s) == 0 and len(two.blocks[1].log_s) > 0
