"""The options `kv_tiers.*`: tiers of KV cache behind that of the devices.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

from dataclasses import dataclass

from simjax.options.condition import is_set, one_of
from simjax.options.option import option
from simjax.options.plausible import Plausible
from simjax.tiering.tier import Tiering

_ON = (is_set("connector"),)
_INT32 = 2**31 - 1
_RATE = Plausible(1e8, 2e12, "bytes/s (not GB/s)")
_SECONDS = Plausible(1e-7, 10, "seconds (not ms)")


@dataclass
class TieringConfig:
    """KV offloading: full blocks are copied to a tier, such as the server's memory, and loaded where the device has them no more."""

    connector: str | None = option(
        None, "rules of stores and loads: vllm-offload, lmcache, hicache or llmservingsim; unset: no tiers", "NAME"
    )
    capacity_bytes: float | None = option(
        None,
        "size of the tier, for all devices of a rank together; of a shared one, of the whole pool",
        "BYTES",
        only=_ON,
        plausible=Plausible(1e8, 1e16, "bytes (not GB)"),
    )
    num_chunks: int | None = option(None, "the same in chunks, instead of capacity_bytes", bounds=(1, _INT32), only=_ON)
    scope: str | None = option(None, "who shares the tier: private, node or cluster; unset: as the connector", only=_ON)
    chunk_tokens: int | None = option(
        None,
        "tokens stored, found and evicted together, in whole blocks; 0: one block; unset: as the connector",
        bounds=(0, _INT32),
        only=_ON,
    )
    prompt_only: bool | None = option(None, "do not store blocks with generated tokens; unset: as the connector", only=_ON)
    policy: str | None = option(None, "order of eviction: lru or arc; unset: as the connector", only=_ON)
    store_threshold: int | None = option(
        None, "times that a chunk must be offered before it is stored; unset: as the connector", bounds=(1, _INT32), only=_ON
    )
    load: str | None = option(
        None, "request waits (async), step waits (sync), or its layers one by one (layerwise); unset: as the connector", only=_ON
    )
    load_after_step: bool | None = option(
        None,
        "asynchronous loads start after the step beside which they are begun; unset: as the connector",
        only=(*_ON, one_of("load", "async", default="async")),
    )
    load_bytes_per_s: float = option(
        50e9, "rate of one device's copies from the tier; 50e9: PCIe 5 x16, blocks of 2 MB", only=_ON, plausible=_RATE
    )
    store_bytes_per_s: float = option(50e9, "rate of one device's copies to the tier", only=_ON, plausible=_RATE)
    setup_s: float = option(0.0, "seconds of a copy that do not depend on its size", only=_ON, plausible=_SECONDS)
    per_block_s: float = option(
        4e-6, "seconds of a copy for each KV block", only=_ON, plausible=Plausible(1e-8, 1e-1, "seconds (not microseconds)")
    )


def tiering_of(config: TieringConfig) -> Tiering | None:
    """The tier that the configuration describes, None without.

    Raises:
        SimjaxError: there is no such connector or choice, or the size is missing or given twice.
    """
    if config.connector is None:
        return None
    return Tiering.of(**vars(config))
