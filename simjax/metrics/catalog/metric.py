"""The record of a metric, and what its functions return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any, Literal

Better = Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Column:
    """The values of a metric: one a run, or one an instance.

    Attributes:
        values: a number an item, an array of numpy or JAX; any finite number where it is not known.
        known: bool of the same shape, whether the item has the metric.
    """

    values: Any
    known: Any


@dataclass(frozen=True)
class Metric:
    """An entry of the catalogue.

    Attributes:
        name: the column's name in results.csv, and the name that `outputs` and `objective.*` take.
        unit: unit of the values, such as "s" or "tokens/s"; "fraction" for 0 to 1, empty for a count.
        better: which end is the better one; None where neither is.
        words: label of the metric for figures and tables, without the unit.
        value: function of (what it reads, numpy or jax.numpy) that returns a `Column`. A `smooth` metric reads
            `simjax.metrics.catalog.clients.Clients`, in numpy or JAX; any other reads `simjax.metrics.catalog.runs.Runs` (a metric of
            instances: `simjax.metrics.catalog.instances.Instances`), in numpy.
        whole: whether the values are whole numbers.
        smooth: whether it has a derivative while the schedule is held. Counts of requests, blocks or steps have none: the schedule alone
            decides them.
        path: keys that lead to its place in summary.json; empty when the summary does not have it.
        needs: conditions for its place in the summary: "sessions" (the workload has sessions), "cap" (its client has a cap on requests in
            flight), "limits" (some `slo.*` is set), "gpus" (the number of GPUs is given), "roles" (there are prefill and decode
            instances), "speculation" (drafts were verified), "lockstep" (data-parallel ranks computed dummies), "tiers" (there are KV
            tiers), "power" (energy was simulated), "prices" (money or carbon was asked for).
        interval: whether the summary gives it an interval over draws of the profile's parameters.
    """

    name: str
    unit: str
    better: Better
    words: str
    value: Callable[[Any, ModuleType], Column]
    whole: bool = False
    smooth: bool = False
    path: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    interval: bool = False


Catalog = Mapping[str, Metric]
"""Metrics by name, in the order of the columns."""


def catalog_of(metrics: Iterable[Metric]) -> Catalog:
    """Metrics as a catalogue that cannot be changed.

    Raises:
        ValueError: two metrics have the same name.
    """
    found: dict[str, Metric] = {}
    for metric in metrics:
        if metric.name in found:
            raise ValueError(f"two metrics have the name {metric.name}")
        found[metric.name] = metric
    return MappingProxyType(found)


def always(values: Any, xp: ModuleType) -> Column:
    """The column of a metric that every item has."""
    return Column(values, xp.ones(values.shape, bool))


def ratio(numerator: Any, denominator: Any, xp: ModuleType) -> Column:
    """A quotient of two arrays of the same shape, which is known where the denominator is not 0."""
    known = denominator != 0
    return Column(numerator / xp.where(known, denominator, 1), known)


def cells(column: Column) -> list[float | int | None]:
    """The values of a column in numpy as plain Python numbers; None where they are not known."""
    values = column.values.tolist()
    if column.known.all():
        return values
    return [value if known else None for value, known in zip(values, column.known.tolist(), strict=True)]
