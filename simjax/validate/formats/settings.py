"""What the file of a measured run records of its server, under the names that load generators and their users give these settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simjax.cluster.unsimulated import Setting, unsimulated
from simjax.config.scheduler import SchedulerConfig
from simjax.errors import SimjaxError
from simjax.options.option import options

_SIZE, _DEVICE, _VERSION = "tensor_parallel_size", "device", "vllm_version"
_OTHER_NAMES = {
    "tp": _SIZE,
    "tp_size": _SIZE,
    "tensor_parallelism": _SIZE,
    "gpu": _DEVICE,
    "gpu_type": _DEVICE,
    "hardware": _DEVICE,
    "accelerator": _DEVICE,
    "vllm": _VERSION,
    "num_gpu_blocks": "num_gpu_blocks_override",
    "max_running_requests": "max_num_seqs",
    "max_seq_len": "max_model_len",
}
_SGLANG = {"chunked_prefill_size": "max_num_batched_tokens", "context_length": "max_model_len"}
_FLAGS = {x.key: x.kind for x in options(SchedulerConfig)}
BLOCK = 16  # tokens by which SGLang's single tokens of KV cache are counted here


@dataclass(frozen=True)
class Deployed:
    """What a file records of the server.

    Attributes:
        device, vllm_version: None where they are not recorded.
        tensor_parallel_size: the same.
        flags: recorded flags of `SchedulerConfig`.
        unsimulated: recorded settings that ask for more than one plain rank.
        notes: what its settings are simulated as, one line each.
    """

    device: str | None = None
    vllm_version: str | None = None
    tensor_parallel_size: int | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    unsimulated: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = ()


def deployed(server: Mapping[str, Any], path: Path) -> Deployed:
    """The settings that a file records.

    Args:
        server: names and values in the file; texts are read as what the flag takes. Unknown names are left out.
        path: the file, for messages.

    Raises:
        SimjaxError: the value of a known setting cannot be read.
    """
    sglang = server.get("served_by") == "sglang"
    named = {name.lower().lstrip("-").replace("-", "_"): value for name, value in server.items() if value is not None}
    others = _OTHER_NAMES | (_SGLANG if sglang else {})
    found = {others.get(name, name): value for name, value in named.items()}
    flags = {name: _as(kind, found[name], name, path) for name, kind in _FLAGS.items() if name in found and not (sglang and name in _LEFT)}
    if sglang:
        flags |= _of_sglang(named, path)
    size = found.get(_SIZE)
    return Deployed(
        device=None if (device := found.get(_DEVICE)) is None or (sglang and device in ("cuda", "cpu")) else str(device),
        vllm_version=None if (version := found.get(_VERSION)) is None else str(version),
        tensor_parallel_size=None if size is None else _as(int, size, _SIZE, path),
        flags={name: value for name, value in flags.items() if value is not None},
        unsimulated=unsimulated({name: value for name, value in found.items() if value != "auto"}),
        notes=("served by SGLang, whose steps are formed by other rules: it is simulated by vLLM's",) if sglang else (),
    )


_LEFT = ("block_size", "dtype", "quantization", "kv_cache_dtype", "watermark", "scheduling_policy", "max_num_batched_tokens")
"""Flags that SGLang gives other meanings or values; those that agree come from `_of_sglang`."""


def _of_sglang(named: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Flags that stand for SGLang's: room for tokens as blocks, its radix tree as a prefix cache."""
    found: dict[str, Any] = {}
    if (tokens := named.get("max_total_num_tokens")) is not None:
        found |= {"num_gpu_blocks_override": _as(int, tokens, "max_total_num_tokens", path) // BLOCK, "block_size": BLOCK}
    if (cached := named.get("disable_radix_cache")) is not None:
        found["enable_prefix_caching"] = not _as(bool, cached, "disable_radix_cache", path)
    budget = named.get("chunked_prefill_size")
    if budget is not None and _as(int, budget, "chunked_prefill_size", path) > 0:
        found["max_num_batched_tokens"] = int(budget)
    return found


def _as(kind: type, value: Any, name: str, path: Path) -> Any:
    """A value as a flag takes it."""
    text = str(value).strip()
    if text.lower() in ("none", "null", ""):
        return None
    if kind is bool and text.lower() in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        return text.lower() in ("true", "1", "yes", "on")
    try:
        if kind is int and float(text) == int(float(text)):
            return int(float(text))
        if kind is float:
            return float(text)
    except (ValueError, OverflowError):
        pass
    if kind is str:
        return text
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
    raise SimjaxError(f"{path}: {name}={text[:40]}: it must be {wanted}")
