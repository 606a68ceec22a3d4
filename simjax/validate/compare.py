"""Measured against simulated: the content of `validation.json`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from simjax.engine.host.result import RequestLog, Result
from simjax.errors import SimjaxError
from simjax.metrics.latency import Latencies, Statistics, latencies, statistics
from simjax.metrics.summary import duration_s
from simjax.validate.client import in_flight
from simjax.validate.run import MeasuredRun

METRICS = ("ttft_s", "tpot_s", "e2e_s")
COMPARED = ("mean", "p50", "p90", "p95", "p99")

Triple = dict[str, float | None]


def compare(measured: MeasuredRun, result: Result) -> dict[str, Any]:
    """Statistics and per-request errors of a simulation of the measured workload.

    Requests are paired by position: both sides are in arrival order, and of a simulation that replayed failed requests too, only the others
    are compared. Each side's latencies count from its own arrivals. An error is
    100 (simulated - measured) / measured; a per-request error is the mean of its absolute value over the pairs (MAPE).

    Returns:
        `ttft_s`, `tpot_s`, `e2e_s`: mean, p50, p90, p95, p99, each `{"measured", "simulated", "error_pct"}`; `per_request`:
        `ttft_mape_pct`, `tpot_mape_pct`, `e2e_mape_pct`; `makespan` (first arrival to last token, seconds) and `throughput`
        (`requests_per_s`, `output_tokens_per_s`) as triples; `in_flight`: `mean` and `peak` number of requests in flight as triples, and
        `drift_pct`, the mean over time of the absolute difference in percent of the measured mean; `requests`: the numbers `measured`,
        `finished` in the simulation, `failed` in the measured run, and `failed_replayed`. Numbers that do not exist, for example because
        no request finished, are None.

    Raises:
        SimjaxError: the two do not hold the same requests.
    """
    result = measured_requests(measured, result)
    _same_requests(measured, result)
    lat = latencies(result.requests)
    report: dict[str, Any] = {}
    for metric in METRICS:
        there, here = _masks(metric, measured, lat)
        report[metric] = _triples(statistics(getattr(measured, metric)[there]), statistics(getattr(lat, metric)[here]))
    report["per_request"] = {f"{m.removesuffix('_s')}_mape_pct": mape_pct(measured, lat, m) for m in METRICS}
    span, done = duration_s(result), result.requests.finished
    report["makespan"] = triple(measured.makespan_s, span)
    report["throughput"] = {
        "requests_per_s": triple(len(measured) / measured.makespan_s, int(done.sum()) / span if span else None),
        "output_tokens_per_s": triple(
            int(measured.output_tokens.sum()) / measured.makespan_s, int(result.requests.output_tokens[done].sum()) / span if span else None
        ),
    }
    report["in_flight"] = _in_flight(measured, result)
    others = measured.replayed_failed
    report["requests"] = {
        "measured": len(measured),
        "finished": int(done.sum()),
        "failed": measured.failed,
        "failed_replayed": 0 if others is None else len(others),
    }
    return report


def measured_requests(measured: MeasuredRun, result: Result) -> Result:
    """The result with only the requests that succeeded in the measured run, in its order; those that failed there are load alone."""
    others = measured.replayed_failed
    if others is None or len(result.requests.finished) != len(measured) + len(others):
        return result
    log = RequestLog(**{x.name: getattr(result.requests, x.name)[measured.places] for x in fields(RequestLog)})
    return replace(result, requests=log, due_s=None if result.due_s is None else result.due_s[measured.places])


def error_pct(measured: float | None, simulated: float | None) -> float | None:
    """100 (simulated - measured) / measured, None where it is not defined."""
    if measured is None or simulated is None or measured == 0:
        return None
    return 100.0 * (simulated - measured) / measured


def triple(measured: float | None, simulated: float | None) -> Triple:
    """A measured and a simulated number with the error between them."""
    return {"measured": measured, "simulated": simulated, "error_pct": error_pct(measured, simulated)}


def mape_pct(measured: MeasuredRun, lat: Latencies, metric: str) -> float | None:
    """Mean absolute per-request error of a metric in percent, over requests that have it on both sides; None when there are none."""
    there, here = _masks(metric, measured, lat)
    truth, guess = getattr(measured, metric), getattr(lat, metric)
    both = there & here & (truth > 0)
    if not both.any():
        return None
    return float(100.0 * np.mean(np.abs(guess[both] - truth[both]) / truth[both]))


def _in_flight(measured: MeasuredRun, result: Result) -> dict[str, Any]:
    """Numbers of requests in flight on both sides, each by its own clock that starts at the first arrival."""
    log, moments = result.requests, 2_000
    done = log.finished
    if not done.any():
        return {"mean": triple(None, None), "peak": triple(None, None), "drift_pct": None}
    begin_s = log.arrival_s[done].min()
    sent_s = measured.arrival_s - measured.arrival_s.min()
    at_s = np.linspace(0.0, measured.makespan_s, moments, endpoint=False)
    truth = in_flight(sent_s, sent_s + measured.e2e_s, at_s)
    guess = in_flight(log.arrival_s[done] - begin_s, log.finish_s[done] - begin_s, at_s)
    drift = 100.0 * float(np.abs(guess - truth).mean()) / float(truth.mean()) if truth.any() else None
    return {
        "mean": triple(float(truth.mean()), float(guess.mean())),
        "peak": triple(float(truth.max()), float(guess.max())),
        "drift_pct": drift,
    }


def _masks(metric: str, measured: MeasuredRun, lat: Latencies) -> tuple[np.ndarray, np.ndarray]:
    """The requests that have the metric in the recording, bool[R], and in the simulation, bool[R]."""
    if metric == "tpot_s":
        return measured.has_tpot, lat.has_tpot
    return np.ones(len(measured), bool), lat.finished


def _triples(measured: Statistics, simulated: Statistics) -> dict[str, Triple]:
    return {name: triple(measured[name], simulated[name]) for name in COMPARED}


def _same_requests(measured: MeasuredRun, result: Result) -> None:
    simulated = result.requests
    if len(simulated.finished) != len(measured):
        raise SimjaxError(f"{measured.source}: {len(measured)} requests were measured, but {len(simulated.finished)} were simulated")
    for name in ("prompt_tokens", "output_tokens"):
        truth, guess = getattr(measured, name), getattr(simulated, name)
        if (different := np.flatnonzero(truth != guess)).size:
            at = different[0]
            raise SimjaxError(
                f"{measured.source}: request {at} has {name}={truth[at]} measured, but {guess[at]} simulated; replay run.workload()"
            )
