"""Numbers, series, tables and files from the result of a run; names are loaded when they are first used.

`simjax.metrics.catalog` lists the metrics. Importing it must not cost what the tables cost (pandas, rich): `--help` prints it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simjax.metrics.files import write_json as write_json
    from simjax.metrics.files import write_results as write_results
    from simjax.metrics.latency import Latencies as Latencies
    from simjax.metrics.latency import latencies as latencies
    from simjax.metrics.slo import Slo as Slo
    from simjax.metrics.summary import goodput as goodput
    from simjax.metrics.summary import summarize as summarize
    from simjax.metrics.table import summary_table as summary_table
    from simjax.metrics.timeseries import timeline as timeline

_PUBLIC = {
    "Latencies": "latency",
    "Slo": "slo",
    "goodput": "summary",
    "latencies": "latency",
    "summarize": "summary",
    "summary_table": "table",
    "timeline": "timeseries",
    "write_json": "files",
    "write_results": "files",
}
__all__ = ["Latencies", "Slo", "goodput", "latencies", "summarize", "summary_table", "timeline", "write_json", "write_results"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"simjax.metrics.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'simjax.metrics' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
