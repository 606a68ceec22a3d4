"""The report of a calibration: `calibration.json`, and the tables on the terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from simjax.calibrate.job import Calibrated
from simjax.calibrate.posterior import unconstrained
from simjax.validate.compare import COMPARED, METRICS

OK, PROBLEMS = "calibrated", "poor"
_UNITS = {"factor": (1.0, "x"), "share": (1.0, ""), "s": (1e6, "µs")}


def report_of(calibrated: Calibrated) -> dict[str, Any]:
    """The content of `calibration.json`.

    Returns:
        `status` ("calibrated", or "poor" with `problems`), `warnings`, `loss` (before, after, and those of all starts), `seconds`, `steps`,
        `misfit`, `parameters` (see `parameter_rows`), `correlation` (of the fitted ones), `unconstrained` directions, `discrepancy`,
        `seen`, and `runs`: name, role, `before` and `after` as in `validation.json`.
    """
    fit, calibration = calibrated.fit, calibrated.profile.calibration
    assert calibration is not None
    return {
        "status": PROBLEMS if calibrated.problems else OK,
        "problems": list(calibrated.problems),
        "warnings": list(calibrated.warnings),
        "loss": {"before": fit.loss_before, "after": fit.loss, "starts": [float(x) for x in fit.losses]},
        "steps": fit.steps,
        "seconds": fit.seconds,
        "misfit": calibrated.posterior.misfit,
        "parameters": calibrated.rows,
        "correlation": calibrated.posterior.correlation.tolist(),
        "unconstrained": unconstrained(calibrated.space, calibrated.posterior),
        "discrepancy": calibration.discrepancy,
        "seen": asdict(calibration.seen),
        "runs": [
            {"name": s.measured.name, "model": s.measured.model, "role": s.role, "before": s.before, "after": s.after}
            for s in calibrated.scores
        ],
    }


def tables(calibrated: Calibrated) -> RenderableType:
    """Tables of the errors of every run and of the parameters."""
    return Group(_errors(calibrated), Text(""), _parameters(calibrated))


def _errors(calibrated: Calibrated) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("error, %", style="bold", overflow="fold")  # names of runs that begin alike stay apart
    table.add_column("")
    for metric in METRICS:
        for name in COMPARED:
            table.add_column(f"{metric.removesuffix('_s').upper()} {name}" if name == COMPARED[0] else name, justify="right")
    for s in calibrated.scores:
        for label, report in (("before", s.before), (s.role, s.after)):
            cells = [_signed(report[metric][name]["error_pct"]) for metric in METRICS for name in COMPARED]
            table.add_row(s.measured.name if label == "before" else "", label, *cells)
    return table


def _parameters(calibrated: Calibrated) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("parameter", "value", "90 % interval", "prior", "known from data"):
        table.add_column(name, justify="left" if name == "parameter" else "right")
    for row in calibrated.rows:
        if row["fitted"]:
            scale, unit = _UNITS[row["unit"]]
            value, low, high, prior = (f"{float(f'{row[key] * scale:.3g}'):,g}" for key in ("value", "low", "high", "prior"))
            known = "held" if row["held"] else f"{100 * row['constrained']:.0f} %"
            table.add_row(row["name"], f"{value} {unit}".strip(), f"{low} to {high}", prior, known)
    return table


def _signed(x: float | None) -> str:
    return "-" if x is None else f"{x:+.2f}"
