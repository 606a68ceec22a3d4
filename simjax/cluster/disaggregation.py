"""Prefill/decode disaggregation: which connector moves the KV cache of a request from its prefill to its decode instance, and how.

Connectors differ in when the decode instance reserves blocks, and what it keeps free beside them, in what is sent before the prefill has
ended, and in whether the first token is carried over or computed again. LLMServingSim's simplification is one of them, for comparisons with
its results: its prefill steps last until the KV cache of their tokens has been sent, and the request then runs on the decode instance at
once, whatever its limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from simjax.cluster.routers import ROUTERS
from simjax.errors import SimjaxError, closest


class Reserve(IntEnum):
    """When the decode instance gets the request, and so when it reserves blocks for it."""

    AFTER = 0  # the prefill
    WITH = 1  # at the client's arrival, as the prefill instance does
    BEFORE = 2  # the prefill instance gets it once blocks are reserved


class Stream(IntEnum):
    """What is sent while the prefill is under way."""

    NOTHING = 0
    LAYERS = 1  # each layer once it is computed
    CHUNKS = 2  # each chunk of the prompt once it is computed


@dataclass(frozen=True)
class Connector:
    """The rule of a hand-over.

    Attributes:
        reserve: when the decode instance gets the request.
        stream: what is sent while the prefill is under way.
        headroom: whether the decode instance reserves blocks only if `Disaggregation.num_reserved_decode_tokens` are left for this request
            and for each of those that run there or load (SGLang's admission); otherwise as vLLM's scheduler does.
        carried: whether the prefill's token is the client's first one; otherwise the decode instance computes the last prompt token again.
        within_steps: whether the prefill instance's steps last until the KV cache of their tokens has been sent (`StepTime.stream_s`), so
            that no transfer follows them; the request is then among the running ones of the decode instance at the end of its prefill,
            whatever the seats, the token budget and the queue there.
    """

    reserve: Reserve = Reserve.AFTER
    stream: Stream = Stream.NOTHING
    headroom: bool = False
    carried: bool = False
    within_steps: bool = False


CONNECTORS = {
    "nixl": Connector(),
    "nixl_push": Connector(),
    "mooncake": Connector(reserve=Reserve.WITH),
    "p2p_nccl": Connector(stream=Stream.LAYERS),
    "sglang": Connector(reserve=Reserve.BEFORE, stream=Stream.CHUNKS, headroom=True, carried=True),
    "llmservingsim": Connector(carried=True, within_steps=True),
}
"""Connectors by the names that `disaggregation.connector` takes."""

MOST_NEW_TOKENS = 4096
"""Tokens that SGLang expects a request to generate at most (its SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION)."""

SHARINGS: tuple[str, ...] = ("fair", "fifo")
"""Ways in which transfers share a link: all at once in equal parts, or one after the other."""


@dataclass(frozen=True)
class Disaggregation:
    """The hand-over of a cluster with prefill and decode instances.

    Attributes:
        connector: one of `CONNECTORS`.
        decode_router: rule (one of `ROUTERS`) that picks the decode instance.
        decode_first: whether the decode instance is picked when the request arrives, not when its prefill has ended.
        handover_s: seconds from the prefill's answer at the proxy to the request on its way to the decode instance.
        setup_s: seconds of a transfer that do not depend on its size.
        per_descriptor_s: seconds for each contiguous piece of KV cache that a transfer moves.
        link_efficiency: share of a link's bandwidth that transfers attain.
        sharing: one of `SHARINGS`.
        local_prefill_tokens, local_prefill_ratio: a prompt is prefilled by its decode instance if fewer tokens, and a smaller share of it,
            are not cached there.
        empty_pass_s: seconds that an engine which has requests but can run none sleeps before it looks again.
        num_reserved_decode_tokens: tokens that the decode instance keeps free for each request, by connectors with `Connector.headroom`.

    Raises:
        SimjaxError: a name is unknown, or a number out of range.
    """

    connector: str = "nixl"
    decode_router: str = "least_loaded"
    decode_first: bool = False
    handover_s: float = 0.0
    setup_s: float = 0.4e-3
    per_descriptor_s: float = 0.0
    link_efficiency: float = 0.70
    sharing: str = "fair"
    local_prefill_tokens: int = 0
    local_prefill_ratio: float = math.inf
    empty_pass_s: float = 1e-3
    num_reserved_decode_tokens: int = 512

    def __post_init__(self) -> None:
        names: dict[str, list[str]] = {"connector": [*CONNECTORS], "decode_router": [*ROUTERS], "sharing": [*SHARINGS]}
        for name, known in names.items():
            value = getattr(self, name)
            if value not in known:
                raise SimjaxError(f"disaggregation.{name}={value}: there is no such {name.split('_')[-1]}; {closest(value, known)}")
        for name in ("handover_s", "setup_s", "per_descriptor_s", "empty_pass_s", "local_prefill_tokens", "num_reserved_decode_tokens"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SimjaxError(f"disaggregation.{name}={getattr(self, name)}: it must be a number that is not negative")
        if not 0 < self.link_efficiency <= 1:
            raise SimjaxError(f"disaggregation.link_efficiency={self.link_efficiency}: it must lie in (0, 1]")
        if not self.local_prefill_ratio >= 0:
            raise SimjaxError(f"disaggregation.local_prefill_ratio={self.local_prefill_ratio}: it must not be negative")
