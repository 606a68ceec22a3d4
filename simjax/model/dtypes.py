"""Bytes per element of the data types a model or its KV cache may use."""

from __future__ import annotations

from simjax.errors import SimjaxError, closest

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1, "int8": 1}
_ALIASES = {
    "fp32": "float32",
    "fp16": "float16",
    "half": "float16",
    "float": "float32",
    "bf16": "bfloat16",
    "float8_e4m3fn": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
}


def canonical_dtype(name: str) -> str:
    """The name used everywhere for a data type: `torch.bfloat16`, `bf16` and `bfloat16` are all `bfloat16`."""
    short = str(name).removeprefix("torch.").lower()
    short = _ALIASES.get(short, short)
    if short not in DTYPE_BYTES:
        raise SimjaxError(f"unknown dtype '{name}'; {closest(short, [*DTYPE_BYTES, *_ALIASES])}")
    return short


def dtype_bytes(name: str) -> int:
    """Bytes of one element."""
    return DTYPE_BYTES[canonical_dtype(name)]


SERVED_DTYPES = ("auto", "bfloat16", "float16", "half", "float32", "float")
"""Names that vLLM's `--dtype` takes; auto: the checkpoint's, but bfloat16 for float32."""
KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")
"""Names of vLLM's `--kv-cache-dtype` that are simulated; auto: the checkpoint's, usually the model's own."""


def check_name(flag: str, name: str, known: tuple[str, ...]) -> None:
    """Raise unless a data type has one of vLLM's names for that flag.

    Raises:
        SimjaxError: it has none.
    """
    if name not in known:
        hint = closest(name, list(known))
        raise SimjaxError(f"scheduler.{flag}={name}: not one of vLLM's --{flag.replace('_', '-')} that are simulated; {hint}")
