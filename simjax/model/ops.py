"""The operations of one forward step: how often each runs, how many bytes it moves and how many FLOPs it does.

Names are those of the op catalogues in latency bundles (vLLM's attribute names). Attention is not in the list: its time depends on
every request's context, see `attention_flops` and `kv_bytes_per_token`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from simjax.model.mixers import Attention, Latent, Mixer, Recurrent
from simjax.model.precision import EXPERTS, MLP, SHARED_EXPERTS, Format, format_named
from simjax.model.sizes import Shard, shard
from simjax.model.spec import ModelSpec

_INDEX_BYTES = 8  # token ids and positions are int64 in vLLM
_LOGIT_BYTES = 4  # vLLM turns logits to float32 before sampling


@dataclass(frozen=True)
class Op:
    """One operation on one rank; T is the tokens it sees (the sequences, when `per_sequence`).

    A call moves `weight_bytes + row_bytes·T` bytes and does `row_flops·T` FLOPs. A mixture of experts also reads `expert_bytes` for each
    expert that T tokens hit, see `distinct_experts`; `row_bytes` and `row_flops` are then those of even shares of the ranks.

    Attributes:
        count: calls in one step.
        per_sequence: T counts the scheduled sequences instead of the scheduled tokens.
        replicated: every rank does the whole of it, whatever the tensor parallelism.
        k, n: the product is (T, k) @ (k, n); 0 when the op is no matrix product. For experts: the three products of one expert, taken as
            one of the same FLOPs.
        weight_bytes: read on each call, whatever T.
        row_bytes, row_flops: per token (per sequence), activations read and written.
        experts: routed experts on the rank, 0 when the op has none.
        expert_bytes: weights of one of them.
        expert_share: probability that a token picks a given expert, top_k / num_experts.
        pairs: token-expert pairs of a token that this rank computes on average.
        pair_bytes: per pair, part of `row_bytes`.
        dtype: data type in which a matrix product is done, None for the model's own.
        kernels: kind of kernels of a matrix product with quantised weights (`Format.kernels`), None without.
    """

    name: str
    count: int
    per_sequence: bool = False
    replicated: bool = False
    k: int = 0
    n: int = 0
    weight_bytes: float = 0
    row_bytes: float = 0.0
    row_flops: float = 0.0
    experts: int = 0
    expert_bytes: float = 0
    expert_share: float = 0.0
    pairs: float = 1.0
    pair_bytes: float = 0.0
    dtype: str | None = None
    kernels: str | None = None

    @property
    def is_gemm(self) -> bool:
        """Whether matrix units do the work."""
        return self.k > 0

    def distinct_experts(self, tokens: Any, xp: Any) -> Any:
        """Expected number of the rank's experts that T tokens hit when routing is uniform: E (1 - (1 - k/E)^T)."""
        return self.experts * (1.0 - (1.0 - self.expert_share) ** xp.asarray(tokens, dtype=float))


EMBEDDING, HEAD = ("embedding",), ("final_layernorm", "lm_head", "sampler")
"""Operations of the first pp stage only, and of the last one."""


def step_ops(
    model: ModelSpec,
    tensor_parallel_size: int = 1,
    expert_parallel_size: int = 1,
    embedding: bool = True,
    head: bool = True,
    data_parallel_size: int = 1,
) -> tuple[Op, ...]:
    """Every operation of a step on one rank, attention and communication excepted, in the order they run.

    A pp stage has the operations of its layers, and `embedding` and `head` where it is the first or the last one.
    """
    part = shard(model, tensor_parallel_size, expert_parallel_size, data_parallel_size=data_parallel_size)
    h, fp, layers = model.hidden_size, model.dtype_bytes, model.num_hidden_layers
    matrix = {name: _Matrix.of(model.format_of(name), fp) for name in (MLP, EXPERTS, SHARED_EXPERTS)}

    norm_row = 4 * h * fp  # reads hidden state and residual, writes both
    ops = [
        elementwise("embedding", 1, 2 * h * fp + _INDEX_BYTES),
        elementwise("layernorm", model.norms_per_layer * layers, norm_row, h * fp, replicated=True),
    ]
    for mixer, count in model.groups:
        ops += _mixing(model, mixer, count, tensor_parallel_size)
    if model.num_dense_layers:
        ops += _gated_mlp(model.num_dense_layers, h, part.intermediate, matrix[MLP])
    if model.is_moe:
        ops += _mixture(model, part, expert_parallel_size, matrix[EXPERTS], matrix[SHARED_EXPERTS])
    ops.append(elementwise("final_layernorm", 1, norm_row, h * fp, replicated=True))
    ops.append(_Matrix(fp, fp).product("lm_head", 1, h, part.vocab, model.lm_head_bias, per_sequence=True))
    ops.append(elementwise("sampler", 1, model.vocab_size * (model.dtype_bytes + 2 * _LOGIT_BYTES), per_sequence=True, replicated=True))
    absent = (() if embedding else EMBEDDING) + (() if head else HEAD)
    return tuple(op for op in ops if op.name not in absent)


def elementwise(name: str, count: int, row_bytes: float, weight_bytes: int = 0, per_sequence: bool = False, replicated: bool = False) -> Op:
    """An operation that is no matrix product."""
    return Op(name, count, per_sequence, replicated, weight_bytes=weight_bytes, row_bytes=row_bytes)


def _mixing(model: ModelSpec, mixer: Mixer, count: int, tp: int) -> list[Op]:
    """Projections of the layers of one kind, and what is done to each token between them."""
    fp = model.dtype_bytes
    *into, out = (
        _Matrix.of(model.format_of(x.name) if x.quantizable else None, fp).product(x.name, count, x.k, x.n, x.bias)
        for x in mixer.products(model.hidden_size, tp)
    )
    if isinstance(mixer, Attention):
        heads, kv = mixer.heads // tp * mixer.head_dim, mixer.kv_heads_of(tp) * mixer.head_dim
        if mixer.qk_norm:
            into.append(elementwise("qk_norm", count, 2 * (heads + kv) * fp, (mixer.other_parameters(tp)) * fp))
        into.append(elementwise("rotary_emb", count, (2 * (heads + kv) + mixer.head_dim) * fp + _INDEX_BYTES))
    elif isinstance(mixer, Latent):
        latents, rotary = (mixer.q_lora_rank or 0) + mixer.kv_lora_rank, (mixer.heads // tp + 1) * mixer.qk_rope_head_dim
        into.append(elementwise("qk_norm", count, 2 * latents * fp, latents * fp, replicated=True))
        into.append(elementwise("rotary_emb", count, (2 * rotary + mixer.qk_rope_head_dim) * fp + _INDEX_BYTES))
    elif isinstance(mixer, Recurrent):
        width = mixer.conv_width // tp
        into.append(elementwise("conv1d", count, 2 * width * fp, width * mixer.conv_kernel * fp))
        into.append(elementwise("gated_norm", count, 3 * (mixer.out_width // tp) * fp))
    return [*into, out]


@dataclass(frozen=True)
class _Matrix:
    """Bytes of a weight and an input of a matrix product, and of an output; the data type of the former, None for the model's."""

    inside: float
    outside: int
    dtype: str | None = None
    written: bool = True  # whether inputs are read in the type of the weights, too
    kernels: str | None = None

    @staticmethod
    def of(found: Format | None, outside: int) -> _Matrix:
        if found is None:
            return _Matrix(outside, outside)
        inside = int(found.bytes) if found.bytes.denominator == 1 else float(found.bytes)
        return _Matrix(inside, outside, found.compute, found.compute is not None, found.kernels)

    def product(self, name: str, count: int, k: int, n: int, bias: bool = False, per_sequence: bool = False) -> Op:
        weight_bytes = k * n * self.inside + bias * n * self.outside
        row_bytes = k * (self.inside if self.written else self.outside) + n * self.outside
        return Op(name, count, per_sequence, False, k, n, weight_bytes, row_bytes, 2.0 * k * n, dtype=self.dtype, kernels=self.kernels)


def matrix_product(name: str, k: int, n: int, format: str | None = None) -> Op:
    """A product of 16-bit activations with (k, n) weights in a format of `simjax.model.precision`, None for 16 bits."""
    return _Matrix.of(None if format is None else format_named(format), 2).product(name, 1, k, n)


def _gated_mlp(count: int, h: int, width: int, matrix: _Matrix) -> list[Op]:
    return [
        matrix.product("gate_up_proj", count, h, 2 * width),
        Op("act_fn", count, row_bytes=3 * width * matrix.outside),
        matrix.product("down_proj", count, width, h),
    ]


def _mixture(model: ModelSpec, part: Shard, expert_parallel_size: int, matrix: _Matrix, of_shared: _Matrix) -> list[Op]:
    """Router, routed experts and the sum over experts as one op, the shared expert as three more."""
    h, fp, width = model.hidden_size, model.dtype_bytes, part.moe_intermediate
    pairs = model.num_experts_per_tok / expert_parallel_size  # token-expert pairs of a token that this rank computes
    pair_bytes = (
        2 * h + 5 * width
    ) * fp  # gathers the input, writes and reads gate and up, writes and reads their product, writes the output
    moe = Op(
        "moe",
        model.num_moe_layers,
        k=h,
        n=3 * width,
        weight_bytes=h * model.num_experts * fp,
        row_bytes=pairs * pair_bytes + (2 * h + model.num_experts) * fp,
        row_flops=6.0 * h * width * pairs + 2.0 * h * model.num_experts,
        experts=part.experts,
        expert_bytes=3 * h * width * matrix.inside,
        expert_share=model.num_experts_per_tok / model.num_experts,
        pairs=pairs,
        pair_bytes=pair_bytes,
        dtype=matrix.dtype,
        kernels=matrix.kernels,
    )
    shared = part.shared_intermediate
    return [moe, *(_gated_mlp(model.num_moe_layers, h, shared, of_shared) if shared else [])]


def on_union(op: Op, model: ModelSpec, rows: float, routed: float) -> Op:
    """The experts of a rank of a data-parallel group, where T is the tokens of all of its ranks.

    Args:
        op: experts as of `step_ops`, which reads and sums all rows and routes them itself.
        model: the architecture.
        rows: share of the rows of all ranks that reach the rank.
        routed: share of them that it routes.
    """
    h, experts = model.hidden_size, model.num_experts
    row_bytes = op.pairs * op.pair_bytes + (2 * h * rows + experts * routed) * model.dtype_bytes
    return replace(op, row_bytes=row_bytes, row_flops=op.row_flops - 2.0 * h * experts * (1.0 - routed))


def attention_flops(model: ModelSpec, tensor_parallel_size: int = 1) -> float:
    """FLOPs of attention per pair of a query token and a key token on one rank, all layers: the two products Q·K and P·V."""
    shard(model, tensor_parallel_size)  # it can be divided so
    groups = [(x, layers) for mixer, layers in model.groups for x in mixer.readings(tensor_parallel_size, model.dtype_bytes)]
    return sum(layers * x.prefill_flops for x, layers in groups)
