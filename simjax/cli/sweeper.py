"""The sweep behind `hydra/sweeper=simjax`: one process, or one job per part of the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from simjax.cli.overrides import SHARD, axes_override, sort_arguments
from simjax.config import compose
from simjax.config.schema import RunConfig
from simjax.errors import SimjaxError
from simjax.explore.axes import axis
from simjax.explore.keys import canonical
from simjax.explore.values import format_value, plain, read_override


def sweep(config: DictConfig, arguments: Sequence[str], params: Sequence[str], launcher: Launcher) -> Any:
    """Run the sweep of a multirun; the sweeper plugin calls this.

    Args:
        config: the configuration composed from the arguments with one value, with Hydra's own settings.
        arguments: the overrides of the command line, without those of Hydra's settings. Hydra passes them as text, so they are sorted
            again.
        params: the axes in `hydra.sweeper.params` as overrides, which those of the command line replace.
        launcher: launcher of the jobs of a sweep whose `sweep.shard` has several values.

    Returns:
        The results of the launcher, None for a sweep in this process.
    """
    given, configured = sort_arguments(arguments), sort_arguments(params)
    if configured.fixed or configured.hydra:
        raise SimjaxError(
            f"hydra.sweeper.params: {(configured.fixed + configured.hydra)[0]}: it holds swept keys only; "
            "give one value on the command line"
        )
    fixed_keys = [canonical(override.partition("=")[0]) for override in given.fixed]
    swept = {key: values for key, values in (configured.swept | given.swept).items() if key not in fixed_keys}
    job = compose.checked("run", _without_hydra(config), given.fixed, swept=True)
    shards = swept.pop(SHARD, None)
    chosen_dir = [override for override in config.hydra.overrides.hydra if override.startswith("hydra.sweep.dir=")]
    out = str(config.hydra.sweep.dir) if chosen_dir else None
    if shards is not None:
        return _launch_shards(given.fixed, swept, shards, out or str(config.hydra.sweep.dir), job, launcher)
    chosen = config.hydra.runtime.choices.get("hydra/launcher")
    if chosen != "basic":
        raise SimjaxError(
            f"hydra/launcher={chosen} has nothing to launch: a sweep is one process; {SHARD}=1/4,2/4,3/4,4/4 makes four jobs of it, "
            "hydra/sweeper=basic one per point"
        )
    from simjax.cli.commands.sweep import execute

    execute(job, given.fixed, [axis(key, values) for key, values in swept.items()], out)
    return None


def _launch_shards(fixed: list[str], swept: dict[str, str], shards: str, out: str, job: DictConfig, launcher: Launcher) -> Any:
    """Launch one job per part of the sweep; the swept keys are passed in `sweep.axes`."""
    from simjax.explore.from_config import base_of, check_base, points_of

    config: RunConfig = compose.typed(job)
    parts = [str(value) for value in _plain_values(f"{SHARD}={shards}")]
    for part in parts:
        replace(config.sweep, shard=part)  # raises if it is not a part
    if config.sweep.resume is None:  # reports a mistake once, not once per job
        points, _ = points_of(config.sweep, [axis(key, values) for key, values in swept.items()])
        check_base(base_of(fixed), points, job)
    shared = [*fixed, *axes_override(swept), *([] if config.out is not None else [f"out={format_value(out)}"])]
    returns = launcher.launch([[*shared, f"{SHARD}={part}"] for part in parts], initial_job_idx=0)
    for job_return in returns:
        _ = job_return.return_value  # raises the error of the job, if any
    return returns


def _plain_values(override: str) -> list[Any]:
    return [plain(value) for value in read_override(override).sweep_iterator()]


def _without_hydra(config: DictConfig) -> DictConfig:
    job = config.copy()
    OmegaConf.set_struct(job, False)
    job.pop("hydra")
    OmegaConf.set_struct(job, True)
    return job
