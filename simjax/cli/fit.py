"""`simjax profile fit`."""

from __future__ import annotations

from pathlib import Path

from simjax.cli.output import console, output_directory
from simjax.config.schema import FitConfig
from simjax.errors import SimjaxError


def execute(config: FitConfig, as_yaml: str) -> None:
    """Fit a profile to a bundle, print its errors, write it."""
    from simjax.latency.fit import fit_bundle
    from simjax.latency.fit_table import fit_table
    from simjax.latency.profile_file import save_profile

    if config.bundle is None:
        raise SimjaxError("no bundle given: simjax profile fit bundle=DIR")
    profile = fit_bundle(Path(config.bundle))
    if config.out is not None and config.out.endswith((".yaml", ".yml")):
        path = Path(config.out)
        output_directory(str(path.parent), "profile")
    else:
        path = output_directory(config.out, "profile") / "profile.yaml"
    save_profile(profile, path)
    console().print(fit_table(profile))
    console().print(f"profile in {path}", highlight=False, soft_wrap=True)
