"""`simjax run`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simjax.caveat import grouped
from simjax.cli.compilation_cache import use_compilation_cache
from simjax.cli.output import console, moving_bar, progress, results_in, say, warn
from simjax.cluster.spec import ClusterSpec
from simjax.config.schema import RunConfig
from simjax.deployment import Role
from simjax.disk.files import write_file, write_table
from simjax.parallel.parallelism import SIZES

if TYPE_CHECKING:
    from simjax.job import Run
    from simjax.uncertainty.intervals import Draws


def execute(config: RunConfig, as_yaml: str) -> Run:
    """Simulate, print the summary, write the results."""
    use_compilation_cache()
    from simjax.job import measurement_window, run, service_levels
    from simjax.metrics import summary_table, write_results

    if config.uncertainty.draws:
        from simjax.uncertainty.intervals import check_source

        check_source(config)  # before the run, not after it
    window = measurement_window(config.metrics)
    with results_in(config.out, "run") as out:
        with progress("compiling the simulator") as update:
            done = run(config, update)
        draws = _draws(config, done) if config.uncertainty.draws else None
        if draws is not None:
            done = replace(done, warnings=grouped([*done.warnings, *draws.warnings]))
            write_table(draws.frame(), out / "draws.csv")
        intervals = None if draws is None else draws.intervals()
        slo = service_levels(config.slo)
        summary = write_results(
            done.result,
            out,
            slo=slo,
            gpus=done.cluster.num_devices,
            interval_s=config.timeline_interval_s,
            warnings=done.warnings,
            intervals=intervals,
            window=window,
        )
        write_file(out / "config.yaml", as_yaml)
        title = f"{describe_cluster(done.cluster)} · {done.workload.source}"
        if config.plots:
            from simjax.metrics.slo import NO_LIMITS
            from simjax.plot.run import plot_run

            plot_run(done.result, out, title, window, slo or NO_LIMITS, intervals)
    warn(done.warnings)
    console().print(summary_table(summary | {"warnings": _own_warnings(summary, done.warnings)}, title))
    say(f"results in {out}")
    return done


def _draws(config: RunConfig, done: Run) -> Draws:
    """The draws of a run, with a progress bar."""
    from simjax.uncertainty.intervals import run_draws

    with moving_bar("simulating draws") as move:
        return run_draws(config, done, lambda drawn, total: move(completed=drawn, total=total, count=f"{drawn:,} of {total:,}"))


def _own_warnings(summary: dict[str, object], printed: tuple[str, ...]) -> list[str]:
    """The warnings of the summary itself: all but the first ones, which are printed on their own."""
    lines = summary["warnings"]
    assert isinstance(lines, list)
    return lines[len(printed) :]


def describe_cluster(cluster: ClusterSpec) -> str:
    """A short description of a cluster: its kinds of instances with their counts."""
    kinds: dict[str, int] = {}
    for instance in cluster.instances:
        sizes = ((f"{name[0].upper()}P", getattr(instance.parallelism, name)) for name in SIZES)
        degree = "".join(f" {name}{size}" for name, size in sizes if size > 1)
        role = "" if instance.role is Role.BOTH else f" ({instance.role.value})"
        name = f"{instance.model.name.rpartition('/')[2]} on {instance.device.name}{degree}{role}"
        kinds[name] = kinds.get(name, 0) + 1
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in kinds.items())
