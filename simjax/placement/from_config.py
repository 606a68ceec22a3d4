"""From the configuration to a placement of weights, and to memory that computes."""

from __future__ import annotations

from dataclasses import replace

from simjax.errors import SimjaxError, closest
from simjax.placement.config import WeightsConfig
from simjax.placement.pim import Pim, load_pim
from simjax.placement.pim_config import PimConfig
from simjax.placement.stores import load_store
from simjax.placement.weights import WeightPlacement, block_ranges


def placement_of(config: WeightsConfig, blocks: int) -> WeightPlacement | None:
    """The placement that the configuration describes for a model with so many blocks, None where all weights are on the devices.

    Raises:
        SimjaxError: a name is unknown, or a number out of range.
    """
    if config.memory is None:
        return None
    store = load_store(config.memory)
    names = ("devices", "capacity_bytes", "bandwidth_bytes_per_s", "latency_s")
    store = replace(store, **{name: value for name in names if (value := getattr(config, name)) is not None})
    try:
        ranges = () if config.blocks is None else block_ranges(config.blocks, blocks)
    except SimjaxError as error:
        raise SimjaxError(f"weights.{error}") from None
    some = config.blocks is not None or len(config.layers) > 0
    placement = WeightPlacement(
        stores=(store,),
        default=None if some else 0,
        blocks=tuple((first, last, 0) for first, last in ranges),
        layers=tuple((str(name), 0) for name in config.layers),
    )
    return with_rules(placement, config)


def with_rules(placement: WeightPlacement, config: WeightsConfig) -> WeightPlacement:
    """The placement with the rules of the configuration, those of LLMServingSim if it says so."""
    ahead = None if config.simplified else config.prefetch
    return replace(placement, prefetch=ahead, cached_experts=config.cached_experts, simplified=config.simplified)


def pim_of(config: PimConfig) -> Pim | None:
    """The memory that computes which the configuration describes, None without.

    Raises:
        SimjaxError: a name is unknown, or a number out of range.
    """
    if config.device is None:
        return None
    device = load_pim(config.device)
    return with_pim_rules(Pim(device, device.channels if config.channels is None else config.channels), config)


def with_pim_rules(pim: Pim, config: PimConfig) -> Pim:
    """The memory with the rules of the configuration.

    Raises:
        SimjaxError: a name is unknown, or a number out of range.
    """
    for name, known in (("contexts", ("grown", "prompt")), ("kv_cache", ("pim", "device"))):
        if getattr(config, name) not in known:
            raise SimjaxError(f"pim.{name}={getattr(config, name)}: there is no such choice; {closest(getattr(config, name), list(known))}")
    link = config.link_bandwidth_bytes_per_s
    return replace(
        pim,
        interleaved=pim.interleaved or config.enable_sub_batch_interleaving,
        holds_kv=config.kv_cache == "pim",
        prompts_only=config.contexts == "prompt",
        link_bandwidth_bytes_per_s=pim.link_bandwidth_bytes_per_s if link is None else link,
    )
