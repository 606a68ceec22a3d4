"""How many KV-cache blocks fit beside the weights on one device."""

from __future__ import annotations

from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec
from simjax.model import ModelSpec, kv_bytes_per_token, shard, weight_bytes

# What vLLM finds in use after its profiling run besides weights and activations. Fitted, with the bytes per logit below, to the block
# counts of vLLM 0.13 to 0.23 on RTX 4090, RTX A6000 and H100: see tests/hardware/test_capacity.py for the errors.
RUNTIME_BYTES = 360_000_000  # CUDA context and libraries, rotary tables, CUDA graphs
COMMUNICATION_BYTES = 400_000_000  # NCCL and custom all-reduce buffers of a tensor-parallel rank
# Live at once in vLLM's profiling run of the sampler with top-k and top-p: bfloat16 and float32 logits (6), sorted logits (4) and their
# int64 indices (8), probabilities and their cumulative sum (8).
SAMPLER_BYTES_PER_LOGIT = 26


def overhead_bytes(model: ModelSpec, tensor_parallel_size: int = 1, max_num_batched_tokens: int = 2048, max_num_seqs: int = 256) -> int:
    """Bytes of one rank that are neither weights nor KV cache: runtime, communication buffers and the peak of the activations.

    The activation peak is the larger of the widest layer on `max_num_batched_tokens` tokens and the sampler on `max_num_seqs` sequences
    (at least one token each), the two dummy runs with which vLLM measures it.
    """
    part = shard(model, tensor_parallel_size)
    width = 3 * part.intermediate if model.num_dense_layers else 0
    if model.is_moe:
        width = max(width, model.num_experts_per_tok * (3 * part.moe_intermediate + model.hidden_size))
    layer = max_num_batched_tokens * (2 * model.hidden_size + width) * model.dtype_bytes
    sampler = min(max_num_seqs, max_num_batched_tokens) * model.vocab_size * SAMPLER_BYTES_PER_LOGIT
    communication = COMMUNICATION_BYTES if tensor_parallel_size > 1 else 0
    return RUNTIME_BYTES + communication + max(layer, sampler)


def kv_blocks(
    model: ModelSpec,
    device: DeviceSpec,
    tensor_parallel_size: int = 1,
    block_size: int = 16,
    gpu_memory_utilization: float = 0.9,
    kv_cache_dtype: str = "auto",
    max_num_batched_tokens: int = 2048,
    max_num_seqs: int = 256,
    expert_parallel_size: int = 1,
    overhead: int | None = None,
) -> int:
    """Number of KV-cache blocks of one instance: (memory · utilization - weights - overhead) // bytes per block, all per rank.

    Args:
        model: the architecture.
        device: its memory is what `gpu_memory_utilization` is a fraction of.
        tensor_parallel_size: ranks that share each matrix and the KV heads.
        block_size: tokens of one block.
        gpu_memory_utilization: fraction of the device memory that the engine may use, in (0, 1].
        kv_cache_dtype: data type of keys and values, `auto` for the model's own.
        max_num_batched_tokens: token budget of a step, for the activation peak.
        max_num_seqs: most sequences in a step, for the activation peak.
        expert_parallel_size: ranks that share the experts.
        overhead: bytes that are neither weights nor KV cache; `overhead_bytes` when None, 0 reproduces LLMServingSim.

    Raises:
        SimjaxError: a value is out of range, or not even one block fits.
    """
    if not 0.0 < gpu_memory_utilization <= 1.0:
        raise SimjaxError(f"gpu_memory_utilization must lie in (0, 1], got {gpu_memory_utilization}")
    if block_size < 1:
        raise SimjaxError(f"block_size must be at least 1, got {block_size}")
    if overhead is None:
        overhead = overhead_bytes(model, tensor_parallel_size, max_num_batched_tokens, max_num_seqs)
    usable = int(device.memory_bytes * gpu_memory_utilization)
    weights = weight_bytes(model, tensor_parallel_size, expert_parallel_size)
    blocks = (usable - weights - overhead) // (block_size * kv_bytes_per_token(model, tensor_parallel_size, kv_cache_dtype))
    if blocks < 1:
        gib = 2**30
        raise SimjaxError(
            f"{model.name} does not fit {device.name} with tensor_parallel_size={tensor_parallel_size}: weights {weights / gib:.1f} GiB "
            f"and overhead {overhead / gib:.1f} GiB leave no KV block of {gpu_memory_utilization:g} x {device.memory_bytes / gib:.1f} GiB; "
            "use more ranks, a larger device or a higher gpu_memory_utilization"
        )
    return blocks
