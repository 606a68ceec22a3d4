"""`simjax profile fit`."""

from __future__ import annotations

from pathlib import Path

from simjax.cli.output import console, progress, results_in
from simjax.config.schema import FitConfig
from simjax.errors import SimjaxError


def execute(config: FitConfig, as_yaml: str) -> None:
    """Fit a profile to a bundle, print its errors, write it."""
    from simjax.latency.fit import fit_bundle
    from simjax.latency.fit_table import fit_table
    from simjax.latency.profile_file import save_profile

    if not config.bundle:
        raise SimjaxError("no bundle given: simjax profile fit bundle=DIR")
    to_file = config.out is not None and config.out.endswith((".yaml", ".yml"))
    folder = str(Path(str(config.out)).parent) if to_file else config.out
    with results_in(folder, "profile") as out:
        path = Path(str(config.out)) if to_file else out / "profile.yaml"
        with progress("fitting"):
            profile = fit_bundle(Path(config.bundle))
        save_profile(profile, path)
    console().print(fit_table(profile))
    console().print(f"profile in {path}", highlight=False, markup=False, soft_wrap=True)
