"""`simjax sensitivity`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from simjax.cli.compilation_cache import use_compilation_cache
from simjax.cli.output import console, moving_bar, results_in, say, warn
from simjax.config.schema import SensitivityConfig
from simjax.disk.files import write_file, write_json, write_table

if TYPE_CHECKING:
    from simjax.sensitivity.sensitivity import Effect, Sensitivity

_SURE = 2.0  # standard errors from 0 beyond which an effect is not noise
_NONE = 5e-4  # effects below round to 0.000
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


def execute(config: SensitivityConfig, as_yaml: str) -> Sensitivity:
    """Simulate on both sides of every parameter, print the largest effects, write the results."""
    use_compilation_cache()
    from simjax.sensitivity.sensitivity import sensitivity

    with results_in(config.out, "sensitivity") as out:
        with moving_bar("compiling the simulator") as move:
            done = sensitivity(
                config, lambda k, n: move(description="simulating", completed=k, total=n, count=f"{k:,} of {n:,} simulations")
            )
        write_table(done.frame(), out / "sensitivity.csv")
        write_json(done.report(), out / "sensitivity.json")
        write_file(out / "config.yaml", as_yaml)
        if config.plots:
            from simjax.plot.studies.sensitivity import plot_sensitivity

            values = {x.parameter: with_unit(x.value, x.unit) for x in done.effects if x.unit != "factor"}
            plot_sensitivity(done.report()["effects"], out / "sensitivity.png", values, _title(config, done))
    warn(done.warnings)
    console().print(_title(config, done), style="bold", highlight=False)
    console().print(effects_table(done))
    for line in (_legend(done), *(_without_gradient(done) if done.kind != "total" else [])):
        say(line)
    say(f"results in {out}")
    return done


def _title(config: SensitivityConfig, done: Sensitivity) -> str:
    count = len(done.seeds)
    means = "" if count == 1 else f", mean over {count} seeds"
    way = "schedule held" if done.kind == "pathwise" else f"step {done.step:.3g}"
    return f"Effect of 1 % more of a parameter, in percent ({way}{means})"


def effects_table(done: Sensitivity) -> Table:
    """A row for each parameter and a column for each output; for the first also the standard error and the gradient, if there is one."""
    from simjax.metrics.catalog import short_label

    first, *others = done.outputs
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("parameter", style="bold")
    table.add_column("value", justify="right")
    table.add_column(short_label(first), justify="right")
    errors = len(done.seeds) > 1 and done.kind != "pathwise"
    if errors:
        table.add_column("std. error", justify="right", style="dim")
    if done.kind == "both":
        table.add_column("gradient", justify="right", style="dim")
    for name in others:
        table.add_column(short_label(name), justify="right")
    for parameter in done.parameters:
        lead = done.effect(first, parameter)
        cells: list[str | Text] = [parameter, with_unit(lead.value, lead.unit), _cell(lead)]
        if errors:
            cells.append("" if lead.standard_error is None else f"{lead.standard_error:.3f}")
        if done.kind == "both":
            cells.append(_number(lead.gradient))
        table.add_row(*cells, *(_cell(done.effect(name, parameter)) for name in others))
    return table


def _cell(effect: Effect) -> Text:
    """The total effect, or the pathwise one where that alone was taken; dim where it is not distinguishable from 0."""
    shown = effect.gradient if effect.elasticity is None else effect.elasticity
    error = effect.standard_error or 0.0
    sure = shown is not None and abs(shown) > max(_SURE * error, _NONE)
    return Text(_number(shown), style="" if sure else "dim")


def _number(value: float | None) -> str:
    return "-" if value is None else "0" if abs(value) < _NONE else f"{value:+.3f}"


def with_unit(value: float | None, unit: str) -> str:
    """A parameter's value in few characters, such as "3.35 TB/s"; "mixed" where instances differ."""
    if value is None:
        return "mixed"
    if unit in ("bytes/s", "FLOP/s"):
        scale, prefix = next(((s, p) for s, p in _SCALES if value >= s), (1.0, ""))
        return f"{value / scale:,.4g} {prefix}{'B/s' if unit == 'bytes/s' else 'FLOP/s'}"
    if unit == "s":
        return f"{value * 1e3:.4g} ms" if value >= 1e-3 else f"{value * 1e6:.4g} us"
    if unit == "requests/s":
        return f"{value:.4g}/s"
    return f"{value:,.0f}" if unit in ("", "requests") else f"{value:.4g}"


def _legend(done: Sensitivity) -> str:
    dim = "dim: within two standard errors of 0; " if len(done.seeds) > 1 and done.kind != "pathwise" else ""
    words = {
        "both": "effect: total derivative, by differences of simulations; gradient: pathwise, with the schedule held; "
        "where they differ, scheduling matters",
        "total": "total derivatives, by differences of simulations",
        "pathwise": "pathwise derivatives, with the schedule held: too small at ordinary load, see kind=total",
    }
    return dim + words[done.kind]


def _without_gradient(done: Sensitivity) -> list[str]:
    """One line for each reason why parameters have no gradient, with their names."""
    named: dict[str, list[str]] = {}
    for name, why in done.by_differences.items():
        named.setdefault(why, []).append(name)
    return [f"by differences only: {', '.join(names)} ({why})" for why, names in named.items()]
