"""Runs as rows of a table: the metrics of the catalogue, for thousands of runs at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from simjax.engine.host.result import Result
from simjax.metrics.catalog import CATALOG, Catalog
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.slo import NO_LIMITS, Slo
from simjax.metrics.summary import REQUESTS_NEEDED, numbers_of
from simjax.metrics.window import AUTOMATIC, Window

Row = dict[str, float | int | None]

METRICS: tuple[str, ...] = tuple(CATALOG)
"""The columns of a row, in order."""
WHOLE_METRICS = frozenset(name for name, metric in CATALOG.items() if metric.whole)
"""The columns that hold whole numbers."""

_BLOCK_ELEMENTS = 1 << 18  # requests of all runs taken together: bounds the memory (a dozen arrays of 2 MiB)


def result_row(result: Result, slo: Slo | None, gpus: int, window: Window = AUTOMATIC, catalog: Catalog = CATALOG) -> Row:
    """A run as a row: the metrics of the catalogue in its order, None for what is unknown.

    Args:
        result: the run.
        slo: limits for attainment and goodput; without them every finished request counts.
        gpus: GPUs of the cluster.
        window: what is left out of the metrics.
        catalog: the metrics.
    """
    return result_rows([result], [slo], [gpus], [window], catalog)[0]


def result_rows(
    results: Sequence[Result],
    slos: Sequence[Slo | None],
    gpus: Sequence[int],
    windows: Sequence[Window] | None = None,
    catalog: Catalog = CATALOG,
) -> list[Row]:
    """`result_row` of many runs, bit for bit, about ten times faster.

    Runs of the same number of requests are worked out together. It helps when runs of one workload share the very same `prompt_tokens`
    and `output_tokens` arrays, and when all their requests finished.

    Args:
        results: the runs.
        slos: the limits of each, see `result_row`.
        gpus: the GPUs of each.
        windows: what is left out of the metrics of each; None for the automatic windows.
        catalog: the metrics.
    """
    windows = [AUTOMATIC] * len(results) if windows is None else windows
    if not len(results) == len(slos) == len(gpus) == len(windows):
        raise ValueError(
            f"{len(results)} results, {len(slos)} limits, {len(gpus)} numbers of GPUs and {len(windows)} windows: "
            "there must be one of each a run"
        )
    rows: dict[int, Row] = {}
    names = tuple(catalog)
    for block in _blocks(results):
        runs = Runs.of(*([x[i] for i in block] for x in (results, [slo or NO_LIMITS for slo in slos], gpus, windows)))
        columns = [numbers_of(metric, runs) for metric in catalog.values()]
        rows.update({i: dict(zip(names, row, strict=True)) for i, row in zip(block, zip(*columns, strict=True), strict=True)})
    return [rows[i] for i in range(len(results))]


def row_of_summary(summary: Mapping[str, Any], catalog: Catalog = CATALOG) -> Row:
    """The metrics that have a place in summary.json, from a summary that has limits and GPUs; None for what it lacks."""
    row: Row = {}
    for metric in catalog.values():
        if metric.path:
            found: Any = summary
            for key in metric.path:
                found = None if found is None else found.get(key)
            row[metric.name] = int(found) if isinstance(found, bool) else found
    return row


def too_few(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """At most one line for a whole table: at how many of its points the latency percentiles rest on too few finished requests."""
    finished = [min(count, row["requests_measured"]) for row in rows if (count := row.get("requests_finished")) is not None]
    weak = {name: sum(0 < count < needed for count in finished) for name, needed in REQUESTS_NEEDED.items()}
    found = [f"{name} at {weak[name]:,} (it needs {needed})" for name, needed in REQUESTS_NEEDED.items() if weak[name]]
    if not found:
        return []
    points = f"{len(rows):,} point{'' if len(rows) == 1 else 's'}"
    # Not more seeds: a high percentile of few requests is near their largest latency, on average over seeds too.
    return [f"latency percentiles rest on too few finished requests, of {points}: {', '.join(found)}; raise workload.num_requests"]


def _blocks(results: Sequence[Result]) -> Iterator[list[int]]:
    """The runs that are taken together, by their places: equally many requests, and all of them finished or not in each of the runs."""
    kinds: dict[tuple[int, bool], list[int]] = {}
    for i, result in enumerate(results):
        finished = result.requests.finished
        kinds.setdefault((len(finished), bool(finished.all())), []).append(i)
    for (size, _), members in kinds.items():
        width = max(1, _BLOCK_ELEMENTS // max(size, 1))
        for start in range(0, len(members), width):
            yield members[start : start + width]
