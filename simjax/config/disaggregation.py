"""The options `disaggregation.*`: how requests are handed over from prefill to decode instances.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

from dataclasses import dataclass
from typing import Any

from simjax.options.condition import Condition, at_least, needs
from simjax.options.option import option
from simjax.options.plausible import Plausible

_SECONDS = Plausible(1e-6, 10, "seconds (not ms)")


def have_roles(prefill: int, decode: int, groups: list[Any], file: str | None) -> bool:
    """Whether a cluster has prefill and decode instances, or may have them."""
    roles = {group["role"] for group in groups if hasattr(group, "get") and "role" in group}
    return bool(prefill or decode or file is not None or roles & {"prefill", "decode"})


def _several_decode(decode: int, groups: list[Any], file: str | None) -> bool:
    return decode != 1 or bool(groups) or file is not None


DISAGGREGATED: Condition = needs(
    ("cluster.prefill.instances", "cluster.decode.instances", "cluster.groups", "cluster.file"),
    have_roles,
    "in a cluster whose instances run both phases; give cluster.prefill.instances and cluster.decode.instances, or groups with roles",
    "with prefill and decode instances",
)
"""The cluster has prefill and decode instances."""

_CHOICE = needs(
    ("cluster.decode.instances", "cluster.groups", "cluster.file"),
    _several_decode,
    "with one decode instance, to which every request goes",
    refused=False,
)
_PICKED_LATER = needs(("connector",), lambda name: name not in ("mooncake", "sglang"), "with a connector that always does so")


@dataclass
class DisaggregationConfig:
    """The hand-over of a request; the defaults are those of `simjax.cluster.disaggregation.Disaggregation`, which has the same fields."""

    connector: str = option("nixl", "rule of the hand-over: what is sent when, and whether the first token is carried over")
    decode_router: str = option("least_loaded", "rule that picks the decode instance; cluster.router_* are its weights", only=(_CHOICE,))
    decode_first: bool = option(
        False, "pick the decode instance when the request arrives, not when its prefill has ended", only=(_PICKED_LATER,)
    )
    handover_s: float = option(
        0.0, "seconds of the proxy between the answer of the prefill and the request to the decode instance", plausible=_SECONDS
    )
    setup_s: float = option(0.4e-3, "seconds of a transfer that do not depend on its size", plausible=_SECONDS)
    per_descriptor_s: float = option(
        0.0,
        "seconds of a transfer for each contiguous piece of the KV cache",
        plausible=Plausible(1e-9, 1e-2, "seconds (not microseconds)"),
    )
    link_efficiency: float = option(0.70, "share of the bandwidth of links that transfers attain")
    sharing: str = option("fair", "transfers on one link: all at once in equal parts (fair), or one after the other (fifo)")
    local_prefill_tokens: int = option(
        0,
        "prompts with fewer tokens than this to compute are prefilled by their decode instance; 0: none",
        plausible=Plausible(1, 1e6, "tokens"),
    )
    local_prefill_ratio: float | None = option(
        None,
        "and only if those tokens are less than this share of the prompt; unset: any share",
        "SHARE",
        only=(at_least("local_prefill_tokens", 1),),
    )
    empty_pass_s: float = option(1e-3, "sleep of an engine that has requests and can run none", plausible=_SECONDS)
