"""`simjax run -m`: sweeps through Hydra's multirun, so that its sweepers, launchers and settings can be chosen."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simjax.config import compose
from simjax.config.explain import explain
from simjax.config.schema import RunConfig
from simjax.config.sweep import SweepConfig
from simjax.errors import SimjaxError, closest
from simjax.explore.axes import axis, parse_values
from simjax.explore.keys import canonical, check_key
from simjax.explore.values import format_value, read_override, shortened
from simjax.paths import CONF

SHARD = "sweep.shard"
_SPACE = re.compile(r"""(['"]?)\s*((?:lin|log|geom)space\s*\(.*\))\s*\1""", re.DOTALL)


@dataclass(frozen=True)
class Arguments:
    """The words of a multirun.

    Attributes:
        hydra: overrides of Hydra's own settings.
        fixed: overrides with one value.
        swept: keys with several values, and these values in Hydra's grammar or as "linspace(1,20,40)".
    """

    hydra: list[str]
    fixed: list[str]
    swept: dict[str, str]


def split(overrides: Sequence[str]) -> Arguments:
    """Sort the words of a multirun.

    Raises:
        SimjaxError: a word is no option, or sets what another one sets.
    """
    found, said = Arguments([], [], {}), dict[str, str]()
    for override in map(compose.normal, overrides):
        key, _, value = override.partition("=")
        if key.lstrip("+").startswith(("hydra.", "hydra/")):
            found.hydra.append(re.sub(r"^(hydra\.sweeper\.params[.=])", r"++\1", override))  # no schema has its keys
            continue
        compose.check_form([override])
        several = _SPACE.fullmatch(value.strip()) is not None or read_override(override).is_sweep_override()
        if several and re.match(r"\+[^+]", key):
            check_key(canonical(key[1:]))
            raise SimjaxError(f"{shortened(override)}: leave the + out: {key[1:]} has a value, and these replace it")
        key = canonical(key)
        if key in said:
            raise SimjaxError(f"{key} is given twice: {shortened(said[key])} and {shortened(override)}")
        said[key] = override
        if match := _SPACE.fullmatch(value.strip()):
            found.swept[key] = match[2]
        elif several:
            found.swept[key] = value
        else:
            found.fixed.append(override)
    return found


def multirun(overrides: Sequence[str], show_config: bool = False) -> None:
    """Run a multirun, as `simjax run -m` is asked to.

    Args:
        overrides: the words after `-m`.
        show_config: only print the configuration, with the swept keys under `sweep.axes`.

    Raises:
        SimjaxError: for all mistakes.
    """
    given = split(overrides)
    if show_config:
        print(OmegaConf.to_yaml(compose.compose_config("run", [*given.fixed, *_as_config(given.swept)])), end="")
        return
    sweeper = next((word.partition("=")[2] for word in reversed(given.hydra) if word.startswith("hydra/sweeper=")), "simjax")
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


def sweep(config: DictConfig, arguments: Sequence[str], params: Sequence[str], launcher: Launcher) -> Any:
    """What the sweeper plugin does with a multirun.

    Args:
        config: composed from the arguments with one value, with Hydra's own settings.
        arguments: the overrides of the command line, without those of Hydra's settings.
        params: overrides of `hydra.sweeper.params`, which the command line's replace.
        launcher: starts the jobs of a sweep whose `sweep.shard` has several values.

    Returns:
        What the launcher returned, None for a sweep in this process.
    """
    given, beside = split(arguments), split(params)
    if beside.fixed or beside.hydra:
        raise SimjaxError(
            f"hydra.sweeper.params: {(beside.fixed + beside.hydra)[0]}: it holds swept keys only; give one value on the command line"
        )
    fixed_keys = [canonical(override.partition("=")[0]) for override in given.fixed]
    swept = {key: values for key, values in (beside.swept | given.swept).items() if key not in fixed_keys}
    job = compose.checked("run", _without_hydra(config), given.fixed)
    shards = swept.pop(SHARD, None)
    asked = [override for override in config.hydra.overrides.hydra if override.startswith("hydra.sweep.dir=")]
    out = str(config.hydra.sweep.dir) if asked else None
    if shards is not None:
        return _launch_shards(given.fixed, swept, shards, out or str(config.hydra.sweep.dir), job, launcher)
    chosen = config.hydra.runtime.choices.get("hydra/launcher")
    if chosen != "basic":
        raise SimjaxError(
            f"hydra/launcher={chosen} has nothing to launch: a sweep is one process; {SHARD}=1/4,2/4,3/4,4/4 makes four jobs of it, "
            "hydra/sweeper=basic one a point"
        )
    from simjax.cli.commands.sweep import execute

    execute(job, given.fixed, [axis(key, values) for key, values in swept.items()], out)
    return None


def _launch_shards(fixed: list[str], swept: dict[str, str], shards: str, out: str, job: DictConfig, launcher: Launcher) -> Any:
    """One job a part of the sweep; the swept keys travel in `sweep.axes`."""
    from simjax.explore.from_config import base_of, check_base, points_of

    config: RunConfig = compose.typed(job)
    parts = [str(value) for value in _plain_values(f"{SHARD}={shards}")]
    for part in parts:
        replace(config.sweep, shard=part)  # refuses what is no part
    if config.sweep.resume is None:  # a mistake is told once, and not by each job
        points, _ = points_of(config.sweep, [axis(key, values) for key, values in swept.items()])
        check_base(base_of(fixed), points, job)
    shared = [*fixed, *_as_config(swept), *([] if config.out is not None else [f"out={format_value(out)}"])]
    returns = launcher.launch([[*shared, f"{SHARD}={part}"] for part in parts], initial_job_idx=0)
    for job_return in returns:
        _ = job_return.return_value  # raises what the job raised
    return returns


def _job(config: DictConfig) -> None:
    """What a launcher starts: a single run, or a sweep (a part of one); results go where Hydra says unless `out` is set."""
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
    """Raise for what other sweepers would do wrong with the words of a multirun."""
    for key in given.swept:
        if key != SHARD:
            check_key(key)
    shared = next((word for word in given.fixed if word.startswith("out=")), None)
    if shared is not None and SHARD not in given.swept:
        raise SimjaxError(f"{shared}: all jobs would write there; hydra.sweep.dir=DIR gives each a folder in DIR")


def _for_hydra(key: str, values: str, sweeper: str) -> str:
    """Swept values as Hydra's grammar has them: it knows no linspace, so ours travels in quotes, and others get its numbers."""
    if not _SPACE.fullmatch(values):
        return values
    if sweeper == "simjax":
        return f"choice({format_value(values)})"
    return f"choice({','.join(map(format_value, parse_values(key, values)))})"


def _as_config(swept: dict[str, str]) -> list[str]:
    """Swept keys as an override of `sweep.axes`."""
    axes = {key: [value for (value,) in axis(key, values).values] for key, values in swept.items() if key != SHARD}
    return [f"++sweep.axes={format_value(axes)}"] if axes else []


def _plain_values(override: str) -> list[Any]:
    from simjax.explore.values import plain

    return [plain(value) for value in read_override(override).sweep_iterator()]


def _without_hydra(config: DictConfig) -> DictConfig:
    job = config.copy()
    OmegaConf.set_struct(job, False)
    job.pop("hydra")
    OmegaConf.set_struct(job, True)
    return job


def _explain(given: Arguments, error: Exception) -> str:
    """One line for what Hydra or OmegaConf said in a multirun."""
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
def _as_main(words: Sequence[str]) -> Iterator[None]:
    """Let `hydra.main` read these words and raise its errors, and leave the process as it was."""
    argv, root = sys.argv, logging.getLogger()
    handlers, level, full = root.handlers[:], root.level, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["simjax", *words], "1"
    try:
        yield
    finally:
        sys.argv = argv
        root.handlers[:] = handlers
        root.setLevel(level)
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full
