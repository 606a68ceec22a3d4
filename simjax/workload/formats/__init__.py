"""Trace formats: one module each, the readers of tables and of session files, and the function that recognises and reads a file."""

from simjax.workload.formats.base import TraceFile, TraceFormat
from simjax.workload.formats.read import FORMATS, TraceLengths, read_lengths, read_trace

__all__ = ["FORMATS", "TraceFile", "TraceFormat", "TraceLengths", "read_lengths", "read_trace"]
