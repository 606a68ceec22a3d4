"""`simjax profile import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from simjax.cli.output import console, progress, results_in, say
from simjax.config.schema import ImportConfig
from simjax.errors import SimjaxError

if TYPE_CHECKING:
    from simjax.hub.job import Imported


def execute(config: ImportConfig, as_yaml: str) -> None:
    """Fit the operators of a database, print their errors, write the profile."""
    from simjax.hardware import load_device
    from simjax.hub.aiconfigurator import systems_folder
    from simjax.hub.job import import_operators
    from simjax.latency.profiles.file import generic_profile, load_profile, save_profile

    if not config.device:
        raise SimjaxError("no device given: simjax profile import DEVICE")
    device = load_device(config.device)
    folder = systems_folder(None if config.systems is None else Path(config.systems))
    base = generic_profile(device) if config.base is None else load_profile(Path(config.base))
    to_file = config.out is not None and config.out.endswith((".yaml", ".yml"))
    with results_in(str(Path(str(config.out)).parent) if to_file else config.out, "profile") as out:
        path = Path(str(config.out)) if to_file else out / "profile.yaml"
        with progress("fitting"):
            profile, found = import_operators(base, device, folder, config.only)
        save_profile(profile, path)
    console().print(f"operators of {device.name}: |fitted / measured - 1| of shapes that were left out", style="bold", highlight=False)
    console().print(error_table(found))
    say(f"profile in {path}")


def error_table(found: list[Imported]) -> Table:
    """A row for each operation and backend."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("operation", "backend", "shapes", "times", "median, %", "p90, %", "without factors, %"):
        table.add_column(name, justify="left" if name in ("operation", "backend") else "right")
    for x in found:
        f = x.fitted
        numbers = (f"{f.median_percent:.1f}", f"{f.p90_percent:.1f}", f"{f.roofline_percent:.1f}")
        table.add_row(x.key, x.backend or "all", f"{f.shapes:,}", f"{f.points:,}", *numbers)
    return table
