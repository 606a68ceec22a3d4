"""Families of models by `model_type`: what vLLM's implementation of each has beyond, or instead of, what its `config.json` says.

A family states the keys that describe its arithmetic and that mean something else, or nothing, in others (`reads`); a configuration with
such a key of another family is refused. Sources: vLLM's `vllm/model_executor/models` and the configuration classes of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simjax.errors import SimjaxError
from simjax.model.mixers import Attention, Latent, Mixer, Recurrent

_GELU = "gelu_pytorch_tanh"


class Keys:
    """Keys of a configuration, for reading: a value, or a whole number."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; the default where it is missing or null."""
        value = self.config.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """The value of a key that must be a whole number.

        Raises:
            SimjaxError: it is none, or too small.
        """
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SimjaxError(f"{self.where}: {key} must be a {'positive ' if least else ''}whole number, got {value!r}")
        return value


@dataclass(frozen=True)
class Family:
    """What models of a type have in common.

    Attributes:
        mixers: how the layers mix tokens; `simjax.model.families.alike` by default.
        reads: keys that mean something in this family, with values that are simulated (None: any).
        defaults: values of keys that its configurations leave out.
        qkv_bias: whether q, k and v have a bias whatever the file says, and o has none; None: both as `attention_bias` says.
        o_bias: whether o has a bias where q, k and v have one.
        qk_norm: see `Attention`.
        norm_bias: whether norms have a bias.
        norms_per_layer: norms of the hidden state in a layer.
        router_bias, expert_bias: see `ModelSpec`.
    """

    mixers: Callable[[Keys, Attention, int], tuple[Mixer, ...]] | None = None
    reads: Mapping[str, tuple[Any, ...] | None] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    qkv_bias: bool | None = None
    o_bias: bool = True
    qk_norm: str = ""
    norm_bias: bool = False
    norms_per_layer: int = 2
    router_bias: bool = False
    expert_bias: bool = False


def layer_windows(keys: Keys, layers: int, longest: int, types: list[str] | None = None) -> list[int | None]:
    """Window of each layer: those of `layer_types` where the file has them, else of `types`, else of all from `max_window_layers` on."""
    window, stated = keys.get("sliding_window"), keys.get("layer_types") or types
    if window is None or keys.get("use_sliding_window") is False:
        return [None] * layers
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise SimjaxError(f"{keys.where}: sliding_window must be a positive whole number or null, got {window!r}")
    if window >= longest:
        return [None] * layers
    if stated:
        return [window if stated[i % len(stated)] == "sliding_attention" else None for i in range(layers)]
    first = keys.get("max_window_layers") if keys.get("use_sliding_window") else 0
    first = first if isinstance(first, int) else 0
    return [None if i < first else window for i in range(layers)]


def _with(one: Attention, **changes: Any) -> Attention:
    return Attention(**{**vars(one), **changes})


def _windowed(types: list[str] | None, **changes: Any) -> Callable[[Keys, Attention, int], tuple[Mixer, ...]]:
    def of(keys: Keys, plain: Attention, layers: int) -> tuple[Mixer, ...]:
        windows = layer_windows(keys, layers, keys.whole("max_position_embeddings"), types)
        return tuple(_with(plain, window=window, **changes) for window in windows)

    return of


alike = _windowed(None)
"""Layers that differ by their window at most."""


def _gemma3(keys: Keys, plain: Attention, layers: int) -> tuple[Mixer, ...]:
    every = keys.whole("sliding_window_pattern", 6)
    return _windowed(["sliding_attention"] * (every - 1) + ["full_attention"])(keys, plain, layers)


def _llama4(keys: Keys, plain: Attention, layers: int) -> tuple[Mixer, ...]:
    """Three of four layers see a chunk, the fourth has no rotary embedding and sees all (`no_rope_layers`: 1 where there is one)."""
    chunk, rotary = keys.get("attention_chunk_size"), keys.get("no_rope_layers") or []
    rotary = rotary if len(rotary) == layers else [int((i + 1) % 4 != 0) for i in range(layers)]
    if chunk is None:
        return (plain,) * layers
    return tuple(_with(plain, window=chunk, chunked=True) if has else plain for has in rotary)


def _latent(keys: Keys, plain: Attention, layers: int) -> tuple[Mixer, ...]:
    sparse = keys.get("index_topk") is not None
    one = Latent(
        heads=plain.heads,
        q_lora_rank=None if keys.get("q_lora_rank") is None else keys.whole("q_lora_rank"),
        kv_lora_rank=keys.whole("kv_lora_rank"),
        qk_nope_head_dim=keys.whole("qk_nope_head_dim"),
        qk_rope_head_dim=keys.whole("qk_rope_head_dim"),
        v_head_dim=keys.whole("v_head_dim"),
        index_topk=keys.whole("index_topk") if sparse else None,
        index_n_heads=keys.whole("index_n_heads") if sparse else 0,
        index_head_dim=keys.whole("index_head_dim") if sparse else 0,
    )
    return (one,) * layers


def _delta_net(keys: Keys, plain: Attention, layers: int) -> tuple[Mixer, ...]:
    """Qwen's gated delta net in most layers, gated attention in every `full_attention_interval`-th."""
    key_heads, heads = keys.whole("linear_num_key_heads"), keys.whole("linear_num_value_heads")
    key_dim, value_dim = keys.whole("linear_key_head_dim"), keys.whole("linear_value_head_dim")
    key, value = key_heads * key_dim, heads * value_dim
    linear = Recurrent(
        heads=key_heads,
        in_width=2 * key + 2 * value,
        aside_width=2 * heads,
        conv_width=2 * key + value,
        conv_kernel=keys.whole("linear_conv_kernel_dim", 4),
        out_width=value,
        state_elements=heads * key_dim * value_dim,
        state_bytes_each=4 if keys.get("mamba_ssm_dtype") == "float32" else 2,
        others=2 * heads + value_dim,
    )
    gated = _with(plain, gated=bool(keys.get("attn_output_gate", True)))
    every = keys.whole("full_attention_interval", 4)
    types = keys.get("layer_types") or ["linear_attention"] * (every - 1) + ["full_attention"]
    return tuple(linear if types[i % len(types)] == "linear_attention" else gated for i in range(layers))


def _mimo_v2(keys: Keys, plain: Attention, layers: int) -> tuple[Mixer, ...]:
    """`hybrid_layer_pattern`: 1 for layers with a window, whose heads have sizes of their own."""
    whole = _with(plain, value_dim=keys.whole("v_head_dim"), sinks=bool(keys.get("add_full_attention_sink_bias")))
    window = Attention(
        heads=keys.whole("swa_num_attention_heads", plain.heads),
        kv_heads=keys.whole("swa_num_key_value_heads", plain.kv_heads),
        head_dim=keys.whole("swa_head_dim", plain.head_dim),
        value_dim=keys.whole("swa_v_head_dim", keys.whole("v_head_dim")),
        window=keys.whole("sliding_window"),
        sinks=bool(keys.get("add_swa_attention_sink_bias")),
    )
    pattern = keys.get("hybrid_layer_pattern")
    if not isinstance(pattern, list) or len(pattern) != layers:
        raise SimjaxError(f"{keys.where}: hybrid_layer_pattern must have a number for each of the {layers} layers")
    return tuple(window if here else whole for here in pattern)


_ANY = None
_MTP = {"num_nextn_predict_layers": _ANY}
_MLA = {"kv_lora_rank": _ANY, "q_lora_rank": _ANY, "qk_nope_head_dim": _ANY, "qk_rope_head_dim": _ANY, "v_head_dim": _ANY, **_MTP}
_SPARSE = {**_MLA, "index_topk": _ANY, "index_n_heads": _ANY, "index_head_dim": _ANY}
_DELTA = dict.fromkeys(
    [
        "full_attention_interval",
        "linear_num_key_heads",
        "linear_num_value_heads",
        "linear_key_head_dim",
        "linear_value_head_dim",
        "linear_conv_kernel_dim",
        "attn_output_gate",
        "mamba_ssm_dtype",
    ]
)
_GEMMA = {"hidden_activation": (_GELU,), "hidden_act": (_GELU,), "final_logit_softcapping": _ANY, "attn_logit_softcapping": _ANY}
_GEMMA_DEFAULTS = {"tie_word_embeddings": True, "head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4}
_GEMMA3_DEFAULTS = _GEMMA_DEFAULTS | {"vocab_size": 262208, "max_position_embeddings": 131072}
_deepseek = Family(_latent, _MLA)
_deepseek_v3 = Family(_latent, _MLA, router_bias=True)
_deepseek_v32 = Family(_latent, _SPARSE, router_bias=True)
_gemma3_family = Family(_gemma3, {**_GEMMA, "sliding_window_pattern": _ANY}, _GEMMA3_DEFAULTS, qk_norm="head", norms_per_layer=4)
_llama4_family = Family(_llama4, dict.fromkeys(["attention_chunk_size", "interleave_moe_layer_step", "no_rope_layers", "use_qk_norm"]))
_hybrid = Family(_delta_net, _DELTA, qk_norm="head")

FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm="head"),
    "qwen2_moe": Family(qkv_bias=True),
    "qwen3_moe": Family(reads={"use_qk_norm": (True,)}, qk_norm="head"),
    "mixtral": Family(),
    "phimoe": Family(norm_bias=True),
    "phi3": Family(),
    "granite": Family(),
    "olmo2": Family(qk_norm="layer"),
    "seed_oss": Family(o_bias=False),
    "mimo": Family(reads=_MTP, qkv_bias=True),
    "gemma2": Family(_windowed(["sliding_attention", "full_attention"]), _GEMMA, _GEMMA_DEFAULTS, norms_per_layer=4),
    "gemma3_text": _gemma3_family,
    "gpt_oss": Family(_windowed(["sliding_attention", "full_attention"], sinks=True), router_bias=True, expert_bias=True),
    "llama4_text": _llama4_family,
    "glm4_moe": Family(reads={**_MTP, "use_qk_norm": _ANY}, o_bias=False, router_bias=True),
    "minimax_m2": Family(reads={"use_qk_norm": (True,)}, qk_norm="layer", router_bias=True),
    "mimo_v2_flash": Family(_mimo_v2, dict.fromkeys(("attention_chunk_size", "moe_layer_freq")), router_bias=True),
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek_v3,
    "kimi_k2": _deepseek_v3,
    "deepseek_v32": _deepseek_v32,
    "glm_moe_dsa": _deepseek_v32,
    "qwen3_next": _hybrid,
    "qwen3_5_text": _hybrid,
    "qwen3_5_moe_text": _hybrid,
}
