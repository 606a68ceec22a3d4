"""The files of one run: summary.json, requests.csv, sessions.csv, timeseries.csv and links.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from simjax.disk.files import make_folder, write_json, write_table
from simjax.engine.host.ranks import RankLog
from simjax.engine.host.result import NEVER, HandoverLog, RequestLog, Result
from simjax.metrics.handover.report import handover_columns, links_frame
from simjax.metrics.sessions import pauses, sessions_frame
from simjax.metrics.slo import Slo
from simjax.metrics.steady.window import AUTOMATIC, Window
from simjax.metrics.summary import summarize
from simjax.metrics.timeseries import bin_edges, timeline
from simjax.workload.classes import RequestClasses
from simjax.workload.sessions import Sessions

_TIMES = ("arrival_s", "scheduled_s", "first_token_s", "finish_s")
_TIER_TIMES = ("tier_load_start_s", "tier_load_end_s")


def write_results(
    result: Result,
    out: Path,
    *,
    slo: Slo | None = None,
    gpus: int | None = None,
    interval_s: float | None = None,
    warnings: Sequence[str] = (),
    intervals: Mapping[str, object] | None = None,
    window: Window = AUTOMATIC,
) -> dict[str, object]:
    """Write a run's files into `out` (created when missing) and return the summary.

    `summary.json` is strict JSON. `requests.csv` has a row a request and empty cells for times that never came; `instance` is -1 for a
    request that was never routed, and `rank` is there where an instance has several. `timeseries.csv` is `timeline(result, interval_s)`; it
    is left out when the run has no leap log.
    `sessions.csv` is written when the workload has sessions, and `links.csv` (`links_frame`), in the bins of `timeseries.csv`, when the
    cluster has prefill and decode instances. Floats have the fewest digits that read back to the same double.

    Args:
        result: the run.
        out: the folder.
        slo: limits on the latencies, for attainment and goodput.
        gpus: GPUs of the cluster, for goodput per GPU.
        interval_s: width of the bins of `timeseries.csv` in seconds; None for the default of `timeline`.
        warnings: lines that come before those of `summarize`, such as the warnings of `simjax.job.Run`.
        intervals: content of the summary's key `intervals` (see `simjax.run_draws`); None to leave it out.
        window: what is left out of the metrics.

    Raises:
        SimjaxError: the interval is not positive, or makes too many bins.
    """
    summary = summarize(result, slo, gpus, warnings, window=window)
    if intervals is not None:
        summary["intervals"] = dict(intervals)
    bins = None if result.leaps is None else timeline(result, interval_s)  # before anything is written: the interval may be impossible
    make_folder(out)
    write_json(summary, out / "summary.json")
    tiers = result.tiers is not None
    requests = requests_frame(result.requests, result.sessions, result.due_s, result.handovers, result.ranks, result.classes, tiers)
    tables = {"requests.csv": requests, "timeseries.csv": bins}
    if bins is not None and result.handovers is not None:
        tables["links.csv"] = links_frame(result, bin_edges(bins))
    tables["sessions.csv"] = None if result.sessions is None else sessions_frame(result.requests, result.sessions)
    for name, table in tables.items():
        if table is not None:
            write_table(table, out / name)
    return summary


def requests_frame(
    requests: RequestLog,
    sessions: Sessions | None = None,
    due_s: np.ndarray | None = None,
    handovers: HandoverLog | None = None,
    ranks: RankLog | None = None,
    classes: RequestClasses | None = None,
    tiers: bool = False,
) -> pd.DataFrame:
    """The columns of `requests.csv`; times that never came are `pd.NA`.

    Of a client with a cap on its requests in flight, `due_s` is when its schedule asked for a request and `arrival_s` when it was sent.

    With `ranks`, `rank` is the number of the data-parallel rank within the instance, -1 for a request that was never routed.

    With `handovers`, `instance` is the decode instance, or the only one, and the further columns are those of `handover_columns`.

    With `tiers` there are the tokens that each request loaded from a KV tier, and the start and end of that copy on the instance's clock.

    With `classes` each request has the name of its class of service, or an empty one.

    With sessions each request has its session's name, its turn and `delay_s`, the pause in seconds after the answer that it waited for
    last (`pd.NA` when it waits for none). Played as a trace, each call then waits for the one before it in its session.
    """
    columns: dict[str, object] = {
        "request_id": np.arange(len(requests.finished)),
        "instance": requests.instance,
        "prompt_tokens": requests.prompt_tokens,
        "output_tokens": requests.output_tokens,
        "cached_tokens": requests.cached_tokens,
    }
    if ranks is not None:
        columns["rank"] = np.where(ranks.request >= 0, ranks.number[ranks.request], -1)
    if due_s is not None:
        columns["due_s"] = due_s
    if tiers:
        columns["tier_hit_tokens"] = requests.tier_hit_tokens
    for name in (*_TIMES, *(_TIER_TIMES if tiers else ())):
        times = getattr(requests, name)
        columns[name] = pd.arrays.FloatingArray(np.where(times == NEVER, 0.0, times), times == NEVER)
    if handovers is not None:
        columns |= handover_columns(handovers)
    columns["preemptions"] = requests.preemptions
    columns["status"] = _status(requests)
    if classes is not None:
        columns["class"] = np.array([*classes.names, ""], object)[classes.index]
    if sessions is not None:
        columns["session"] = np.array(sessions.names, object)[sessions.session]
        columns["turn"] = sessions.turn
        columns["delay_s"] = pauses(requests, sessions)
    return pd.DataFrame(columns)


def _status(requests: RequestLog) -> np.ndarray:
    """How far each request got: unsent (a closed loop never came to it), waiting, started or finished."""
    reached = np.select(
        [requests.finished, requests.scheduled_s != NEVER, requests.arrival_s != NEVER],
        ["finished", "started", "waiting"],
        default="unsent",
    )
    return reached.astype(object)
