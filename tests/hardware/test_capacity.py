"""KV-cache capacity against LLMServingSim's own numbers (no overhead) and against vLLM's measured block counts."""

from dataclasses import replace

import pytest

from simjax.cluster.capacity import kv_blocks, overhead_bytes
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.model import load_model


@pytest.mark.parametrize(
    ("model", "tp", "ep", "gib", "utilization", "blocks"),
    [
        ("llama-3.1-8b", 1, 1, 96, 0.9, 36_578),
        ("llama-3.1-8b", 1, 1, 24, 0.833919, 2_588),
        ("llama-3.1-8b", 1, 1, 24, 0.9, 3_400),
        ("qwen3-32b", 2, 1, 96, 0.9, 28_614),
        ("qwen3-30b-a3b", 1, 2, 96, 0.9, 38_590),
    ],
)
def test_golden_blocks_without_overhead(model, tp, ep, gib, utilization, blocks):
    device = replace(load_device("rtx_pro_6000"), memory_bytes=gib * 2**30)
    found = kv_blocks(load_model(model), device, tp, gpu_memory_utilization=utilization, expert_parallel_size=ep, overhead=0)
    assert found == blocks


@pytest.mark.parametrize(
    ("model", "device", "tp", "tokens", "sequences", "utilization", "blocks"),
    [
        ("llama-3.1-8b", "rtx_4090", 1, 2048, 256, 0.9, 2_588),  # vLLM 0.19
        ("llama-3.1-8b", "rtx_a6000", 1, 2048, 128, 0.9, 13_844),  # vLLM 0.13, eager
        ("llama-2-7b", "h100", 1, 2048, 128, 0.9, 7_462),  # vLLM 0.15
        ("mixtral-8x7b", "h100", 2, 2048, 128, 0.9, 27_510),  # vLLM 0.15
        # vLLM 0.23: weights and these blocks alone exceed 0.9 of the memory that an H100 reports, 0.92 fits.
        ("qwen3-14b", "h100", 1, 8192, 256, 0.92, 18_038),
    ],
)
def test_default_overhead_predicts_vllm_within_half_a_percent(model, device, tp, tokens, sequences, utilization, blocks):
    found = kv_blocks(
        load_model(model),
        load_device(device),
        tp,
        gpu_memory_utilization=utilization,
        max_num_batched_tokens=tokens,
        max_num_seqs=sequences,
    )
    assert found == pytest.approx(blocks, rel=0.005)


def test_fp8_cache_doubles_the_blocks():
    model, device = load_model("llama-3.1-8b"), load_device("h100")
    assert kv_blocks(model, device, kv_cache_dtype="fp8") in (2 * kv_blocks(model, device), 2 * kv_blocks(model, device) + 1)


def test_the_sampler_runs_on_no_more_sequences_than_a_step_has_tokens():
    model = load_model("llama-3.1-8b")
    assert overhead_bytes(model, 1, 512, 65536) == overhead_bytes(model, 1, 512, 512)
    assert overhead_bytes(model, 1, 512, 512) > overhead_bytes(model, 1, 512, 256)


def test_a_model_that_does_not_fit_is_told_so():
    with pytest.raises(SimjaxError, match=r"Llama-3\.1-70B does not fit h100 with tensor_parallel_size=1: weights 131\.4 GiB") as error:
        kv_blocks(load_model("llama-3.1-70b"), load_device("h100"))
    assert "\n" not in str(error.value)
    with pytest.raises(SimjaxError, match=r"gpu_memory_utilization must lie in \(0, 1\], got 90"):
        kv_blocks(load_model("llama-3.1-8b"), load_device("h100"), gpu_memory_utilization=90)
