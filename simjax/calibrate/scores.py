"""Comparison of measured and simulated requests of a run, or of a part of it, and whether that is a good fit."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from simjax.engine.host.result import RequestLog, Result
from simjax.validate.compare import compare, measured_requests
from simjax.validate.run import MeasuredRun

# Errors of means, in percent, beyond which a fit is called poor: a calibrated profile does far better where the model holds.
POOR_PCT = {"ttft_s": 10.0, "tpot_s": 3.0, "e2e_s": 3.0}


def scored(measured: MeasuredRun, result: Result, requests: slice = slice(None)) -> dict[str, Any]:
    """`compare` of some of the requests, in order of arrival."""
    if requests == slice(None):
        return compare(measured, result)
    result = measured_requests(measured, result)
    names = [f.name for f in fields(MeasuredRun) if isinstance(getattr(measured, f.name), np.ndarray)]
    part = replace(measured, **{name: getattr(measured, name)[requests] for name in names})
    log = RequestLog(**{f.name: getattr(result.requests, f.name)[requests] for f in fields(RequestLog)})
    return compare(part, replace(result, requests=log))


def poor(report: dict[str, Any]) -> list[str]:
    """Reasons why a fit is poor, a few words each; empty when it is good."""
    reasons = []
    for metric, limit in POOR_PCT.items():
        error = report[metric]["mean"]["error_pct"]
        if error is None:
            reasons.append(f"{metric.removesuffix('_s').upper()} cannot be compared")
        elif abs(error) > limit:
            reasons.append(f"mean {metric.removesuffix('_s').upper()} {error:+.1f} %")
    return reasons
