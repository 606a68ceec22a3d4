"""The `weights` group of the configuration: weights outside the devices.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

from dataclasses import dataclass

from simjax.options.condition import Condition, is_set, is_unset, needs
from simjax.options.option import option
from simjax.options.plausible import Plausible

_ON = is_set("memory")


def _placed(memory: str | None, file: str | None) -> bool:
    return bool(memory) or bool(file)


_PLACED: Condition = needs(("memory", "cluster.file"), _placed, "without memory", "with memory or cluster.file")


@dataclass
class WeightsConfig:
    """Weights outside the devices, on host memory or CXL devices.

    Blocks that are there are streamed: copied to the device while earlier ones compute. Routed experts (layers=[moe]) are copied when the
    gates have chosen them. The memory that weights leave is the KV cache's. Devices that read from the same memory share its bandwidth.
    """

    memory: str | None = option(
        None,
        "memory of the weights, such as host_pcie5 or cxl_x8: a file of profiles/memory, or the path of one; unset: the devices",
        "NAME",
        only=(is_unset("cluster.file"),),
    )
    blocks: str | None = option(
        None, "blocks that are there: ranges such as 0-15,20, or all; unset: none with layers, else the whole model", "RANGES", only=(_ON,)
    )
    layers: list[str] = option(
        [], "operations that are there: embedding, final_layernorm, lm_head, moe (routed experts), or one of each block", only=(_ON,)
    )
    devices: int | None = option(
        None, "memory devices over which every piece is interleaved; unset: the file's", bounds=(1, 4096), only=(_ON,)
    )
    capacity_bytes: float | None = option(None, "bytes of one memory device; unset: the file's", "BYTES", only=(_ON,))
    bandwidth_bytes_per_s: float | None = option(
        None,
        "rate of reads of one memory device, bytes/s; unset: the file's",
        "BYTES",
        only=(_ON,),
        plausible=Plausible(1e8, 1e14, "bytes/s"),
    )
    latency_s: float | None = option(
        None, "seconds before the first byte of a copy; unset: the file's", plausible=Plausible(1e-9, 1e-2, "seconds"), only=(_ON,)
    )
    prefetch: int = option(
        1, "blocks that are copied ahead of the one that computes, into buffers on the device", bounds=(1, 4096), only=(_PLACED,)
    )
    cached_experts: int = option(
        0, "routed experts of each layer that the device keeps, the most popular ones", bounds=(0, 4096), only=(_PLACED,)
    )
    simplified: bool = option(
        False,
        "as LLMServingSim has it: copies wait for no buffers, all experts of a layer are copied, and weights leave no memory free",
        only=(_PLACED,),
    )
