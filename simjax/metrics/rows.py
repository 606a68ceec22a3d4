"""Runs as rows of a table: the metrics of the catalogue, for thousands of runs at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from simjax.engine.host.result import Result
from simjax.metrics.catalog import CATALOG, Catalog
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.slo import NO_LIMITS, Slo
from simjax.metrics.steady.window import AUTOMATIC, Window
from simjax.metrics.summary import REQUESTS_NEEDED, numbers_of

Row = dict[str, float | int | None]

METRICS: tuple[str, ...] = tuple(CATALOG)
"""The columns of a row, in order."""
WHOLE_METRICS = frozenset(name for name, metric in CATALOG.items() if metric.whole)
"""The columns that hold whole numbers."""

_BLOCK_ELEMENTS = 1 << 18  # requests of all runs taken together: bounds the memory (a dozen arrays of 2 MiB)


def result_row(result: Result, slo: Slo | None, gpus: int, catalog: Catalog = CATALOG, window: Window = AUTOMATIC) -> Row:
    """A run as a row: the metrics of the catalogue in its order, None for what is unknown.

    Args:
        result: the run.
        slo: limits for attainment and goodput; without them every finished request counts.
        gpus: GPUs of the cluster.
        catalog: the metrics.
        window: what is left out of the metrics.
    """
    return result_rows([result], [slo], [gpus], catalog, [window])[0]


def result_rows(
    results: Sequence[Result],
    slos: Sequence[Slo | None],
    gpus: Sequence[int],
    catalog: Catalog = CATALOG,
    windows: Sequence[Window] | None = None,
) -> list[Row]:
    """`result_row` of many runs, bit for bit, about ten times faster.

    Runs of the same number of requests are worked out together. It helps when runs of one workload share the very same `prompt_tokens`
    and `output_tokens` arrays, and when all their requests finished.

    Args:
        results: the runs.
        slos: the limits of each, see `result_row`.
        gpus: the GPUs of each.
        catalog: the metrics.
        windows: what is left out of the metrics of each; None for the automatic windows.
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
        limits, left_out = [slos[i] or NO_LIMITS for i in block], [windows[i] for i in block]
        runs = Runs.of([results[i] for i in block], limits, [gpus[i] for i in block], left_out)
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
    finished = [count for row in rows if (count := _counted(row)) is not None]
    weak = {name: sum(0 < count < needed for count in finished) for name, needed in REQUESTS_NEEDED.items()}
    found = [f"{name} at {weak[name]:,} (it needs {needed})" for name, needed in REQUESTS_NEEDED.items() if weak[name]]
    if not found:
        return []
    points = f"{len(rows):,} point{'' if len(rows) == 1 else 's'}"
    # Not more seeds: a high percentile of few requests is near their largest latency, on average over seeds too.
    return [f"latency percentiles rest on too few finished requests, of {points}: {', '.join(found)}; raise workload.num_requests"]


def _counted(row: Mapping[str, Any]) -> int | None:
    """About how many finished requests the latencies of a row rest on, None where it has no metrics."""
    finished, measured = row.get("requests_finished"), row.get("requests_measured")
    return finished if finished is None or measured is None else min(finished, measured)


def _blocks(results: Sequence[Result]) -> Iterator[list[int]]:
    """The runs that are taken together, by their places.

    They have equally many requests, all of them finished or not in each of the runs, and hand-overs or none.
    """
    kinds: dict[tuple[int, bool, bool], list[int]] = {}
    for i, result in enumerate(results):
        finished = result.requests.finished
        kinds.setdefault((len(finished), bool(finished.all()), result.handovers is None), []).append(i)
    for (size, _, _), members in kinds.items():
        width = max(1, _BLOCK_ELEMENTS // max(size, 1))
        for start in range(0, len(members), width):
            yield members[start : start + width]
