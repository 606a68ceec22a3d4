"""Ranges of the numbers of device files: wide enough for every accelerator and network, too narrow for another unit."""

from __future__ import annotations

from simjax.options.plausible import Plausible

RANGES = {
    "memory_bytes": Plausible(2**28, 2**44, "bytes (not GB)"),
    "memory_bandwidth_bytes_per_s": Plausible(1e9, 1e15, "bytes/s (not GB/s)"),
    "peak_flops": Plausible(1e11, 1e18, "FLOP/s (not TFLOP/s)"),
    "multiprocessors": Plausible(1, 10_000, "units of a device"),
    "tdp_w": Plausible(5, 20_000, "watts"),
    "idle_w": Plausible(0.1, 5_000, "watts"),
    "devices_per_node": Plausible(1, 10_000, "devices of a server"),
    "nics_per_node": Plausible(1, 10_000, "network adapters of a server"),
    "bandwidth_bytes_per_s": Plausible(1e6, 1e14, "bytes/s (not GB/s)"),
    "latency_s": Plausible(1e-9, 0.1, "seconds (not microseconds)"),
    "endpoint_s": Plausible(1e-9, 0.1, "seconds (not microseconds)"),
    "efficiency": Plausible(0.01, 1, "a share (not percent)"),
    "duplex": Plausible(0.5, 1, "a share (not percent)"),
    "cpu_memory_bytes": Plausible(2**28, 2**48, "bytes (not GB)"),
    "cpu_memory_bandwidth_bytes_per_s": Plausible(1e8, 1e14, "bytes/s (not GB/s)"),
}
"""By the names of the fields; those of links stand for both links of a node and for `cluster.link_*`."""
