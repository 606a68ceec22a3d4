"""Models whose matrix products are quantised: bytes, FLOP/s and capacity."""

from dataclasses import replace

import numpy as np
import pytest

from simjax.deployment import Deployment
from simjax.disk.paths import PROFILES
from simjax.hardware import load_device
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.file import load_profile
from simjax.latency.warnings import profile_warnings
from simjax.memory.capacity import kv_blocks
from simjax.model import kv_bytes_per_token, load_model, same_architecture, weight_bytes
from simjax.model.ops import step_ops

QWEN = load_model("qwen3-32b")
FP8 = replace(QWEN, quantization="fp8")
H100 = load_device("h100")
GENERIC = load_profile(PROFILES / "latency" / "h100" / "generic.yaml")


@pytest.mark.parametrize("name", ["qwen3-32b", "qwen3-30b-a3b", "qwen3-235b-a22b"])
@pytest.mark.parametrize("tp", [1, 2])
def test_only_the_matrix_products_of_the_layers_shrink(name, tp):
    model = load_model(name)
    plain, small = (step_ops(m, tp) for m in (model, replace(model, quantization="fp8")))
    assert [op.name for op in plain] == [op.name for op in small]
    saved = 0
    for before, after in zip(plain, small, strict=True):
        if after.dtype is None:
            assert after == before
            continue
        assert after.dtype == "fp8" and (after.k, after.n, after.row_flops) == (before.k, before.n, before.row_flops)
        assert after.expert_bytes == before.expert_bytes / 2
        saved += before.count * (before.weight_bytes - after.weight_bytes + before.experts * (before.expert_bytes - after.expert_bytes))
    assert {op.name for op in small if op.dtype} >= {"qkv_proj", "o_proj"} and all(op.dtype is None for op in small if op.per_sequence)
    assert saved == weight_bytes(model, tp) - weight_bytes(replace(model, quantization="fp8"), tp)


def test_what_fits_beside_qwen3_32b():
    # its model card: 31.2 billion parameters that are not embedding; those of embedding and head stay in bfloat16
    assert weight_bytes(FP8) == pytest.approx(31.2e9 + 2 * 2 * QWEN.vocab_size * QWEN.hidden_size, rel=0.005)
    assert kv_bytes_per_token(FP8) == kv_bytes_per_token(QWEN) == 2 * kv_bytes_per_token(FP8, kv_cache_dtype="fp8")
    # TensorRT-LLM on an H100 held 64 requests of 4,352 tokens without a queue, and 128 of 2,560 with one
    assert 64 * 4352 < 16 * kv_blocks(Deployment(FP8, H100, kv_cache_dtype="fp8")) < 128 * 2560


def test_decodes_are_faster_by_the_bytes_and_prompts_by_the_flops():
    plain, small = (
        np.asarray(compile_profile(GENERIC, Deployment(m, H100), max_tokens=4096, max_sequences=2).tokens_s[0]) for m in (QWEN, FP8)
    )
    assert 0.5 < small[1] / plain[1] < 0.6
    assert 0.5 < small[4096] / plain[4096] < 0.8
    alike = replace(
        GENERIC, ranks={d: replace(r, ops={k: v for k, v in r.ops.items() if k != "gemm_fp8"}) for d, r in GENERIC.ranks.items()}
    )
    other = np.asarray(compile_profile(alike, Deployment(FP8, H100), max_tokens=4096, max_sequences=2).tokens_s[0])
    assert other[4096] != pytest.approx(small[4096], rel=0.01)  # fp8 products have efficiencies of their own
    taken = "fp8 matrix products are taken to be as efficient as bfloat16 ones"
    assert not any(taken in line for line in profile_warnings(GENERIC, Deployment(FP8, H100), 4096, 2))
    assert any(taken in line for line in profile_warnings(alike, Deployment(FP8, H100), 4096, 2))


def test_quantization_makes_no_other_architecture():
    assert same_architecture("Qwen/Qwen3-32B", FP8) and not same_architecture("Qwen/Qwen3-14B", FP8)
