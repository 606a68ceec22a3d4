"""Trace formats: one module each, the readers of tables, of session files and of results, and the functions that read a file."""

from simjax.workload.formats.base import Reading, TraceFile, TraceFormat, TraceLengths
from simjax.workload.formats.read import ReadOptions, read_lengths, read_trace
from simjax.workload.formats.recognise import FORMATS

__all__ = ["FORMATS", "ReadOptions", "Reading", "TraceFile", "TraceFormat", "TraceLengths", "read_lengths", "read_trace"]
