"""Trace formats: one module each, and the reader that recognises them."""

from simjax.workload.formats.base import TraceFile, TraceFormat
from simjax.workload.formats.read import FORMATS, TraceLengths, read_lengths, read_trace

__all__ = ["FORMATS", "TraceFile", "TraceFormat", "TraceLengths", "read_lengths", "read_trace"]
