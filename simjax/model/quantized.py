"""Quantization of a checkpoint: what its `quantization_config`, or ModelOpt's file beside `config.json`, means for a `ModelSpec`.

A checkpoint has one format (`simjax.model.precision`) for the matrix products of its layers, and may leave some of them out, by name, glob
or regular expression. Embedding, output head, norms and routers stay in the model's own type. A matrix that is left out in some of its
layers only is taken as in most of them, and a note says so. All else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from simjax.errors import SimjaxError
from simjax.model.precision import EXPERTS, MLP, SHARED_EXPERTS, int4_name
from simjax.model.spec import ModelSpec

BESIDE = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files beside a `config.json` that state a quantization; the first one is ModelOpt's, the others are those of GPTQ and AWQ."""

_OTHER_KEYS = ("compression_config", "quantization")
_ASIDE = ("modules_to_not_convert", "ignored_layers", "exclude_modules", "ignore")
_INSTEAD = "use the unquantised model's config"
_MODELOPT = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8_block",
    "MXFP8": "mxfp8",
    "NVFP4": "nvfp4",
    "W4A16_NVFP4": "nvfp4_wo",
    "W8A8_SQ_PER_CHANNEL": "int8",
}
_MODULES = {
    "qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o_proj": ("self_attn.o_proj",),
    "q_proj": ("self_attn.q_proj",),
    "kv_a_proj": ("self_attn.kv_a_proj_with_mqa",),
    "fused_qkv_a_proj": ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"),
    "q_b_proj": ("self_attn.q_b_proj",),
    "kv_b_proj": ("self_attn.kv_b_proj",),
    "indexer_wq_b": ("self_attn.indexer.wq_b",),
    "in_proj": ("linear_attn.in_proj_qkv",),
    "out_proj": ("linear_attn.out_proj",),
    MLP: ("mlp.gate_proj", "mlp.down_proj"),
    EXPERTS: ("mlp.experts.0.gate_proj", "mlp.experts.0.down_proj"),
    SHARED_EXPERTS: ("mlp.shared_experts.gate_proj", "mlp.shared_experts.down_proj"),
}
"""Modules of a checkpoint that make up a matrix, or stand for those that do."""
_OTHER_NAMES = (("shared_experts", "shared_expert"), ("mlp.", "block_sparse_moe."), ("mlp.", "feed_forward."))
_PREFIXES = ("model.layers.", "language_model.model.layers.", "model.language_model.layers.")


@dataclass(frozen=True)
class Quantization:
    """Format of the layers' matrices, those that are left out, the data type of the KV cache, None each for the model's own; notes."""

    format: str | None = None
    unquantized: tuple[str, ...] = ()
    kv_cache_dtype: str | None = None
    notes: tuple[str, ...] = ()


def quantized(model: ModelSpec, found: Quantization) -> ModelSpec:
    """The model with a quantization, and with its notes."""
    if found == Quantization():
        return model
    fields = {"quantization": found.format, "unquantized": found.unquantized, "kv_cache_dtype": found.kv_cache_dtype}
    return replace(model, **fields, notes=(*model.notes, *found.notes))


def read_quantization(config: Mapping[str, Any], where: str, model: ModelSpec) -> Quantization:
    """The quantization that a `config.json` states.

    Args:
        config: its mapping.
        where: its name, for error messages.
        model: what is known of it otherwise.

    Raises:
        SimjaxError: it asks for a quantization that is not simulated.
    """
    for key in _OTHER_KEYS:
        if config.get(key):
            raise SimjaxError(f"{where}: {key} is not supported yet; {_INSTEAD}")
    found = config.get("quantization_config")
    if not found:
        return Quantization()
    if not isinstance(found, Mapping):
        raise SimjaxError(f"{where}: quantization_config must be a mapping, got {found!r}")
    return _of_mapping(found, f"{where}: quantization_config", model)


def read_beside(raw: Any, where: str, model: ModelSpec) -> Quantization:
    """The same from the content of a file of `BESIDE`.

    Raises:
        SimjaxError: it is none of these files, or asks for a quantization that is not simulated.
    """
    found = raw.get("quantization") if isinstance(raw, Mapping) else None
    if isinstance(found, Mapping):
        return _of_mapping({"quant_method": "modelopt", **found}, f"{where}: quantization", model)
    if isinstance(raw, Mapping) and {"w_bit", "bits"} & set(raw):
        method = "awq" if "w_bit" in raw else "gptq"
        return _of_mapping({"bits": raw.get("w_bit"), "group_size": raw.get("q_group_size"), **raw, "quant_method": method}, where, model)
    raise SimjaxError(f"{where}: this quantization is not supported yet; {_INSTEAD}")


def _of_mapping(found: Mapping[str, Any], where: str, model: ModelSpec) -> Quantization:
    name = _format(found)
    if name is None:
        method, asked = found.get("quant_method", found.get("quant_algo", "unknown")), found.get("quant_algo", found.get("fmt"))
        raise SimjaxError(f"{where} is not supported yet for {method}{f' {asked}' if asked else ''}; {_INSTEAD}")
    if found.get("lm_head") is True:
        raise SimjaxError(f"{where} is not supported yet with a quantised output head (lm_head: true); {_INSTEAD}")
    cache = found.get("kv_cache_quant_algo") or _scheme(found.get("kv_cache_scheme"))
    if cache not in (None, "FP8"):
        raise SimjaxError(f"{where}: kv_cache_quant_algo={cache} is not supported yet, only FP8; {_INSTEAD}")
    left_out, notes = _left_out([str(x) for key in _ASIDE for x in found.get(key) or ()], _layout(model), where)
    return Quantization(name, left_out, "fp8" if cache else None, notes)


def _scheme(scheme: Any) -> str | None:
    if isinstance(scheme, Mapping):
        return "FP8" if scheme.get("num_bits") == 8 and scheme.get("type", "float") == "float" else str(dict(scheme))
    return scheme


def _format(found: Mapping[str, Any]) -> str | None:
    """The format that a mapping states, None for one that is not simulated."""
    method, algorithm = (
        str(found.get("quant_method", "modelopt" if "quant_algo" in found else "")),
        str(found.get("quant_algo", "")).upper(),
    )
    if method == "fp8" and not algorithm:
        name = "fp8_block" if found.get("weight_block_size") else "fp8"
        return name if str(found.get("fmt", "e4m3")) in ("e4m3", "float8_e4m3fn") else None
    if method in ("modelopt", "modelopt_fp4"):
        return _MODELOPT.get(algorithm)
    if method == "mxfp4":
        return "mxfp4"
    if method in ("awq", "gptq"):
        bits, group = found.get("bits"), found.get("group_size") or -1
        if bits == 8:
            return "int8_wo"
        return int4_name(int(group), method == "gptq" and bool(found.get("sym", True))) if bits == 4 else None
    if method == "compressed-tensors":
        groups = found.get("config_groups")
        names = {_of_group(x, found) for x in groups.values()} if isinstance(groups, Mapping) and groups else {None}
        return names.pop() if len(names) == 1 else None
    return None


def _of_group(group: Any, whole: Mapping[str, Any]) -> str | None:
    """The format of a group of compressed-tensors, which must hold for all linear layers."""
    weights, inputs = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, Mapping) or group.get("targets", ["Linear"]) != ["Linear"]:
        return None
    kind, bits, size = weights.get("type", "int"), weights.get("num_bits"), weights.get("group_size")
    if (kind, bits) == ("int", 4):
        return int4_name(int(size or -1), bool(weights.get("symmetric", True))) if not inputs else None
    if (kind, bits) == ("float", 4):
        microscaled = "mxfp4" in str(group.get("format") or whole.get("format")) or size == 32
        return "mxfp4" if microscaled else "nvfp4" if inputs else "nvfp4_wo"
    wide = {("int", 8): "int8", ("float", 8): "fp8"}.get((str(kind), int(bits or 0)))
    return None if wide is None or (inputs and inputs.get("num_bits") != 8) else wide if inputs else f"{wide}_wo"


def _left_out(patterns: list[str], layout: Mapping[str, tuple[int, ...]], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Matrices that the patterns leave out, and notes on those that they leave out in some layers."""
    if not patterns:
        return (), ()
    try:
        matching = re.compile("|".join(f"(?:{_expression(pattern)})" for pattern in dict.fromkeys(patterns)))
    except re.error as error:
        raise SimjaxError(f"{where}: a pattern of the modules that it leaves out is no regular expression: {error}") from None
    left_out, notes = [], []
    for name, layers in layout.items():
        found = sum(any(matching.fullmatch(module) for module in _names(name, i)) for i in layers)
        mostly = 2 * found > len(layers)
        if mostly:
            left_out.append(name)
        if 0 < found < len(layers):
            few = len(layers) - found if mostly else found
            notes.append(
                f"its quantization {'has' if mostly else 'leaves out'} {name} in {few} of {len(layers)} layers; taken as in the others"
            )
    return tuple(left_out), tuple(notes)


def _layout(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Matrices that a checkpoint may quantise, by name, with the layers that have them; dense layers are taken to come first."""
    count, dense = model.num_hidden_layers, model.num_dense_layers
    found: dict[str, tuple[int, ...]] = {}
    for mixer, _ in model.groups:
        where = tuple(i for i in range(count) if not model.mixers or model.mixers[i] == mixer)
        for product in mixer.products(model.hidden_size, 1):
            if product.quantizable:
                found[product.name] = (*found.get(product.name, ()), *where)
    mixtures = tuple(range(dense, count))
    found |= {MLP: tuple(range(dense)), EXPERTS: mixtures, SHARED_EXPERTS: mixtures if model.shared_expert_intermediate_size else ()}
    return {name: layers for name, layers in found.items() if layers}


def _expression(pattern: str) -> str:
    """A regular expression for whole names of modules: one of them, or a part of the path to it, with `*` for anything."""
    if pattern.startswith("re:"):
        return f"(?:{pattern[3:]}).*"
    return rf"(?:.*\.)?{re.escape(pattern).replace(re.escape('*'), '.*')}(?:\..*)?"


def _names(matrix: str, layer: int) -> list[str]:
    """Names that the modules of a matrix may have in a layer."""
    modules = list(_MODULES[matrix])
    for usual, other in _OTHER_NAMES:
        modules += [module.replace(usual, other) for module in _MODULES[matrix] if usual in module]
    return [f"{prefix}{layer}.{module}" for prefix in _PREFIXES for module in modules]
