"""The results of a calibrated hand-over: the file that `simjax run` takes, `calibration.json`, and the tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from simjax.calibrate.handover.job import HELD_OUT, CalibratedHandover
from simjax.calibrate.posterior import unconstrained
from simjax.calibrate.report import OK, PROBLEMS
from simjax.config.disaggregation import FILE_SECTION
from simjax.disk.documents import with_digest
from simjax.disk.files import sha256_of, write_file


def save_handover(done: CalibratedHandover, path: Path, measured: Sequence[Path]) -> None:
    """Write the file that `disaggregation=FILE` takes: the fitted options, and where they come from."""
    names = [*done.space.names, *dict(done.space.fixed)]
    content = {
        FILE_SECTION: {name: getattr(done.rule, name) for name in names},
        "provenance": {
            "kind": "calibrated to measured hand-overs",
            "data": [{"file": str(one), "sha256": sha256_of(one)} for one in measured],
            "calibrated": date.today().isoformat(),
        },
        "intervals_90_pct": {row["name"]: [float(f"{row[end]:.4g}") for end in ("low", "high")] for row in done.rows},
    }
    write_file(path, with_digest(yaml.safe_dump(content, sort_keys=False, width=140)), sync=True)


def report_of(done: CalibratedHandover) -> dict[str, Any]:
    """The content of `calibration.json`.

    Returns:
        `status` ("calibrated", or "poor" with `problems`), `loss` (before, after, and in each round), `rounds`, `simulated` (candidates),
        `seconds`, `misfit`, `parameters` (see `fitted_rows`), `correlation`, `unconstrained` directions, `not_fitted` (name and reason),
        `times` (see `CalibratedHandover.scores`) and `warnings`.
    """
    before, after = done.loss
    return {
        "status": PROBLEMS if done.problems else OK,
        "problems": list(done.problems),
        "loss": {"before": before, "after": after, "rounds": done.fit.history},
        "rounds": done.fit.rounds,
        "simulated": done.fit.simulated,
        "seconds": done.fit.seconds,
        "misfit": done.posterior.misfit,
        "parameters": done.rows,
        "correlation": done.posterior.correlation.tolist(),
        "unconstrained": unconstrained(done.space, done.posterior),
        "not_fitted": done.not_fitted,
        "times": done.scores,
        "warnings": list(done.warnings),
    }


def tables(done: CalibratedHandover) -> RenderableType:
    """Tables of the errors of every kind of times and of the parameters, and what the measurements do not tell."""
    lines = [f"left as it is: {name} ({why})" for name, why in done.not_fitted.items()]
    for one in unconstrained(done.space, done.posterior):
        named = " with ".join(one["direction"]) or "several parameters together"
        lines.append(f"not told by these data: {named} (keeps {100 * one['kept']:.0f} % of the prior's variance)")
    return Group(_errors(done), Text(""), _parameters(done), *(Text(line, style="dim") for line in lines))


def _errors(done: CalibratedHandover) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("measured", style="bold")
    for name in ("count", "", "mean, %", "mean absolute, %", "greatest, %"):
        table.add_column(name, justify="left" if not name else "right")
    for score in done.scores:
        for label, key in (("before", "before"), ("fitted", "after"), ("held out", HELD_OUT)):
            if key in score:
                errors = [score[key][name] for name in ("mean_error_pct", "mape_pct", "max_error_pct")]
                cells = ["-" if x is None else f"{x:{sign}.2f}" for x, sign in zip(errors, ("+", "", ""), strict=True)]
                first = label == "before"
                table.add_row(score["name"] if first else "", str(score["count"]) if first else "", label, *cells)
    return table


def _parameters(done: CalibratedHandover) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("parameter", "value", "90 % interval", "prior", "known from data"):
        table.add_column(name, justify="left" if name == "parameter" else "right")
    for row in done.rows:
        scale, unit = (1e3, " ms") if row["unit"] == "s" else (1.0, "")
        value, low, high, prior = (f"{float(f'{row[key] * scale:.3g}'):g}" for key in ("value", "low", "high", "prior"))
        table.add_row(row["name"], f"{value}{unit}", f"{low} to {high}", prior, f"{100 * row['constrained']:.0f} %")
    return table
