"""Connectors by name: the rules by which serving software stores the KV cache in a tier and loads it, each a row of switches."""

from __future__ import annotations

from dataclasses import dataclass

ASYNC, SYNC, LAYERWISE = LOADS = ("async", "sync", "layerwise")
"""How a load meets the steps: the request waits for it while others run (async), the step of its admission waits for it (sync), or that
step's layers each wait for theirs (layerwise)."""
LRU, ARC = POLICIES = ("lru", "arc")
PRIVATE, NODE, CLUSTER = SCOPES = ("private", "node", "cluster")
"""Who shares a tier: nobody, the ranks of a node, or all ranks."""


@dataclass(frozen=True)
class Connector:
    """Rules of stores and loads.

    Attributes:
        load: one of `LOADS`.
        chunk_tokens: tokens that are stored, found and evicted together, rounded down to whole blocks; 0: one block.
        prompt_only: blocks with generated tokens are not stored.
        policy: order of eviction, one of `POLICIES`.
        store_threshold: how often a chunk must be offered before it is stored.
        load_after_step: an asynchronous load starts after the step beside which it is begun, which it does not disturb; else with it.
        free_stores: stores take no time, and can be found at once.
        least_load_tokens: tokens that a load must bring to be worth it; of less the request computes all.
        scope: one of `SCOPES`.
        source: where the rules come from.
    """

    load: str = ASYNC
    chunk_tokens: int = 0
    prompt_only: bool = True
    policy: str = LRU
    store_threshold: int = 1
    load_after_step: bool = False
    free_stores: bool = False
    least_load_tokens: int = 0
    scope: str = PRIVATE
    source: str = ""


CONNECTORS = {
    "vllm-offload": Connector(load_after_step=True, source="vLLM 0.33.0, OffloadingConnector with CPUOffloadingSpec"),
    "lmcache": Connector(load=SYNC, chunk_tokens=256, source="LMCache 0.3.7, in the process of vLLM"),
    "hicache": Connector(
        load=LAYERWISE, prompt_only=False, least_load_tokens=10, source="SGLang HiCache, write_through, host memory without storage"
    ),
    "llmservingsim": Connector(
        load=SYNC, chunk_tokens=256, prompt_only=False, free_stores=True, source="LLMServingSim 2.0, prefix storage CPU or CXL"
    ),
}
"""Connectors by their names in `kv_tiers.connector`."""
