"""`simjax validate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simjax.cli.compilation_cache import use_compilation_cache
from simjax.cli.output import console, progress, results_in, say, warn
from simjax.config.schema import ValidateConfig
from simjax.disk.files import write_file, write_json
from simjax.errors import SimjaxError

if TYPE_CHECKING:
    from simjax.validate.run import MeasuredRun


def execute(config: ValidateConfig, as_yaml: str) -> None:
    """Replay a measured run, print measured against simulated, write the report and plots."""
    if not config.measured:
        raise SimjaxError("no measured run given: simjax validate DIR")
    use_compilation_cache()
    from simjax.metrics import write_results
    from simjax.validate import compare, comparison_table, validate
    from simjax.validate.replay import release

    with results_in(config.out, "validate") as out:
        with progress("reading the measured run, compiling the simulator") as update:
            measured, done = validate(config, update)
        report = compare(measured, done.result) | {"release": release(measured, config)}
        write_json(report, out / "validation.json")
        write_results(done.result, out, gpus=done.cluster.num_devices, warnings=done.warnings)
        write_file(out / "config.yaml", as_yaml)
        if config.plots:
            from simjax.plot.studies.validation import plot_validation

            plot_validation(measured, done.result, out)
    warn(done.warnings)
    title = f"{measured.name}: {measured.model} on {measured.device}, TP{measured.tensor_parallel_size}"
    console().print(comparison_table(report, title, notes=(*measured.assumptions, *measured.replay_notes, _release(measured, config))))
    say(f"results in {out}")


def _release(measured: MeasuredRun, config: ValidateConfig) -> str:
    """The line that says whose defaults hold for flags that the run does not record."""
    from simjax.validate.replay import release

    why = f"the run has {measured.engine.vllm_version}" if config.backend.release is None else "as asked"
    return f"flags that are not recorded have the defaults of {release(measured, config)} ({why})"
