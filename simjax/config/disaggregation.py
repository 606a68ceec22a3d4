"""The options `disaggregation.*`: how requests are handed over from prefill to decode instances.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from simjax.disk.documents import read_document
from simjax.errors import SimjaxError, closest
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

_KEEPS_HEADROOM = needs(("connector",), lambda name: name == "sglang", "with a connector whose decode side does not keep tokens free")


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
    num_reserved_decode_tokens: int = option(
        512,
        "tokens that the decode instance keeps free for each request when it reserves blocks",
        only=(_KEEPS_HEADROOM,),
        plausible=Plausible(1, 1e5, "tokens"),
    )


FILE_SECTION = "disaggregation"
"""The section of a file of a hand-over that holds its options."""
_SHORT = "disaggregation="


def with_handover_files(overrides: Sequence[str]) -> list[str]:
    """Overrides with `disaggregation=FILE` replaced by the options in the file, which come first: others take precedence over them.

    Raises:
        SimjaxError: a file cannot be read, or holds what is no option of a hand-over.
    """
    files = [word for word in overrides if word.startswith(_SHORT) and not word.removeprefix(_SHORT).startswith(("{", "null"))]
    given = [f"{_SHORT[:-1]}.{name}={value}" for word in files for name, value in _options_in(Path(word.removeprefix(_SHORT))).items()]
    keys = {word.partition("=")[0] for word in overrides}
    return [*(word for word in given if word.partition("=")[0] not in keys), *(word for word in overrides if word not in files)]


def _options_in(path: Path) -> dict[str, float]:
    """The numbers of a file of a hand-over, as `simjax handover fit` writes it."""
    content = read_document(path, "file of a hand-over")
    options = content.get(FILE_SECTION) if isinstance(content, dict) else None
    if not isinstance(options, dict) or not options:
        raise SimjaxError(f"file of a hand-over {path}: it has no section {FILE_SECTION} (simjax handover fit writes such files)")
    known = [field.name for field in fields(DisaggregationConfig) if field.type is float]
    for name, value in options.items():
        if name not in known:
            raise SimjaxError(f"file of a hand-over {path}: {FILE_SECTION}.{name}: there is no such number; {closest(str(name), known)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SimjaxError(f"file of a hand-over {path}: {FILE_SECTION}.{name}={value}: it must be a number")
    return options
