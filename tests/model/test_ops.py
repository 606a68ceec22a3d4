"""The op catalogue: it must account for every weight and FLOP of the model."""

import numpy as np
import pytest

from simjax.model import load_model, parameters, weight_bytes
from simjax.model.ops import attention_flops, step_ops

DENSE = [
    "embedding",
    "layernorm",
    "qkv_proj",
    "rotary_emb",
    "o_proj",
    "gate_up_proj",
    "act_fn",
    "down_proj",
    "final_layernorm",
    "lm_head",
    "sampler",
]


def test_names_follow_the_architecture():
    assert [op.name for op in step_ops(load_model("llama-3.1-8b"))] == DENSE
    moe = [op.name for op in step_ops(load_model("qwen3-30b-a3b"))]
    assert "qk_norm" in moe and "moe" in moe and "down_proj" not in moe


@pytest.mark.parametrize(
    ("name", "tp"), [("llama-3.1-8b", 1), ("llama-3.1-70b", 4), ("qwen3-32b", 2), ("mixtral-8x7b", 2), ("phi-mini-moe", 1)]
)
def test_weights_read_in_a_step_are_the_weights_of_the_rank(name, tp):
    """Every weight but the embedding table (gathered by row), the biases of LayerNorm and of row-parallel outputs is read once."""
    model = load_model(name)
    read = sum(op.count * (op.weight_bytes + op.experts * op.expert_bytes) for op in step_ops(model, tp))
    embedding = -(-model.vocab_size // 64) * 64 // tp * model.hidden_size * model.dtype_bytes
    assert read == pytest.approx(weight_bytes(model, tp) - embedding, rel=2e-4)


def test_a_token_costs_two_flops_per_active_weight():
    model = load_model("llama-3.1-8b")
    flops = sum(op.count * op.row_flops for op in step_ops(model))
    assert flops == pytest.approx(2 * (parameters(model) - model.vocab_size * model.hidden_size), rel=1e-4)
    mixtral = load_model("mixtral-8x7b")
    active = parameters(mixtral) - 32 * 6 * 3 * 4096 * 14336 - 32000 * 4096  # six of eight experts rest
    assert sum(op.count * op.row_flops for op in step_ops(mixtral)) == pytest.approx(2 * active, rel=1e-4)


def test_distinct_experts_is_the_expectation_of_uniform_routing():
    op = next(op for op in step_ops(load_model("qwen3-30b-a3b")) if op.name == "moe")
    rng = np.random.default_rng(0)
    drawn = [len({e for _ in range(12) for e in rng.choice(128, 8, replace=False)}) for _ in range(400)]
    assert op.distinct_experts(12, np) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20)
    np.testing.assert_allclose(op.distinct_experts([0, 1, 10_000], np), [0.0, 8.0, 128.0], rtol=1e-9)


def test_expert_parallelism_shares_experts_and_pairs():
    model = load_model("qwen3-30b-a3b")
    whole = next(op for op in step_ops(model) if op.name == "moe")
    half = next(op for op in step_ops(model, 1, 2) if op.name == "moe")
    assert (half.experts, half.expert_bytes) == (64, whole.expert_bytes)
    assert half.distinct_experts(5, np) == pytest.approx(whole.distinct_experts(5, np) / 2)
    router = 2.0 * model.hidden_size * model.num_experts
    assert half.row_flops - router == pytest.approx((whole.row_flops - router) / 2)


def test_attention_flops():
    # Two products, two FLOPs per multiply-add, 32 heads of 128, 32 layers.
    assert attention_flops(load_model("llama-3.1-8b")) == 4 * 32 * 128 * 32
    assert attention_flops(load_model("llama-3.1-8b"), 4) == 32 * 128 * 32
