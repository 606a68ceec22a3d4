"""`simjax calibrate`."""

from __future__ import annotations

from simjax.cli.compilation_cache import use_compilation_cache
from simjax.cli.interrupts import NOTHING, hint
from simjax.cli.output import console, moving_bar, results_in, say, warn
from simjax.config.calibrate import CalibrateConfig
from simjax.disk.files import write_file, write_json
from simjax.errors import PoorFitError, SimjaxError

STATE = "fit.unfinished"  # until the fit is done


def execute(config: CalibrateConfig, as_yaml: str) -> None:
    """Fit a profile to measured runs, print the errors, write the profile and its report.

    Raises:
        PoorFitError: the results are written, but the fit is poor.
    """
    if not (config.measured_paths() or config.tables or config.points.file):
        raise SimjaxError("nothing to fit to: simjax calibrate measured=[DIR,...], tables=[DIR,...] or points.file=FILE")
    use_compilation_cache()
    from simjax.calibrate.job import calibrate
    from simjax.calibrate.report import report_of, tables

    with results_in(config.out, "calibrate") as out:
        state = out / STATE
        go_on = f"what is done is in {out}; the same command{'' if config.out else f' with out={out}'} goes on from there"
        working = hint(lambda: go_on if state.exists() else NOTHING)
        with working, moving_bar("reading the measured runs, compiling the simulator") as move:
            done = calibrate(
                config,
                out / "profile.yaml",
                lambda step, most, loss: move(description="fitting", completed=step, total=most, count=f"loss {loss:,.1f}"),
                state,
            )
        write_json(report_of(done), out / "calibration.json")
        write_file(out / "config.yaml", as_yaml)
        if config.plots:
            from simjax.plot.studies.calibration import plot_calibration

            whole = {id(s.run): (s.measured, s.run.result) for s in done.scores}
            roles = {id(s.run): s.role for s in done.scores[::-1]}
            plot_calibration(
                list(whole.values()), done.rows, out, roles=[roles[key] for key in whole], correlation=done.posterior.correlation
            )
    console().print(tables(done))
    fit = done.fit
    say(f"loss {fit.loss_before:,.1f} to {fit.loss:,.1f} in {fit.steps} steps, {fit.seconds:.1f} s; profile in {out / 'profile.yaml'}")
    warn(done.warnings)
    if done.problems:
        warn(done.problems)
        raise PoorFitError(f"not calibrated well; see the warnings and {out / 'calibration.json'}")
