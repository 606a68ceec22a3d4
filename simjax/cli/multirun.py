"""`simjax run -m`: sweeps through Hydra's multirun, so that its sweepers, launchers and settings can be chosen."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simjax.cli.overrides import SHARD, Arguments, axes_override, sort_arguments
from simjax.config import compose
from simjax.config.explain import explain
from simjax.config.schema import RunConfig
from simjax.config.sweep import SweepConfig, read_space
from simjax.disk.paths import CONF
from simjax.errors import SimjaxError, closest
from simjax.explore.axes import parse_values
from simjax.explore.keys import check_key
from simjax.explore.values import format_value


def multirun(overrides: Sequence[str], show_config: bool = False) -> None:
    """Run `simjax run -m`.

    Args:
        overrides: the arguments after `-m`.
        show_config: only print the configuration, with the swept keys under `sweep.axes`.

    Raises:
        SimjaxError: any mistake in the arguments.
    """
    given = sort_arguments(overrides)
    if show_config:
        print(OmegaConf.to_yaml(compose.compose_config("run", [*given.fixed, *axes_override(given.swept)])), end="")
        return
    sweeper = next((x.partition("=")[2] for x in reversed(given.hydra) if x.startswith("hydra/sweeper=")), "simjax")
    if sweeper != "simjax":
        _check_jobs(given)
    swept = [compose.normal(f"{key}={_for_hydra(key, values, sweeper)}") for key, values in given.swept.items()]
    compose.register()
    try:
        with _as_main(["--multirun", *given.hydra, *given.fixed, *swept]):
            import hydra

            hydra.main(config_path=str(CONF), config_name="run", version_base="1.3")(_job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise SimjaxError(_explain(given, error)) from error


def _job(config: DictConfig) -> None:
    """The job that a launcher starts: a run or (a part of) a sweep. Results go to Hydra's directory unless `out` is set."""
    from simjax.cli.commands import run, sweep
    from simjax.cli.output import logged

    settings = HydraConfig.get()
    overrides = [str(override) for override in settings.overrides.task]
    with logged():
        config = compose.checked("run", config, overrides)
        if config.sweep.shard is not None:
            sweep.execute(config, overrides, out=str(settings.sweep.dir))
        elif compose.typed(config).sweep != SweepConfig():
            sweep.execute(config, overrides, out=str(settings.runtime.output_dir))
        else:
            config.out = config.out or str(settings.runtime.output_dir)
            run.execute(compose.typed(config), OmegaConf.to_yaml(config))


def _check_jobs(given: Arguments) -> None:
    """Raise for arguments that other sweepers than simjax's would handle wrongly."""
    for key in given.swept:
        if key != SHARD:
            check_key(key)
    shared = next((override for override in given.fixed if override.startswith("out=")), None)
    if shared is not None and SHARD not in given.swept:
        raise SimjaxError(f"{shared}: all jobs would write there; hydra.sweep.dir=DIR gives each a folder in DIR")


def _for_hydra(key: str, values: str, sweeper: str) -> str:
    """Swept values in Hydra's grammar, which has no linspace: our sweeper gets it in quotes, others get its numbers."""
    if read_space(values) is None:
        return values
    if sweeper == "simjax":
        return f"choice({format_value(values)})"
    return f"choice({','.join(map(format_value, parse_values(key, values)))})"


def _explain(given: Arguments, error: Exception) -> str:
    """One line for an error of Hydra or OmegaConf in a multirun."""
    text = f"{error}\n{error.__cause__}"
    if match := re.search(r"Could not find '(hydra/[^']+)/([^'/]+)'", text):
        known = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        return f"{match[1]}={match[2]}: there is no such option, or its package is not installed; {closest(match[2], known)}"
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{match[1]}: leave the + out: {match[1]} has a value, and yours replaces it"
    if match := re.search(r"(?:full_key: |Could not override ')(hydra\.[\w.]+)", text):
        return f"{match[1]}: Hydra has no such setting, or it takes other values"
    return explain(RunConfig, given.fixed, error)


@contextmanager
def _as_main(arguments: Sequence[str]) -> Iterator[None]:
    """Let `hydra.main` read these arguments and raise its errors; the state of the process is restored at the end."""
    argv, root = sys.argv, logging.getLogger()
    handlers, level, full = root.handlers[:], root.level, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["simjax", *arguments], "1"
    try:
        yield
    finally:
        sys.argv = argv
        root.handlers[:] = handlers
        root.setLevel(level)
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full
