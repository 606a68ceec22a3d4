"""Measured requests of a cluster with prefill and decode instances, simulated with many hand-overs side by side.

What is compared is as near to the hand-over as the record comes. With the end of the prefill and the start of the transfer it is the time
between the two; with the end of the prefill alone, the time from there to the client's first token; with neither, the time to first token,
which holds the queue and the prefill, too, so that their errors go into the hand-over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from simjax.batch.design import Design, RunOptions, design_of, known_warnings, required_timings
from simjax.batch.execute import run_designs
from simjax.batch.groups import make_groups
from simjax.batch.workers import local_workers
from simjax.calibrate.handover.observed import Part
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.engine.host.lower import with_more_rows
from simjax.engine.host.lowering.requests import request_params
from simjax.engine.host.result import Result
from simjax.engine.params import RequestParams
from simjax.engine.shape import requests_bucket
from simjax.errors import SimjaxError
from simjax.metrics.catalog import CATALOG
from simjax.validate.formats.fields import numeric, read_table
from simjax.validate.formats.results import read_result_run
from simjax.workload.workload import Workload

INDEPENDENT = 100.0  # requests of one run share its steps
SD = {"hand-over": 0.3, "transfer": 0.1, "prefill to first token": 0.15, "TTFT": 0.1}
"""Kinds of times, and standard deviations of the logarithm of one of them: a step of the decode instance may begin sooner or later."""
_LENGTHS = ("arrival_s", "prompt_tokens", "output_tokens")
_FIRST = ("ttft_s", "ttft_ms", "first_token_s")
_STAMPS = ("prefill_finish_s", "transfer_start_s", "transfer_end_s")
_DURATIONS = {"transfer_s": 1.0, "transfer_ms": 1e-3}


@dataclass(frozen=True)
class MeasuredRequests:
    """A measured run, ready to be simulated.

    Attributes:
        cluster: the cluster that served it.
        timing: its step times.
        workload: its requests, sorted by arrival.
        arrays: the workload as arrays, which all designs share.
        options: options of the simulations.
        parts: what was measured, by kind.
        rows: int[n] for each part, the requests that have it.
    """

    cluster: ClusterSpec
    timing: ClusterTiming
    workload: Workload
    arrays: RequestParams
    options: RunOptions
    parts: tuple[Part, ...]
    rows: tuple[np.ndarray, ...]

    @property
    def warnings(self) -> list[str]:
        """What is known before a simulation."""
        return known_warnings(self.cluster.instances, self.timing, self.workload.longest_tokens)

    def simulated_s(self, rules: Sequence[Disaggregation]) -> list[np.ndarray]:
        """Seconds with each of N hand-overs, f64[N, n] for each part; infinity where a request has not finished.

        Raises:
            SimjaxError: a request can never be served.
        """
        designs: dict[int, Design] = {}
        for number, rule in enumerate(rules):
            cluster = replace(self.cluster, disaggregation=rule)
            design = design_of(cluster, self.timing, self.workload, self.options, self.arrays)
            designs[number] = replace(design, lowered=with_more_rows(design.lowered) or design.lowered)
        kept, workers = dict[int, Result](), local_workers()
        few = {name: CATALOG[name] for name in ("requests_finished",)}
        # Room for the longest hand-overs, although most need less: all clouds then share one program.
        for rows in run_designs(designs, make_groups(designs, workers, roomy=True), workers, catalog=few, kept=kept):
            for row in rows:
                if row["status"] == "error":
                    raise SimjaxError(row["reason"])
        results = [kept[number] for number in designs]
        return [np.stack([times_of(result, part.name)[own] for result in results]) for part, own in zip(self.parts, self.rows, strict=True)]


def times_of(result: Result, kind: str) -> np.ndarray:
    """Times of a kind of `SD` of all requests, f64[R], seconds; infinity where there is none."""
    log, moved = result.requests, result.handovers
    assert moved is not None
    begin, end = {
        "hand-over": (moved.prefill_finish_s, moved.transfer_start_s),
        "transfer": (moved.transfer_start_s, moved.transfer_end_s),
        "prefill to first token": (moved.prefill_finish_s, log.first_token_s),
        "TTFT": (log.arrival_s, log.first_token_s),
    }[kind]
    there = np.isfinite(begin) & np.isfinite(end)
    return np.where(there, np.where(there, end, 0.0) - np.where(there, begin, 0.0), np.inf)


def read_requests(path: Path, cluster: ClusterSpec, source: LatencySource) -> MeasuredRequests:
    """Read measured requests: a CSV table, or the result file of a load generator.

    The table has arrival_s, prompt_tokens, output_tokens and one of ttft_s, ttft_ms, first_token_s; and where they were recorded
    prefill_finish_s, transfer_start_s and transfer_end_s, on the clock of arrival_s, or transfer_s or transfer_ms. The requests.csv of
    `simjax run` is one.

    Raises:
        SimjaxError: the file is no such table, a cell is no number or cannot be, or a request can never be served.
    """
    if not cluster.disaggregated:
        raise SimjaxError("a hand-over needs a prefill and a decode instance")
    if not path.is_file():
        raise SimjaxError(f"{path}: no such file of measured requests")
    workload, times = _of_table(path) if path.name.endswith((".csv", ".csv.gz")) else _of_results(path)
    parts, rows = [], []
    for kind, seconds in times.items():
        (own,) = np.nonzero(np.isfinite(seconds))
        if len(own):
            parts.append(Part(kind, seconds[own], SD[kind], INDEPENDENT))
            rows.append(own)
    if not parts:
        raise SimjaxError(f"{path}: no request has a time to compare with")
    (timing,) = required_timings([cluster.instances], [source], [workload])
    arrays = request_params([workload], requests_bucket(len(workload)), [0])
    return MeasuredRequests(cluster, timing, workload, arrays, RunOptions(), tuple(parts), tuple(rows))


def _of_results(path: Path) -> tuple[Workload, dict[str, np.ndarray]]:
    run = read_result_run(path)
    return run.workload(), {"TTFT": run.ttft_s}


def _of_table(path: Path) -> tuple[Workload, dict[str, np.ndarray]]:
    table = read_table(path, _LENGTHS)
    arrival_s, prompt, output = (numeric(table, name, path) for name in _LENGTHS)
    for name, tokens in (("prompt_tokens", prompt), ("output_tokens", output)):
        _refuse(path, tokens < 1, lambda i, name=name, tokens=tokens: f"{name}={tokens[i]:g}: it must be at least 1")
    first = next((name for name in _FIRST if name in table), None)
    if first is None:
        raise SimjaxError(f"{path}: no column gives the first token: {' or '.join(_FIRST)}; it has {', '.join(map(str, table.columns))}")
    shown_s = numeric(table, first, path)
    ttft_s = shown_s - arrival_s if first == "first_token_s" else shown_s * (1e-3 if first == "ttft_ms" else 1.0)
    _refuse(path, ttft_s <= 0, lambda i: f"{first}={shown_s[i]:g}: the first token comes after the arrival")
    order = np.argsort(arrival_s, kind="stable")
    begin_s = float(arrival_s[order[0]])
    workload = Workload(arrival_s[order] - begin_s, prompt[order].astype(np.int32), output[order].astype(np.int32), source=str(path))
    times = _kinds(table, path, arrival_s + ttft_s, ttft_s)
    return workload.validate(), {kind: seconds[order] for kind, seconds in times.items()}


def _kinds(table: pd.DataFrame, path: Path, first_token_s: np.ndarray, ttft_s: np.ndarray) -> dict[str, np.ndarray]:
    """The times that the record allows to compare, f64[R], NaN where a request has none."""
    finish_s, start_s, end_s = (_stamps(table, name, path) for name in _STAMPS)
    found: dict[str, np.ndarray] = {}
    with np.errstate(invalid="ignore"):
        if _later(finish_s, start_s):  # some connectors begin to send before the prefill has ended
            found["hand-over"] = start_s - finish_s
        elif _later(finish_s, first_token_s):
            found["prefill to first token"] = first_token_s - finish_s
        else:
            found["TTFT"] = ttft_s
        name = next((name for name in _DURATIONS if name in table), None)
        moving_s = end_s - start_s if name is None else _stamps(table, name, path) * _DURATIONS[name]
        if _later(np.zeros(len(table)), moving_s):
            found["transfer"] = moving_s
        elif np.isfinite(moving_s).any():
            (bad,) = np.nonzero(moving_s <= 0)
            raise SimjaxError(f"{path}:{bad[0] + 2}: its transfer lasts {moving_s[bad[0]]:g} s: it must be positive")
    return found


def _stamps(table: pd.DataFrame, name: str, path: Path) -> np.ndarray:
    """The cells of a column that may be missing, or empty in some rows: NaN there."""
    if name not in table:
        return np.full(len(table), np.nan)
    there = table[name].notna().to_numpy()
    found = np.full(len(table), np.nan)
    found[there] = numeric(table, name, path, there)
    return found


def _later(begin_s: np.ndarray, end_s: np.ndarray) -> bool:
    """Whether there are rows with both times, and the second one is later in all of them."""
    both = np.isfinite(begin_s) & np.isfinite(end_s)
    return bool(both.any() and (end_s > begin_s)[both].all())


def _refuse(path: Path, bad: np.ndarray, words: Callable[[int], str]) -> None:
    if bad.any():
        raise SimjaxError(f"{path}:{int(np.argmax(bad)) + 2}: {words(int(np.argmax(bad)))}")
