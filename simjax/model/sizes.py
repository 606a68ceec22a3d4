"""Parameters and bytes of a model, in total and on one rank of its tensor- and expert-parallel group."""

from __future__ import annotations

from dataclasses import dataclass

from simjax.errors import SimjaxError
from simjax.model.dtypes import dtype_bytes
from simjax.model.mixers import Attention, Latent, Recurrent
from simjax.model.precision import EXPERTS, MLP, SHARED_EXPERTS
from simjax.model.spec import ModelSpec

VOCAB_PADDING = 64  # vLLM pads the vocabulary to a multiple of this before it divides it


@dataclass(frozen=True)
class Shard:
    """The part of a model that one rank holds.

    Attributes:
        heads, kv_heads: attention heads of the rank; KV heads are replicated when there are fewer of them than ranks.
        intermediate: width of the dense MLP on the rank.
        experts: routed experts on the rank, on the one with the most where they do not divide evenly.
        moe_intermediate: width of each of them on the rank.
        shared_intermediate: width of the shared expert on the rank.
        vocab: rows of the padded vocabulary on the rank.
    """

    heads: int
    kv_heads: int
    intermediate: int
    experts: int
    moe_intermediate: int
    shared_intermediate: int
    vocab: int


def shard(
    model: ModelSpec,
    tensor_parallel_size: int = 1,
    expert_parallel_size: int = 1,
    redundant_experts: int = 0,
    data_parallel_size: int = 1,
) -> Shard:
    """Divide a model as vLLM does: column- and row-parallel matrices, experts whole on a rank under expert parallelism.

    Args:
        model: the architecture.
        tensor_parallel_size: ranks that share each matrix.
        expert_parallel_size: ranks that share the experts; 1 cuts every expert by tensor- and data-parallel ranks instead.
        redundant_experts: copies of experts in a layer, which the ranks share as well.
        data_parallel_size: ranks that share the requests, each with everything but a part of the experts.

    Raises:
        SimjaxError: the heads or the widths do not divide evenly, or there are fewer experts than ranks.
    """
    tp, ep = tensor_parallel_size, expert_parallel_size
    if tp < 1 or ep < 1:
        raise SimjaxError(f"tensor_parallel_size and expert_parallel_size must be at least 1, got {tp} and {ep}")
    _divides(model, "num_attention_heads", tp)
    for mixer, _ in model.groups:
        if mixer.heads % tp:
            raise SimjaxError(f"{model.name}: the {mixer.heads} heads of some layers cannot be divided by tensor_parallel_size={tp}")
        if not isinstance(mixer, Attention):
            continue
        if mixer.kv_heads >= tp and mixer.kv_heads % tp:
            raise SimjaxError(f"{model.name}: num_key_value_heads={mixer.kv_heads} cannot be divided by tensor_parallel_size={tp}")
        if mixer.kv_heads < tp and tp % mixer.kv_heads:
            raise SimjaxError(f"{model.name}: num_key_value_heads={mixer.kv_heads} does not divide tensor_parallel_size={tp}")
    if model.num_dense_layers:
        _divides(model, "intermediate_size", tp)
    expert_cut = 1 if ep > 1 else tp * data_parallel_size
    if model.is_moe:
        if model.num_experts < ep:
            raise SimjaxError(f"{model.name}: num_experts={model.num_experts} are fewer than expert_parallel_size={ep}")
        if model.moe_intermediate_size % expert_cut:
            ranks = "tensor_parallel_size" if data_parallel_size == 1 else "tensor_parallel_size times data_parallel_size"
            width = f"{model.name}: moe_intermediate_size={model.moe_intermediate_size}"
            raise SimjaxError(f"{width} cannot be divided by {ranks}={expert_cut}")
        _divides(model, "shared_expert_intermediate_size", tp)
    padded_vocab = -(-model.vocab_size // VOCAB_PADDING) * VOCAB_PADDING
    return Shard(
        heads=model.num_attention_heads // tp,
        kv_heads=max(model.num_key_value_heads // tp, 1),
        intermediate=model.intermediate_size // tp,
        experts=-(-(model.num_experts + redundant_experts) // ep),
        moe_intermediate=model.moe_intermediate_size // expert_cut,
        shared_intermediate=model.shared_expert_intermediate_size // tp,
        vocab=-(-padded_vocab // tp),
    )


def _divides(model: ModelSpec, field: str, ranks: int) -> None:
    if getattr(model, field) % ranks:
        raise SimjaxError(f"{model.name}: {field}={getattr(model, field)} cannot be divided by tensor_parallel_size={ranks}")


def parameters(model: ModelSpec) -> int:
    """All parameters of the model (a tied output matrix counts once)."""
    return _parameters(model, shard(model), 1, model.vocab_size)


def active_parameters(model: ModelSpec) -> int:
    """Parameters that one token passes through, embedding and head included: of the routed experts those of its choice."""
    h, width = model.hidden_size, model.moe_intermediate_size
    expert = 3 * h * width + model.expert_bias * (2 * width + h)
    return parameters(model) - model.num_moe_layers * (model.num_experts - model.num_experts_per_tok) * expert


def weight_bytes(
    model: ModelSpec,
    tensor_parallel_size: int = 1,
    expert_parallel_size: int = 1,
    embedding: bool = True,
    head: bool = True,
    redundant_experts: int = 0,
    data_parallel_size: int = 1,
) -> int:
    """Bytes of the weights that one rank holds; a pp stage has its layers, and `embedding` and `head` where it is the first or the last.

    The last stage has a copy of an embedding that is the output matrix as well.
    """
    part = shard(model, tensor_parallel_size, expert_parallel_size, redundant_experts, data_parallel_size)
    total = _parameters(model, part, tensor_parallel_size, part.vocab, embedding, head) * model.dtype_bytes
    for name, elements in _layer_matrices(model, part, tensor_parallel_size).items():
        if (found := model.format_of(name)) is not None:
            total -= elements * model.dtype_bytes - found.of(elements)
    copied = sum(layers * mixer.copied_elements(tensor_parallel_size) for mixer, layers in model.groups if isinstance(mixer, Latent))
    return total + copied * model.dtype_bytes


def kv_bytes_per_token(model: ModelSpec, tensor_parallel_size: int = 1, kv_cache_dtype: str = "auto") -> int:
    """Bytes of keys and values that one token takes on one rank, all layers together."""
    shard(model, tensor_parallel_size)  # it can be divided so
    element = model.dtype_bytes if kv_cache_dtype == "auto" else dtype_bytes(kv_cache_dtype)
    return sum(layers * mixer.cache_bytes(tensor_parallel_size, element) for mixer, layers in model.groups)


def state_bytes_per_sequence(model: ModelSpec, tensor_parallel_size: int = 1) -> int:
    """Bytes of the states of recurrent layers that one sequence takes on one rank, 0 where there are none."""
    tp, element = tensor_parallel_size, model.dtype_bytes
    return sum(layers * mixer.state_bytes(tp, element) for mixer, layers in model.groups if isinstance(mixer, Recurrent))


def _layer_matrices(model: ModelSpec, part: Shard, tp: int) -> dict[str, int]:
    """Weights of the matrix products that a quantised model quantises, by name: all but the router's and other small ones."""
    h = model.hidden_size
    found: dict[str, int] = {}
    for mixer, layers in model.groups:
        for x in mixer.products(h, tp):
            if x.quantizable:
                found[x.name] = found.get(x.name, 0) + layers * x.k * x.n
    return found | {
        MLP: model.num_dense_layers * 3 * h * part.intermediate,
        EXPERTS: model.num_moe_layers * 3 * h * part.experts * part.moe_intermediate,
        SHARED_EXPERTS: model.num_moe_layers * 3 * h * part.shared_intermediate,
    }


def _parameters(model: ModelSpec, part: Shard, tp: int, vocab: int, embedding: bool = True, head: bool = True) -> int:
    h = model.hidden_size
    norm = h * (2 if model.norm_bias else 1)
    attention = 0
    for mixer, layers in model.groups:
        attention += layers * (sum(x.k * x.n + x.bias * x.n for x in mixer.products(h, tp)) + mixer.other_parameters(tp))
    mlp = 3 * h * part.intermediate
    moe = (h + model.router_bias) * model.num_experts + part.experts * 3 * h * part.moe_intermediate
    moe += model.expert_bias * part.experts * (2 * part.moe_intermediate + h)
    moe += 3 * h * part.shared_intermediate + h * model.shared_expert_gate
    layers = model.num_hidden_layers * model.norms_per_layer * norm + attention
    layers += model.num_dense_layers * mlp + model.num_moe_layers * moe
    rows = (embedding or head) + (embedding and head and not model.tie_word_embeddings)
    return rows * vocab * h + layers + head * (norm + model.lm_head_bias * vocab)
