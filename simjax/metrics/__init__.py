"""Numbers, series, tables and files from the result of a run."""

from simjax.metrics.files import write_json, write_results
from simjax.metrics.latency import Latencies, latencies
from simjax.metrics.slo import Slo, goodput
from simjax.metrics.summary import summarize
from simjax.metrics.table import summary_table
from simjax.metrics.timeline import timeline

__all__ = ["Latencies", "Slo", "goodput", "latencies", "summarize", "summary_table", "timeline", "write_json", "write_results"]
