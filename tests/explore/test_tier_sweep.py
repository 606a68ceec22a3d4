"""Tiers of any size and speed share a program in a sweep; clusters without one have another."""

import numpy as np

from simjax.explore.plan import SweepPlan

WORDS = ["workload=shared_prefix", "workload.num_requests=8", "workload.prefix.groups=2", "scheduler.async_scheduling=false"]
TIER = ["kv_tiers.connector=vllm-offload"]


def test_sizes_and_links_share_a_program() -> None:
    axes = {"kv_tiers.capacity_bytes": [1e9, 40e9, 1e15], "kv_tiers.load_bytes_per_s": [5e9, 50e9]}
    sweep = SweepPlan.of([*WORDS, *TIER], axes)
    assert len(sweep.groups) == 1
    blocks = [design.lowered.params.tiers.capacity_blocks[0] for design in sweep.designs.values()]
    assert np.array_equal(blocks, np.repeat([1e9 // 2**21, 40e9 // 2**21, 1e15 // 2**21], 2))
    assert {design.tiers.capacity_blocks[0] for design in sweep.designs.values()} == set(blocks)
