"""Requests: trace formats, synthetic arrivals and lengths, their statistics."""

from simjax.workload.build import build_workload, load_trace, trace_reading
from simjax.workload.config import LengthConfig, PrefixConfig, WorkloadConfig
from simjax.workload.contents.prefixes import Prefixes
from simjax.workload.contents.reuse import Reuse, prefix_reuse
from simjax.workload.describe import WorkloadDescription, describe
from simjax.workload.description_table import describe_table
from simjax.workload.formats import Reading, ReadOptions, TraceFile, read_lengths, read_trace
from simjax.workload.sessions import Sessions
from simjax.workload.workload import Workload

__all__ = [
    "LengthConfig",
    "PrefixConfig",
    "Prefixes",
    "ReadOptions",
    "Reading",
    "Reuse",
    "Sessions",
    "TraceFile",
    "Workload",
    "WorkloadConfig",
    "WorkloadDescription",
    "build_workload",
    "describe",
    "describe_table",
    "load_trace",
    "prefix_reuse",
    "read_lengths",
    "read_trace",
    "trace_reading",
]
