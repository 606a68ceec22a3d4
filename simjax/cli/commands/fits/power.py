"""`simjax power fit`."""

from __future__ import annotations

from pathlib import Path

from simjax.cli.compilation_cache import use_compilation_cache
from simjax.cli.output import progress, results_in, say, warn
from simjax.config.calibrate import PowerFitConfig
from simjax.disk.files import write_file, write_json
from simjax.errors import PoorFitError

FILE = "power.yaml"


def execute(config: PowerFitConfig, as_yaml: str) -> None:
    """Fit the power of devices to a meter's log, print what it says, write the device's file, the report and the figure.

    Raises:
        PoorFitError: the results are written, but the fit is poor.
    """
    use_compilation_cache()
    from simjax.calibrate.power.job import calibrate_power
    from simjax.calibrate.power.report import report_of, save_power

    with results_in(config.out, "power_fit") as out:
        with progress("reading the log, compiling the simulator") as on_progress:
            done = calibrate_power(config, on_progress)
        assert config.log is not None
        save_power(done, out / FILE, Path(config.log))
        write_json(report_of(done), out / "calibration.json")
        write_file(out / "config.yaml", as_yaml)
        if config.plots:
            from simjax.plot.power import plot_power_fit

            plot_power_fit(done.fit, out / "power_fit.png", f"{Path(config.log).name}: power by second")
    warn(done.run.warnings)
    fit, before, after = done.fit, done.before, done.device
    low, high = fit.interval_j()
    log = done.log
    say(f"log          {len(log.t_s):,} samples as of {log.kind}, {len(fit.measured_w):,} s; begun {fit.start_s:.1f} s before the run")
    say(f"a device     idle {before.idle_w:.4g} to {after.idle_w:.4g} W, clocks raised {before.standby_w:.4g} to {after.standby_w:.4g} W")
    say(f"             for {after.standby_s:g} s after work, steps {fit.factor:.3f} times what they were")
    say(f"a second     mean error {fit.mape_pct:.2f} %")
    say(f"energy       {fit.measured_j:,.0f} J measured, {fit.energy_j:,.0f} J fitted (90 %: {low:,.0f} to {high:,.0f})")
    held = "".join(f" power.{x}={getattr(config.power, x):g}" for x in ("clock", "cap_w") if getattr(config.power, x) not in (None, 1.0))
    say(f"results in {out}; simjax run power=utilization power.file={out / FILE} power.node=false{held}")
    if done.problems:
        warn(done.problems)
        raise PoorFitError(f"not calibrated well; see the warnings and {out / 'calibration.json'}")
