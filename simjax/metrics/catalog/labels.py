"""The metrics as figures, tables and `--help` print them."""

from __future__ import annotations

from simjax.metrics.catalog.entries import CATALOG
from simjax.metrics.catalog.metric import Catalog


def short_label(column: str, catalog: Catalog = CATALOG) -> str:
    """A column's label without its unit, such as "P99 TTFT"; a swept key, or a column that is not known, keeps its name."""
    return catalog[column].words if column in catalog else column


def label(column: str, catalog: Catalog = CATALOG) -> str:
    """A column's label with its unit, such as "P99 TTFT, s"; a swept key, or a column that is not known, keeps its name."""
    unit = catalog[column].unit if column in catalog else ""
    return f"{short_label(column, catalog)}, {unit}" if unit else short_label(column, catalog)


def listing(catalog: Catalog = CATALOG) -> list[tuple[str, str, str, str]]:
    """Name, unit, label and better end of every metric, in order; an empty string where it has no unit or no better end."""
    return [(metric.name, metric.unit, metric.words, metric.better or "") for metric in catalog.values()]
