"""`simjax profile fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from simjax.cli.output import console, progress, results_in, say
from simjax.config.schema import FitConfig
from simjax.errors import SimjaxError

if TYPE_CHECKING:
    from simjax.latency.profiles.profile import LatencyProfile


def execute(config: FitConfig, as_yaml: str) -> None:
    """Fit a profile to a bundle, print its errors, write it."""
    from simjax.latency.fitting.fit import fit_bundle
    from simjax.latency.profiles.file import save_profile

    if not config.bundle:
        raise SimjaxError("no bundle given: simjax profile fit DIR")
    to_file = config.out is not None and config.out.endswith((".yaml", ".yml"))
    folder = str(Path(str(config.out)).parent) if to_file else config.out
    with results_in(folder, "profile") as out:
        path = Path(str(config.out)) if to_file else out / "profile.yaml"
        with progress("fitting"):
            profile = fit_bundle(Path(config.bundle))
        save_profile(profile, path)
    console().print(f"{profile.model} on {profile.device}: |fitted / measured - 1|", style="bold", highlight=False)
    console().print(fit_table(profile))
    say(f"profile in {path}")


def fit_table(profile: LatencyProfile) -> Table:
    """Errors of the fitted times, a row for each operation: median and 90th percentile of the absolute errors, and the mean error."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("TP", "operation", "median, %", "p90, %", "mean, %"):
        table.add_column(name, justify="left" if name == "operation" else "right")
    for degree, operations in profile.provenance["errors"].items():
        for name, errors in operations.items():
            for kind in ("", "decode_", "mixed_") if name == "attention" else ("",):
                if f"{kind}median_pct" in errors:
                    numbers = [errors.get(f"{kind}{statistic}_pct") for statistic in ("median", "p90", "mean")]
                    label = f"{name}, {kind.removesuffix('_')}" if kind else name
                    table.add_row(str(degree), label, *("" if x is None else f"{x:.2f}" for x in numbers))
    return table
