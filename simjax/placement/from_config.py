"""From the configuration to a placement of weights."""

from __future__ import annotations

from dataclasses import replace

from simjax.errors import SimjaxError
from simjax.placement.config import WeightsConfig
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
