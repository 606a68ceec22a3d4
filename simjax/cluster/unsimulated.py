"""Settings of serving software that ask for what simjax does not simulate, by the names that vLLM, SGLang and LLMServingSim give them.

One table for everything that records settings: cluster files refuse them, measured runs name them, and calibrations refuse such runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_OFF = (None, False, 0, "", "none", "off", "false", {}, [])
_ONE = (None, False, 0, 1, "1")
UNSIMULATED: dict[str, tuple[Any, ...]] = {
    "quantization": _OFF,
    "dtype": (None, "", "auto", "bfloat16", "bf16", "float16", "fp16", "half"),
    "pipeline_parallel_size": _ONE,
    "pp_size": _ONE,
    "data_parallel_size": _ONE,
    "dp_size": _ONE,
    "dp_group": _OFF,
    "expert_parallel_size": _ONE,
    "enable_expert_parallel": _OFF,
    "enable_eplb": _OFF,
    "enable_dbo": _OFF,
    "decode_context_parallel_size": _ONE,
    "prefill_context_parallel_size": _ONE,
    "npu_group": _ONE,
    "speculative_config": _OFF,
    "speculative_model": _OFF,
    "speculative_algorithm": _OFF,
    "num_speculative_tokens": _OFF,
    "enable_lora": _OFF,
    "lora_config": _OFF,
    "lora_modules": _OFF,
    "kv_transfer_config": _OFF,
    "kv_connector": _OFF,
    "kv_offloading_size": _OFF,
    "cpu_offload_gb": _OFF,
    "enable_attn_offloading": _OFF,
    "enable_local_offloading": _OFF,
    "enable_sub_batch_interleaving": _OFF,
    "pd_type": _OFF,
    "placement": _OFF,
    "scheduling_policy": (None, "", "fcfs"),
    "num_scheduler_steps": _ONE,
}
"""Names of settings, with the values that ask for nothing."""


class Setting(NamedTuple):
    """A setting that is not simulated, with its value as it was recorded."""

    name: str
    value: Any

    def __str__(self) -> str:
        """`name=value`; the name alone for a mapping or list."""
        return self.name if isinstance(self.value, dict | list) else f"{self.name}={self.value!r}"


def unsimulated(settings: Mapping[str, Any]) -> tuple[Setting, ...]:
    """The settings in a record, at any depth, that ask for what is not simulated: each name once, in the order of the record.

    Names are read with hyphens or underscores, values in any letter case.
    """
    found: dict[str, Setting] = {}
    for name, value in _leaves(settings):
        if name in UNSIMULATED and _plain(value) not in UNSIMULATED[name]:
            found.setdefault(name, Setting(name, value))
    return tuple(found.values())


def _leaves(record: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of a nested record; what is below a named value is a part of it."""
    if isinstance(record, Mapping):
        for key, value in record.items():
            name = str(key).lstrip("-").replace("-", "_")
            yield name, value
            if name not in UNSIMULATED:
                yield from _leaves(value)
    elif isinstance(record, list):
        for entry in record:
            yield from _leaves(entry)


def _plain(value: Any) -> Any:
    return value.strip().lower().removeprefix("torch.") if isinstance(value, str) else value
