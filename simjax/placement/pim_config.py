"""The `pim` group of the configuration: decode attention in memory that computes.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

from dataclasses import dataclass

from simjax.options.condition import is_set, is_unset, needs
from simjax.options.option import option
from simjax.options.plausible import Plausible


def _there(device: str | None, file: str | None) -> bool:
    return bool(device) or bool(file)


_ON = (needs(("device", "cluster.file"), _there, "without device", "with device or cluster.file"),)
_OWN = (is_set("device"),)


@dataclass
class PimConfig:
    """Decode attention in memory that computes, beside the accelerator that does the rest.

    A request's KV heads are divided over channels, and the pieces of all requests are spread over all channels. Every run prints the bound
    of the gain: bandwidth inside / bandwidth to the outside / query heads per KV head.
    """

    device: str | None = option(
        None,
        "memory that computes, such as hbm_pim or gddr6_aim: a file of profiles/pim, or the path of one; unset: none",
        "NAME",
        only=(is_unset("cluster.file"),),
    )
    enable_attn_offloading: bool = option(
        False,
        "with cluster.file: whether instances on nodes with a pim_config use it where the file does not say",
        only=(is_set("cluster.file"),),
    )
    channels: int | None = option(None, "channels of each rank; unset: the file's", bounds=(1, 2**20), only=_OWN)
    enable_sub_batch_interleaving: bool = option(
        False, "whether steps go in two halves, of which one computes while the attention of the other is in memory", only=_ON
    )
    contexts: str = option("grown", "contexts of decodes: grown, with every token, or prompt, as LLMServingSim has them", only=_ON)
    kv_cache: str = option("pim", "memory that the KV cache has the size of: pim, or device, as LLMServingSim has it", only=_ON)
    link_bandwidth_bytes_per_s: float | None = option(
        None,
        "link that queries, keys, values and results pass, bytes/s; unset: none, for memory of the accelerator itself",
        "BYTES",
        plausible=Plausible(1e8, 1e14, "bytes/s"),
        only=_ON,
    )
