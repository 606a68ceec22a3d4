"""Number of KV-cache blocks that fit in the device memory that the weights leave.

vLLM loads the weights, runs a step of `max_num_batched_tokens` tokens and the sampler on `max_num_seqs` sequences without a KV cache, and
gives the cache what is then left (`determine_available_memory` in its vllm/v1/worker/gpu_worker.py). All of one rank, in bytes:

    blocks = (memory · gpu_memory_utilization - weights - overhead) // (block_size · bytes of a token's keys and values)
    overhead = rotary table + max(a layer's activations, the sampler) + runtime + communication

Where decode attention is in memory that computes, the cache is there, and as large as it.
Weights that are elsewhere count with their buffers only (`simjax.memory.offload`).

- memory: the size that CUDA reports, which is less than the data sheet's (the device file states it and how it is known).
- rotary table: a cosine and a sine of every position of the model's context, whatever `max_model_len` is. With the weights it gives the
  14.9889 GiB that vLLM logs for Llama-3.1-8B.
- activations and sampler: the tensors that are alive at once in vLLM 0.19. Versions differ in the sampler: 14 bytes per logit in 0.19, more
  while it sorted the logits (0.16 and before), 6 where the second model runner serves the model (dense Llama and Qwen3 in 0.23).
- runtime and communication: constants with a source of their own, below. What of CUDA graphs and NCCL counts depends on the version: the
  runs whose blocks are recorded (vLLM 0.13 to 0.23) leave 250 to 630 MiB for the runtime, the most where graphs were captured on trial.

No number here is fitted to a recorded count; tests/hardware/recorded_blocks.csv has the error of each. `gpu_memory_utilization` is 0.9 by
default in vLLM up to 0.19, 0.92 from 0.20 on. The count is vLLM's `num_gpu_blocks`, of which it keeps one as the null block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec
from simjax.memory.exchange import buffer_bytes, gathered_rows, rows_at_once
from simjax.memory.groups import blocks_of_all_layers, kv_groups
from simjax.memory.offload import freed_bytes
from simjax.model import ModelSpec, Shard, dtype_bytes, kv_bytes_per_token, quantized_as, shard, state_bytes_per_sequence, weight_bytes
from simjax.model.precision import EXPERTS, WHAT_IF, format_named
from simjax.parallel.eplb import WINDOW_SIZE
from simjax.parallel.parallelism import Parallelism

_MIB, _GIB = 2**20, 2**30

# What a process has on a device that is neither a tensor nor NCCL's: `other_mem` of aiconfigurator's system files, as observed (551 MB in
# their units, MiB) before they raised it to 3.5 GB for safety.
RUNTIME_BYTES = 551 * _MIB
# Buffers of NCCL by ranks: `nccl_mem` of aiconfigurator 0.12.0's system files, the same for all NVIDIA GPUs.
NCCL_BYTES = {1: 0, 2: 342 * _MIB, 4: 392 * _MIB, 8: 392 * _MIB}
# Each logit in float32 after the one in the model's type: the logits, their probabilities, the noise that picks a token (vLLM's
# vllm/v1/sample/ops/topk_topp_sampler.py). The filter for top-k and top-p adds a row for each multiprocessor.
_FLOAT32_PER_LOGIT, _FLOAT32_BYTES = 3, 4
_LOAD_BYTES = 4  # an int32
_MOST_RANKS = 16  # tensor-parallel ranks that an error proposes
_FEWEST_BLOCKS = 2  # the null block and one for requests


@dataclass(frozen=True)
class MemoryLimits:
    """vLLM's flags of one instance that decide how much memory its KV cache has.

    Attributes:
        block_size: tokens of one KV block.
        gpu_memory_utilization: fraction of the device memory that the instance may use, in (0, 1].
        kv_cache_memory_bytes: bytes of the KV cache of one rank, whatever `gpu_memory_utilization` is; None: the bytes that that leaves.
        max_num_batched_tokens: token budget of a step, for the activation peak.
        max_num_seqs: most sequences in a step, for the activation peak.

    Raises:
        SimjaxError: a value is out of range.
    """

    block_size: int = 16
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_bytes: int | None = None
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 256

    def __post_init__(self) -> None:
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise SimjaxError(f"gpu_memory_utilization must lie in (0, 1], got {self.gpu_memory_utilization}")
        if self.block_size < 1:
            raise SimjaxError(f"block_size must be at least 1, got {self.block_size}")


def activation_bytes(deployment: Deployment, limits: MemoryLimits) -> int:
    """Peak bytes of one rank's tensors in the two dummy runs: the widest layer on all tokens, the sampler on all sequences.

    A layer holds the residual, the input of its MLP, both halves of the gated product and what the gate leaves of them; one of experts
    holds these for each of a token's experts in two workspaces, each wide enough for the experts' output as well, and the sum of them;
    data-parallel ranks hold what they gather from each other and its sums besides (`simjax.memory.exchange`). The
    sampler holds the hidden states of the step, and logits of the whole vocabulary on every rank.
    """
    model, device, parallelism = deployment.part, deployment.device, deployment.parallelism
    part = _shard(model, parallelism)
    hidden, gated, tokens = model.hidden_size, part.moe_intermediate, limits.max_num_batched_tokens
    width = 3 * part.intermediate if model.num_dense_layers else 0
    if model.is_moe:
        workspaces = max(gated, hidden) + max(2 * gated, hidden)
        at_once = rows_at_once(deployment, tokens) / tokens  # data-parallel ranks have those of each other as well
        width = max(width, at_once * model.num_experts_per_tok * workspaces + hidden + 3 * part.shared_intermediate)
    layer = int((tokens * (2 * hidden + width) + 2 * hidden * gathered_rows(deployment, tokens)) * model.dtype_bytes)
    if not deployment.has_head:
        return layer
    rows = min(limits.max_num_seqs, tokens)
    logit = model.dtype_bytes + _FLOAT32_PER_LOGIT * _FLOAT32_BYTES
    filtered = min(rows, device.multiprocessors) * _FLOAT32_BYTES
    sampler = model.vocab_size * (rows * logit + filtered) + tokens * hidden * model.dtype_bytes
    return max(layer, sampler)


def _shard(model: ModelSpec, parallelism: Parallelism) -> Shard:
    """What a device has of a model."""
    return shard(model, parallelism.tensor, parallelism.expert, parallelism.experts.redundant, parallelism.data)


def overhead_bytes(deployment: Deployment, limits: MemoryLimits) -> int:
    """Bytes of one rank that are neither weights nor KV cache; see the head of this file."""
    model, parallelism = deployment.model, deployment.parallelism
    rotary = model.max_position_embeddings * model.rotary_dim * model.dtype_bytes
    ranks = max(parallelism.tensor, parallelism.expert, parallelism.pipeline, parallelism.data if deployment.grouped else 1)
    communication = next((size for most, size in NCCL_BYTES.items() if ranks <= most), max(NCCL_BYTES.values()))
    others = communication + buffer_bytes(deployment) + load_balancer_bytes(deployment)
    return rotary + activation_bytes(deployment, limits) + RUNTIME_BYTES + others


def load_balancer_bytes(deployment: Deployment) -> int:
    """Bytes of vLLM's expert-parallel load balancer on a rank (its `EplbState`), 0 without it.

    A second set of the rank's experts of one layer, through which they move, and the loads of every slot and layer in the last
    `window_size` steps, of the whole group.
    """
    model, parallelism = deployment.part, deployment.parallelism
    if not (parallelism.experts.eplb and model.is_moe):
        return 0
    held = _shard(model, parallelism)
    buffer = held.experts * 3 * model.hidden_size * int(held.moe_intermediate * model.matrix_bytes(EXPERTS))
    slots = model.num_experts + parallelism.experts.redundant
    return buffer + WINDOW_SIZE * model.num_moe_layers * slots * _LOAD_BYTES


def kv_blocks(deployment: Deployment, limits: MemoryLimits | None = None, overhead: int | None = None) -> int:
    """Number of KV-cache blocks of one instance, as vLLM reports it (`num_gpu_blocks`): the formula at the head of this file.

    Of several pp stages the one that has room for the fewest says how many all of them have.

    Args:
        deployment: model, device, parallelism and data type of the KV cache.
        limits: the flags that size the cache; vLLM's defaults when None.
        overhead: bytes that are neither weights nor KV cache; `overhead_bytes` when None, 0 reproduces LLMServingSim.

    Raises:
        SimjaxError: no block fits besides the null block, or the device does not hold `kv_cache_memory_bytes` more.
    """
    limits = limits or MemoryLimits()
    if deployment.stage is None and deployment.parallelism.pipeline > 1:
        return min(kv_blocks(stage, limits, overhead) for stage in deployment.stages)
    model, device, parallelism = deployment.part, deployment.device, deployment.parallelism
    if overhead is None:
        overhead = overhead_bytes(deployment, limits)
    weights, token = _weights_and_token(deployment, limits)
    block = limits.block_size * token
    if deployment.pim is not None and deployment.pim.holds_kv:
        return deployment.pim.capacity_bytes // block
    named = "weights" if not state_bytes_per_sequence(model) else f"weights and states of max_num_seqs={limits.max_num_seqs} requests"
    others = f"{named} {weights / _GIB:.1f} GiB and overhead {overhead / _GIB:.1f} GiB"
    if limits.kv_cache_memory_bytes is not None:
        left = device.memory_bytes - weights - overhead
        _check_stated(limits.kv_cache_memory_bytes, block, device, left, others)
        return _blocks(deployment, limits, limits.kv_cache_memory_bytes, block)
    utilization = limits.gpu_memory_utilization
    blocks = _blocks(deployment, limits, int(device.memory_bytes * utilization) - weights - overhead, block)
    if blocks < _FEWEST_BLOCKS:
        staged = "" if parallelism.pipeline == 1 else f" and pipeline_parallel_size={parallelism.pipeline}"
        raise SimjaxError(
            f"{model.name} does not fit {device.name} with tensor_parallel_size={parallelism.tensor}{staged}: {others} "
            f"leave no KV block of {utilization:g} x {device.memory_bytes / _GIB:.1f} GiB; {_what_fits(deployment, limits)}"
        )
    return blocks


def _weights_and_token(deployment: Deployment, limits: MemoryLimits) -> tuple[int, int]:
    """Bytes of one rank's weights, with the states of all its sequences, and of a token's keys and values."""
    model, parallelism = deployment.part, deployment.parallelism
    ends = deployment.has_embedding, deployment.has_head
    weights = weight_bytes(model, parallelism.tensor, parallelism.expert, *ends, parallelism.experts.redundant, parallelism.data)
    weights += limits.max_num_seqs * state_bytes_per_sequence(model, parallelism.tensor) - freed_bytes(deployment)
    token = kv_bytes_per_token(model, parallelism.tensor, deployment.kv_cache_dtype)
    if (drafts := deployment.speculation) is not None and deployment.has_head:  # the drafter's keys and values are in the same blocks
        weights += drafts.weight_bytes(deployment.model, parallelism.tensor)
        token += drafts.kv_bytes_per_token(deployment.model, parallelism.tensor, deployment.kv_cache_dtype)
    return weights, token


def _what_fits(deployment: Deployment, limits: MemoryLimits) -> str:
    """The smallest tensor-parallel size, of those that double it, and the widest format with which the model fits, in words.

    Of a checkpoint that is not quantised, formats that the device multiplies in come before those of weights alone of as many bytes.
    """
    model, degree, found = deployment.model, deployment.parallelism, []
    size = degree.tensor
    while (size := 2 * size) <= _MOST_RANKS:
        if _fits(replace(deployment, parallelism=replace(degree, tensor=size)), limits):
            found.append(f"tensor_parallel_size={size}")
            break
    formats = {} if model.quantization else {name: format_named(name) for name in WHAT_IF}
    for name, one in sorted(formats.items(), key=lambda x: (-x[1].bytes, x[1].compute is None)):
        computes = one.compute is None or one.compute in deployment.device.peak_flops
        if computes and _fits(replace(deployment, model=quantized_as(model, name)), limits):
            found.append(f"scheduler.quantization={name}")
            break
    if found:
        return f"{' or '.join(found)} would fit"
    return "use pp stages, a larger device, quantized weights or a higher gpu_memory_utilization"


def _fits(deployment: Deployment, limits: MemoryLimits) -> bool:
    """Whether there is a block for requests; not where the model cannot be divided so."""
    try:
        weights, token = _weights_and_token(deployment, limits)
        left = int(deployment.device.memory_bytes * limits.gpu_memory_utilization) - weights - overhead_bytes(deployment, limits)
    except SimjaxError:
        return False
    return _blocks(deployment, limits, left, limits.block_size * token) >= _FEWEST_BLOCKS


def _blocks(deployment: Deployment, limits: MemoryLimits, available: int, block: int) -> int:
    """Blocks in so many bytes where a block of all layers takes `block`; with windows what `simjax.memory.groups` says."""
    if not deployment.part.shortest_window:
        return available // block
    element = dtype_bytes(deployment.kv_cache_dtype)
    groups = kv_groups(deployment.part, deployment.parallelism.tensor, element)
    assert groups is not None
    return blocks_of_all_layers(groups, available, limits.block_size, limits.max_num_seqs, limits.max_num_batched_tokens)


def _check_stated(stated: int, block: int, device: DeviceSpec, left: int, others: str) -> None:
    """Refuse a KV cache of `stated` bytes where weights and overhead (`others`, for messages) leave only `left` bytes of the device."""
    if stated > left:
        room = f"more than {others} leave of the {device.memory_bytes / _GIB:.1f} GiB of {device.name}"
        raise SimjaxError(f"kv_cache_memory_bytes={stated} is {stated / _GIB:.1f} GiB, {room}; it can be at most {max(left, 0)}")
    if stated < _FEWEST_BLOCKS * block:
        least = f"{_FEWEST_BLOCKS * block}, two blocks, of which vLLM keeps one"
        raise SimjaxError(f"kv_cache_memory_bytes={stated} leaves no KV block to requests; it must be at least {least}")
