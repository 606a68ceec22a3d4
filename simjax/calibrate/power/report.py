"""The results of a calibration of power: the file that `power.file` takes, and the content of `calibration.json`."""

from __future__ import annotations

from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from simjax.calibrate.power.job import CalibratedPower
from simjax.calibrate.report import OK, PROBLEMS
from simjax.disk.files import sha256_of, write_file

_DIGITS = 6


def save_power(done: CalibratedPower, path: Path, log: Path) -> None:
    """Write the file that `power.file` takes, with where its numbers come from."""
    values = {x.name: getattr(done.device, x.name) for x in fields(done.device) if x.name != "source"}
    content: dict[str, Any] = {name: float(f"{value:.{_DIGITS}g}") for name, value in values.items() if np.isfinite(value)}
    content["source"] = f"simjax power fit, {date.today().isoformat()}: {log.name}, sha256 {sha256_of(log)}; what the meter saw, by device"
    write_file(path, yaml.safe_dump(content, sort_keys=False, width=140), sync=True)


def report_of(done: CalibratedPower) -> dict[str, Any]:
    """The content of `calibration.json`.

    Returns:
        `status` ("calibrated", or "poor" with `problems`), `devices`, `log` (format, samples), `start_s` (of the run on the log's clock),
        of all devices together `rest_w`, `standby_w` (beyond that) and `standby_s`, `factor` (of the power of steps beyond standby),
        `limit` ("the boards'": steps keep it; "scaled": what the meter saw of it grows with the factor), `mape_pct` (of a second),
        and `energy_j`: measured, fitted and its 90 % interval.
    """
    fit = done.fit
    return {
        "status": PROBLEMS if done.problems else OK,
        "problems": list(done.problems),
        "devices": done.devices,
        "log": {"format": done.log.kind, "samples": len(done.log.t_s)},
        "start_s": fit.start_s,
        "rest_w": fit.rest_w,
        "standby_w": fit.standby_w,
        "standby_s": fit.standby_s,
        "factor": fit.factor,
        "limit": "the boards'" if fit.limited else "scaled",
        "mape_pct": fit.mape_pct,
        "energy_j": {"measured": fit.measured_j, "fitted": fit.energy_j, "interval_90_pct": list(fit.interval_j())},
    }
