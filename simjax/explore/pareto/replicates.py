"""Replicate seeds: means of designs over seeds, their confidence intervals, and differences between designs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit  # the quantile of Student's t; scipy.stats takes long to import

from simjax.errors import SimjaxError, closest
from simjax.explore.keys import SEED
from simjax.explore.pareto.objective import CI95
from simjax.explore.values import format_value
from simjax.metrics.rows import METRICS

_FINISHED = "finished"


def aggregate(table: pd.DataFrame, keys: Sequence[str], seed_key: str = SEED, expected: int | None = None) -> pd.DataFrame:
    """The mean of every metric over the replicates of each design, with its confidence interval.

    The interval covers the randomness of the workload: if the sweep were repeated with other seeds, 95 % of such intervals would contain
    the mean over all workloads that the configuration can draw (for metrics whose replicate values are about normal; the values themselves
    spread much wider). It does not cover the simulator's error against a real cluster. All designs see the same workloads, seed by seed,
    so the errors of their means are correlated: two designs may differ clearly although their intervals overlap. Compare them with
    `simjax.paired_difference`.

    Args:
        table: results, one row per point (`simjax.explore.store.table.read_results`).
        keys: the swept keys; the seed may be among them.
        seed_key: the column of the seeds. If a design has a seed twice, the last row counts.
        expected: number of seeds that each design should have; designs with fewer rows are incomplete.

    Returns:
        One row per design, in the order of their first points: the keys without the seed; `status`, "finished" if all replicates finished,
        else "incomplete"; `replicates`, the number of finished ones, which alone are used; and for each metric of the table `<metric>`, the
        mean, and `<metric>_ci95`, half the width of the two-sided 95 % Student-t interval, in the units of the metric. Replicates without a
        metric do not contribute to it; without any the mean is missing (NaN, an empty cell in the file), with fewer than two the
        half-width.

    Raises:
        SimjaxError: the table lacks a column.
    """
    names = [key for key in keys if key != seed_key]
    _need(table, [*names, seed_key, "status"])
    kept = ~pd.Series(_numbered(table, [*names, seed_key])).duplicated(keep="last").to_numpy()
    design, table = _numbered(table, names)[kept], table.loc[kept]
    finished = (table["status"] == _FINISHED).to_numpy(bool)
    count = int(design.max()) + 1 if len(design) else 0
    used = np.bincount(design[finished], minlength=count)
    wanted = np.bincount(design, minlength=count)
    whole = used == (wanted if expected is None else np.maximum(wanted, expected))
    found = table[names].iloc[np.unique(design, return_index=True)[1]].reset_index(drop=True)
    found["status"] = np.where(whole, _FINISHED, "incomplete").astype(object)
    found["replicates"] = used.astype(np.int64)
    metrics = [name for name in METRICS if name in table.columns]
    values = {name: _numbers(table[name])[finished] for name in metrics}
    groups: Any = pd.DataFrame(values, columns=pd.Index(metrics)).groupby(design[finished])
    mean, spread, size = (part.reindex(range(count)) for part in (groups.mean(), groups.std(), groups.count()))
    half = _half_width(spread.to_numpy(), size.to_numpy())
    columns = {}
    for i, name in enumerate(metrics):
        columns[name] = mean[name]
        columns[f"{name}{CI95}"] = half[:, i]
    return pd.concat([found, pd.DataFrame(columns, index=found.index)], axis=1)


@dataclass(frozen=True)
class PairedDifference:
    """The difference of a metric between two designs, over the seeds that both finished.

    Attributes:
        mean: mean of the differences, first design minus second, in the units of the metric.
        ci95: half the width of its two-sided 95 % Student-t interval; None for a single pair.
        pairs: number of seeds compared.
    """

    mean: float
    ci95: float | None
    pairs: int


def paired_difference(
    table: pd.DataFrame, design_a: Mapping[str, Any], design_b: Mapping[str, Any], metric: str, seed_key: str = SEED
) -> PairedDifference:
    """The mean difference of a metric between two designs, seed by seed.

    Both designs were simulated with the same workloads. Effects of a workload that both designs share cancel in each difference, so the
    interval is far narrower than those of the two means suggest.

    Args:
        table: results, one row per point.
        design_a: values of swept keys, such as {"scheduler.max_num_seqs": 64}, enough to identify one design.
        design_b: likewise.
        metric: a metric's column, such as ttft_p99_s.
        seed_key: the column of the seeds.

    Raises:
        SimjaxError: the table lacks a column, a design is not in it or not unique, or no seed finished with both.
    """
    _need(table, [metric, seed_key, "status", *design_a, *design_b])
    if metric not in METRICS:
        raise SimjaxError(f"{metric}: not a metric; {closest(metric, list(METRICS))}")
    a, b = (_by_seed(table, design, metric, seed_key) for design in (design_a, design_b))
    difference = (a - b).dropna().to_numpy(np.float64)
    if len(difference) == 0:
        raise SimjaxError(
            f"{_format_design(design_a)} and {_format_design(design_b)}: no seed for which both finished with a value of {metric}"
        )
    if len(difference) == 1:
        return PairedDifference(float(difference[0]), None, 1)
    half = _half_width(np.std(difference, ddof=1), np.array(len(difference)))
    return PairedDifference(float(np.mean(difference)), float(half), len(difference))


def _half_width(spread: Any, size: np.ndarray) -> np.ndarray:
    """Half-width of the 95 % Student-t interval of a mean of `size` values with sample standard deviation `spread`; NaN where size < 2."""
    enough = np.maximum(np.nan_to_num(size), 2)
    return np.where(size >= 2, stdtrit(enough - 1, 0.975) * spread / np.sqrt(enough), np.nan)


def _numbers(column: Any) -> np.ndarray:
    """A column as float64[rows], NaN where a cell is empty."""
    return column.to_numpy(np.float64, na_value=np.nan)


def _numbered(table: pd.DataFrame, names: list[str]) -> np.ndarray:
    """The number of each row's design, int64[rows], in the order in which designs first appear."""
    number = np.zeros(len(table), np.int64)
    for name in names:
        column = table[name]
        # Compared by repr: 1, 1.0, true and "1" are different values of a sweep, and lists cannot be hashed.
        codes = pd.factorize(column.map(repr) if column.dtype == object else column, use_na_sentinel=False)[0]
        number = pd.factorize(number * (int(codes.max(initial=0)) + 1) + codes)[0]
    return number


def _by_seed(table: pd.DataFrame, design: Mapping[str, Any], metric: str, seed_key: str) -> pd.Series:
    """The metric of the finished replicates of a design, by seed."""
    chosen = pd.Series(True, index=table.index)
    for key, value in design.items():
        text = format_value(value)  # tables read from files hold values other than numbers in the override grammar
        chosen &= np.array([cell is not pd.NA and cell in (value, text) for cell in table[key]], bool)
    rows = table.loc[chosen]
    if len(rows) == 0:
        raise SimjaxError(f"no point of the table has {_format_design(design)}")
    if rows[seed_key].duplicated().any():
        raise SimjaxError(f"{_format_design(design)} fits several points of a seed; give values of more of the swept keys")
    rows = rows.loc[(rows["status"] == _FINISHED).to_numpy(bool)]
    return pd.Series(_numbers(rows[metric]), index=rows[seed_key].to_numpy())


def _format_design(design: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={format_value(value)}" for key, value in design.items()) or "a design of no values"


def _need(table: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in table.columns:
            raise SimjaxError(f"the table has no column {name}; {closest(name, [str(column) for column in table.columns])}")
