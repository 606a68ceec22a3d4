"""The catalogue of metrics: one entry a metric, read by rows, summaries, gradients, objectives, figures and `--help`.

A new metric is one more `Metric` in `simjax.metrics.catalog.entries`, or in `simjax.metrics.catalog.instances` when each instance has its
own. Importing this package imports neither JAX nor pandas nor matplotlib.
"""

from simjax.metrics.catalog.entries import CATALOG
from simjax.metrics.catalog.instances import INSTANCE_CATALOG
from simjax.metrics.catalog.labels import label, listing, short_label
from simjax.metrics.catalog.metric import Catalog, Column, Metric

__all__ = ["CATALOG", "INSTANCE_CATALOG", "Catalog", "Column", "Metric", "label", "listing", "short_label"]
