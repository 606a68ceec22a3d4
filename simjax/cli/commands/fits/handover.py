"""`simjax handover fit`."""

from __future__ import annotations

from pathlib import Path

from simjax.cli.compilation_cache import use_compilation_cache
from simjax.cli.output import console, moving_bar, results_in, say, warn
from simjax.config.calibrate import HandoverFitConfig
from simjax.disk.files import write_file, write_json
from simjax.errors import PoorFitError

FILE = "handover.yaml"


def execute(config: HandoverFitConfig, as_yaml: str) -> None:
    """Fit a hand-over to measured transfers and requests, print the errors, write its file and its report.

    Raises:
        PoorFitError: the results are written, but the fit is poor.
    """
    use_compilation_cache()
    from simjax.calibrate.handover.job import calibrate_handover
    from simjax.calibrate.handover.report import report_of, save_handover, tables

    with results_in(config.out, "handover") as out:
        with moving_bar("reading the measurements, compiling the simulator") as move:
            done = calibrate_handover(
                config, lambda step, most, loss: move(description="fitting", completed=step, total=most, count=f"loss {loss:,.1f}")
            )
        save_handover(done, out / FILE, [Path(path) for path in (config.transfers, config.requests) if path is not None])
        write_json(report_of(done), out / "calibration.json")
        write_file(out / "config.yaml", as_yaml)
    warn(done.warnings)
    console().print(tables(done))
    before, after = done.loss
    say(f"loss {before:,.1f} to {after:,.1f} in {done.fit.rounds} rounds, {done.fit.seconds:.1f} s; simjax run disaggregation={out / FILE}")
    if done.problems:
        warn(done.problems)
        raise PoorFitError(f"not calibrated well; see the warnings and {out / 'calibration.json'}")
