"""The parameters of a sensitivity that are no parameters of a profile: name, unit and meaning of each. This module needs no JAX."""

from simjax.calibrate.handover.priors import HANDOVER

LIMITS = {
    "num_gpu_blocks": ("num_gpu_blocks_override", "KV blocks of an instance"),
    "max_num_seqs": ("max_num_seqs", "most requests that run at once"),
    "max_num_batched_tokens": ("max_num_batched_tokens", "token budget of a step"),
}
"""Flags of the scheduler: the field of `InstanceLimits` that holds the limit, and its meaning."""
HARDWARE = {
    "memory_bandwidth": ("bytes/s", "memory bandwidth of the device"),
    "peak_flops": ("FLOP/s", "peak of the device, in every data type"),
    "link_bandwidth": ("bytes/s", "bandwidth of the link between an instance's devices"),
    "link_latency": ("s", "latency of that link"),
    "network_bandwidth": ("bytes/s", "bandwidth of a network adapter"),
    "network_latency": ("s", "latency of a message between nodes"),
}
"""Facts of the device and its node: unit and meaning."""
WORKLOAD = {
    "arrival_rate": ("requests/s", "the same requests, closer together"),
    "concurrency": ("requests", "requests in flight of a closed loop"),
}
"""Facts of the workload: unit and meaning."""
CLUSTER_PARAMETERS = (*WORKLOAD, *LIMITS, *HARDWARE, *HANDOVER)
"""All of them."""
