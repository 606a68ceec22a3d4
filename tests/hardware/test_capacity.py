"""KV-cache capacity: LLMServingSim's own numbers (no overhead), what vLLM recorded, and parts of the formula by hand."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.memory.capacity import RUNTIME_BYTES, MemoryLimits, activation_bytes, kv_blocks, overhead_bytes
from simjax.model import kv_bytes_per_token, load_model, quantized_as, weight_bytes
from simjax.parallel.parallelism import Parallelism
from tests.data import data_path

MIB, GIB = 2**20, 2**30
LLAMA, LLAMA2, MIXTRAL = map(load_model, ("llama-3.1-8b", "llama-2-7b", "mixtral-8x7b"))
H100 = load_device("h100")
COLUMNS = ("device", "tensor_parallel_size", "max_num_batched_tokens", "max_num_seqs", "gpu_memory_utilization", "num_gpu_blocks")
# vLLM's own counts and the error of the prediction. Nothing is fitted to these runs.
RECORDED = list(csv.DictReader(Path(__file__).with_name("recorded_blocks.csv").read_text().splitlines()))


def deployed(model, device=H100, tensor=1, expert=1, kv_cache_dtype="auto"):
    return Deployment(model, device, Parallelism(tensor=tensor, expert=expert), kv_cache_dtype=kv_cache_dtype)


def limits_of_row(row, *names):
    return {name: int(row[name]) for name in names}


def limits_of(tokens, sequences):
    return MemoryLimits(max_num_batched_tokens=tokens, max_num_seqs=sequences)


def logged(pattern: str, log: str) -> str:
    """The first group of the first line that matches."""
    found = re.search(pattern, log)
    assert found, pattern
    return found[1]


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
    device = replace(load_device("rtx_pro_6000"), memory_bytes=gib * GIB)
    found = kv_blocks(deployed(load_model(model), device, tp, ep), MemoryLimits(gpu_memory_utilization=utilization), overhead=0)
    assert found == blocks


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: f"{row['model']} {row['device']}")
def test_recorded_block_counts_are_predicted_within_2_percent(row):
    limits = MemoryLimits(
        gpu_memory_utilization=float(row["gpu_memory_utilization"]), **limits_of_row(row, "max_num_batched_tokens", "max_num_seqs")
    )
    found = kv_blocks(deployed(load_model(row["model"]), load_device(row["device"]), int(row["tensor_parallel_size"])), limits)
    error_percent = 100 * (found / int(row["num_gpu_blocks"]) - 1)
    assert abs(error_percent) < 2
    assert error_percent == pytest.approx(float(row["error_percent"]), abs=0.01)


def test_the_settings_above_are_the_recorded_ones():
    rows = {(load_model(row["model"]).name.split("/")[-1], row["device"]): [float(row[name]) for name in COLUMNS[1:]] for row in RECORDED}
    meta = json.loads(data_path("llmservingsim/bench/RTX4090/Llama-3.1-8B/vllm/meta.json").read_text())
    limits, cache = meta["resolved_config"]["scheduler_config"], meta["resolved_config"]["cache_config"]
    flags = (limits["max_num_batched_tokens"], limits["max_num_seqs"], cache["gpu_memory_utilization"], cache["num_gpu_blocks"])
    assert [1, *flags] == rows["Llama-3.1-8B", "rtx_4090"][:5]
    assert meta["hardware"]["device_total_memory_bytes"] == load_device("rtx_4090").memory_bytes

    log = data_path("ispass26/figure_7/raw_SD+PC/SD_pulse_vllm.txt").read_text()
    tokens, sequences = (int(logged(rf"'{name}': (\d+)", log)) for name in ("max_num_batched_tokens", "max_num_seqs"))
    stored = int(logged(r"GPU KV cache size: ([\d,]+) tokens", log).replace(",", ""))
    assert "'enforce_eager': True" in log and "gpu_memory_utilization" not in log
    assert [1, tokens, sequences, 0.9, stored // 16] == rows["Llama-3.1-8B", "rtx_a6000"][:5]

    server = json.loads(data_path("vllm_qwen3_14b_h100/server_config.json").read_text())
    assert server["kv_cache_tokens"] == 16 * server["num_gpu_blocks"]  # the null block is among both
    assert [server["max_num_batched_tokens"], server["num_gpu_blocks"]] == rows["Qwen3-14B", "h100"][1:5:3]

    with data_path("vllm_h100_0.15/index.csv").open() as file:
        index = list(csv.DictReader(file))
    assert len(index) == 2
    for row in index:
        recorded = [*(int(row[name]) for name in ("tp", "max_num_batched_tokens", "max_num_seqs")), 0.9, int(row["kv_blocks"])]
        assert recorded == rows[row["model"].split("/")[-1], "h100"][:5]

    with data_path("power/kv_tiers/offload_cases.csv").open() as file:
        stated = {(row["engine"], row["gpu_blocks_per_engine"]) for row in csv.DictReader(file) if "Qwen3-32B TP2" in row["engine"]}
    assert stated == {("vLLM, Qwen3-32B TP2, gpu_memory_utilization 0.65", "9271")}
    assert rows["Qwen3-32B", "h100"] == [2, 8192, 1024, 0.65, 9271]  # the limits are defaults of vLLM's server, which states no others


def test_weights_and_rotary_table_are_what_vllm_loads():
    rotary = 131_072 * 128 * 2  # positions, sines and cosines of a head of 128, bfloat16
    log = data_path("ispass26/figure_7/raw_SD+PC/SD_pulse_vllm.txt").read_text()
    loaded = float(logged(r"Model loading took ([\d.]+) GiB", log))
    assert (weight_bytes(LLAMA) + rotary) / GIB == pytest.approx(loaded, abs=2e-4)
    parts = activation_bytes(deployed(LLAMA), MemoryLimits()) + RUNTIME_BYTES
    assert overhead_bytes(deployed(LLAMA), MemoryLimits()) == rotary + parts


def test_activations_by_hand():
    # 2048 tokens in a layer: residual and input of 4096, the halves of the gate and what it leaves, of 11008 each
    assert activation_bytes(deployed(LLAMA2), limits_of(2048, 128)) == 2048 * (2 * 4096 + 3 * 11_008) * 2
    assert activation_bytes(deployed(LLAMA2, tensor=2), limits_of(2048, 128)) == 2048 * (2 * 4096 + 3 * 5_504) * 2
    # 256 sequences of 128256 logits: bfloat16, three times float32; 132 rows of the filter; hidden states of the step
    assert activation_bytes(deployed(LLAMA), limits_of(2048, 256)) == 256 * 128_256 * 14 + 132 * 128_256 * 4 + 2048 * 4096 * 2
    # two experts of 7168 on a rank
    assert activation_bytes(deployed(MIXTRAL, tensor=2), limits_of(2048, 128)) == 2048 * (2 * 4096 + 2 * (7168 + 14_336) + 4096) * 2
    # eight of 768, whose output of 2048 is wider; whole on a rank, or halved where they stay below that
    wide = load_model("qwen3-30b-a3b")
    expected = 8192 * (2 * 2048 + 8 * (2048 + 2048) + 2048) * 2
    assert {activation_bytes(deployed(wide, tensor=ranks), limits_of(8192, 64)) for ranks in (1, 2)} == {expected}
    assert activation_bytes(deployed(wide, expert=2), limits_of(8192, 64)) == expected


def test_the_sampler_runs_on_no_more_sequences_than_a_step_has_tokens():
    assert overhead_bytes(deployed(LLAMA), limits_of(512, 65536)) == overhead_bytes(deployed(LLAMA), limits_of(512, 512))
    assert overhead_bytes(deployed(LLAMA), limits_of(512, 512)) > overhead_bytes(deployed(LLAMA), limits_of(512, 256))


@pytest.mark.parametrize(("tp", "mib"), [(1, 0), (2, 342), (4, 392), (8, 392), (16, 392)])
def test_buffers_of_nccl(tp, mib):
    model = load_model("llama-3.1-405b")
    rotary = model.max_position_embeddings * 128 * 2
    one, limits = deployed(model, tensor=tp), MemoryLimits()
    found = overhead_bytes(one, limits) - activation_bytes(one, limits) - RUNTIME_BYTES - rotary
    assert found == mib * MIB


def test_a_cache_of_one_byte_elements_has_twice_the_blocks():
    found = kv_blocks(deployed(LLAMA))
    for name in ("fp8", "fp8_e4m3", "fp8_e5m2"):
        assert kv_bytes_per_token(LLAMA, kv_cache_dtype=name) == 2 * 8 * 128 * 32  # keys and values, heads, their width, layers
        assert kv_blocks(deployed(LLAMA, kv_cache_dtype=name)) in (2 * found, 2 * found + 1)
    with pytest.raises(SimjaxError, match="unknown dtype 'fp9'; did you mean fp8"):
        kv_blocks(deployed(LLAMA, kv_cache_dtype="fp9"))


def test_stated_bytes_of_the_cache():
    # a block of Llama-3.1-8B: 16 tokens, keys and values, 8 heads of 128, 32 layers, 2 bytes: 2 MiB
    def blocks(stated, one=deployed(LLAMA), **flags):  # noqa: B008
        return kv_blocks(one, MemoryLimits(kv_cache_memory_bytes=stated, **flags))

    for utilization in (0.5, 0.9):
        assert blocks(10 * GIB, gpu_memory_utilization=utilization) == 5_120
    assert blocks(10 * GIB + 2 * MIB - 1) == 5_120
    assert blocks(10 * GIB, deployed(LLAMA, tensor=2, kv_cache_dtype="fp8"), block_size=32) == 10_240  # a block is 1 MiB
    left = H100.memory_bytes - weight_bytes(LLAMA) - overhead_bytes(deployed(LLAMA), MemoryLimits())
    assert blocks(left) == left // (2 * MIB)
    with pytest.raises(SimjaxError, match=rf"kv_cache_memory_bytes={left + 1} is .* GiB of h100; it can be at most {left}$"):
        blocks(left + 1)
    with pytest.raises(SimjaxError, match=rf"leaves no KV block to requests; it must be at least {4 * MIB}"):
        blocks(4 * MIB - 1)


def test_a_model_that_does_not_fit_is_refused():
    with pytest.raises(SimjaxError, match=r"Llama-3\.1-70B does not fit h100 with tensor_parallel_size=1: weights 131\.4 GiB") as error:
        kv_blocks(deployed(load_model("llama-3.1-70b")))
    assert "\n" not in str(error.value)
    with pytest.raises(SimjaxError, match=r"gpu_memory_utilization must lie in \(0, 1\], got 90"):
        kv_blocks(deployed(LLAMA), MemoryLimits(gpu_memory_utilization=90))


def test_one_block_is_vllms_own():
    one_block = weight_bytes(LLAMA) + 2 * MIB
    with pytest.raises(SimjaxError, match="leave no KV block"):
        kv_blocks(deployed(LLAMA, replace(H100, memory_bytes=one_block)), MemoryLimits(gpu_memory_utilization=1.0), overhead=0)
    assert (
        kv_blocks(deployed(LLAMA, replace(H100, memory_bytes=one_block + 2 * MIB)), MemoryLimits(gpu_memory_utilization=1.0), overhead=0)
        == 2
    )


@pytest.mark.parametrize(
    ("model", "device", "tensor", "size", "quantization"),
    [
        ("llama-3.1-405b", "h200", 2, 8, "nvfp4_wo"),  # Hopper has no fp4 products, and two devices do not hold a byte a weight
        ("llama-3.1-70b", "h200", 1, 2, "fp8"),
        ("llama-3.1-70b", "a100", 1, 2, "int8"),  # which multiplies in int8, not in fp8
        ("deepseek-v3", "h100", 8, 16, None),  # it is quantised already
        ("deepseek-v3", "l40s", 8, None, None),
    ],
)
def test_a_model_that_does_not_fit_says_what_would(model, device, tensor, size, quantization):
    def of(size: int, quantization: str | None = None) -> Deployment:
        spec = load_model(model) if quantization is None else quantized_as(load_model(model), quantization)
        return Deployment(spec, load_device(device), Parallelism(tensor=size))

    ways = [f"{name}={value}" for name, value in (("tensor_parallel_size", size), ("scheduler.quantization", quantization)) if value]
    with pytest.raises(SimjaxError, match=f"; {' or '.join(ways)} would fit$" if ways else "; use pp stages, a larger device"):
        kv_blocks(of(tensor))
    if size:
        assert kv_blocks(of(size)) >= 2
        if size > 2 * tensor:
            with pytest.raises(SimjaxError):
                kv_blocks(of(size // 2))
    if quantization:
        assert kv_blocks(of(tensor, quantization)) >= 2
