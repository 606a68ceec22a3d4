"""Measured against simulated: the content of `validation.json`."""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.engine.host.result import Result
from simjax.errors import SimjaxError
from simjax.metrics.latency import Latencies, Statistics, latencies, statistics
from simjax.metrics.summary import duration_s
from simjax.validate.run import MeasuredRun

METRICS = ("ttft_s", "tpot_s", "e2e_s")
COMPARED = ("mean", "p50", "p90", "p95", "p99")

Triple = dict[str, float | None]


def compare(measured: MeasuredRun, result: Result) -> dict[str, Any]:
    """Statistics and per-request errors of a simulation of the measured workload.

    Requests are paired by position: both sides are in arrival order. Each side's latencies count from its own arrivals. An error is
    100 (simulated - measured) / measured; a per-request error is the mean of its absolute value over the pairs (MAPE).

    Returns:
        `ttft_s`, `tpot_s`, `e2e_s`: mean, p50, p90, p95, p99, each `{"measured", "simulated", "error_pct"}`; `per_request`:
        `ttft_mape_pct`, `tpot_mape_pct`, `e2e_mape_pct`; `makespan` (first arrival to last token, seconds) and `throughput`
        (`requests_per_s`, `output_tokens_per_s`) as triples; `requests`: the numbers `measured`, and `finished` in the simulation.
        Numbers that do not exist, for example because no request finished, are None.

    Raises:
        SimjaxError: the two do not hold the same requests.
    """
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
    report["requests"] = {"measured": len(measured), "finished": int(done.sum())}
    return report


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
