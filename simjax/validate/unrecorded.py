"""What a measured run does not record of its server: what has to be stated, and what is presumed, each in one line."""

from __future__ import annotations

from typing import Any

from simjax.backend.releases import defaults_of, server_defaults
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.config.calibrate import CalibrateConfig
from simjax.config.schema import ValidateConfig
from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec
from simjax.validate.formats.results import NOT_RECORDED
from simjax.validate.run import MeasuredRun

BY_DEVICE = ("max_num_seqs", "max_num_batched_tokens")
"""Flags whose defaults depend on the device."""
Config = ValidateConfig | CalibrateConfig


def require_names(measured: MeasuredRun, config: Config, release: str) -> None:
    """Raise for a model and a device that neither the run records nor the configuration states, with all else that is not recorded.

    Raises:
        SimjaxError: one of them is not known.
    """
    both = {"device": config.device or measured.device, "model": config.model or measured.model}
    missing = [name for name, value in both.items() if value == NOT_RECORDED]
    if not missing:
        return
    limits = InstanceLimits(**defaults_of(release))
    by_device = " and ".join(name for name in BY_DEVICE if name in not_stated(measured, config))
    values = {name: _value(name, limits, 1, release) for name in not_stated(measured, config) if name not in BY_DEVICE}
    words = ", ".join([*(f"{name}={value}" for name, value in values.items()), *([f"{by_device} by the device"] if by_device else [])])
    verbs, names = ("are", "state them") if len(missing) > 1 else ("is", "states it"), " ".join(f"{name}=NAME" for name in missing)
    raise SimjaxError(
        f"{measured.source}: {' and '.join(missing)} {verbs[0]} not recorded; {names} {verbs[1]}. {_elsewhere(measured, words)}"
    )


def presumed_limits(measured: MeasuredRun, device: DeviceSpec, release: str) -> dict[str, Any]:
    """Defaults of vLLM's API server on the device, for the flags of `BY_DEVICE` that the run does not record."""
    found = server_defaults(device.name, device.memory_bytes, release)
    return {name: found[name] for name in BY_DEVICE if name in measured.unrecorded}


def presumption(measured: MeasuredRun, config: Config, instance: InstanceSpec, release: str) -> str | None:
    """A line with what is presumed of the server because neither the run records it nor the configuration states it."""
    names = not_stated(measured, config)
    if not names:
        return None
    words = ", ".join(f"{name}={_value(name, instance.limits, instance.parallelism.tensor, release)}" for name in names)
    return _elsewhere(measured, words)


def not_stated(measured: MeasuredRun, config: Config) -> list[str]:
    """Names of settings that neither the run records nor the configuration states."""
    room = config.scheduler.num_gpu_blocks_override or config.scheduler.kv_cache_memory_bytes
    given = {
        "tensor_parallel_size": config.cluster.tensor_parallel_size,
        "release": config.backend.release,
        "gpu_memory_utilization": config.scheduler.gpu_memory_utilization or room,
    }
    return [name for name in measured.unrecorded if given.get(name, getattr(config.scheduler, name, None)) is None]


def _elsewhere(measured: MeasuredRun, words: str) -> str:
    return (
        f"Not recorded, so presumed by vLLM's defaults: {words}; cluster.tensor_parallel_size, backend.release and scheduler.NAME state "
        f"them, or a file that simjax validate {measured.source} --template writes"
    )


def _value(name: str, limits: InstanceLimits, size: int, release: str) -> str:
    value = {"tensor_parallel_size": size, "release": release}.get(name, getattr(limits, name, None))
    value = True if name == "enable_prefix_caching" and value is None else value  # vLLM's own default
    return str(value).lower() if isinstance(value, bool) else str(value)
