"""From command-line overrides to a checked configuration object, with errors of one line."""

from __future__ import annotations

import re
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simjax.config import schema
from simjax.errors import SimjaxError, closest
from simjax.paths import CONF
from simjax.workload.config import WorkloadConfig

SCHEMAS: dict[str, type] = {
    "run": schema.RunConfig,
    "validate": schema.ValidateConfig,
    "describe": schema.DescribeConfig,
    "fit": schema.FitConfig,
}


def register() -> None:
    """Put the schemas into Hydra's config store; the YAML files under conf/ name them in their defaults lists."""
    store = ConfigStore.instance()
    for name, node in SCHEMAS.items():
        store.store(name=f"base_{name}", node=node)
    store.store(group="workload", name="base_workload", node=WorkloadConfig)
    store.store(group="scheduler", name="base_scheduler", node=schema.SchedulerConfig)


def compose_config(command: str, overrides: list[str]) -> DictConfig:
    """The composed configuration of a command, checked against its schema.

    Args:
        command: a key of `SCHEMAS`, which is also the name of a file under conf/.
        overrides: Hydra's grammar, `key=value`; `profile=FILE.yaml` is short for `profile.file=FILE.yaml`.

    Raises:
        SimjaxError: an override is malformed, names an unknown key or option, or has a value of the wrong type.
    """
    register()
    overrides = [re.sub(r"^profile=", "profile.file=", override) for override in overrides]
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise SimjaxError(f"'{override}' is not an option: options look like key=value (simjax {command} --help lists them)")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            config = compose(config_name=command, overrides=overrides)
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise SimjaxError(_one_line(command, error)) from error
    return config


def typed(config: DictConfig) -> Any:
    """The configuration as an instance of its schema's dataclass."""
    return OmegaConf.to_object(config)


def _one_line(command: str, error: Exception) -> str:
    """What Hydra says in a paragraph, as one line with a hint."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = f"{error}\n{root}"
    if match := re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')\s+full_key: (\S+)", text):
        key, full = match.groups()
        parent = full.rpartition(".")[0]
        return f"unknown option '{full}'; {closest(key, _keys(command, parent))}"
    if match := re.search(r"Could not override '([^']+)'\.\s*No match in the defaults list", text):
        return f"unknown option '{match[1]}'; {closest(match[1], _keys(command, ''))}"
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, name = match[1].rpartition("/")
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        return f"{group}={name}: there is no such option; {closest(name, options)}"
    if match := re.search(r"full_key: (\S+)", text):
        return f"{match[1]}: {str(root).strip().splitlines()[0]}"
    if isinstance(error, ConfigCompositionException) or "mismatched" in text or "token recognition" in text:
        return f"cannot read the options: {text.strip().splitlines()[0]}"
    return text.strip().splitlines()[0]


def _keys(command: str, parent: str) -> list[str]:
    node = OmegaConf.structured(SCHEMAS[command])
    if parent:
        node = OmegaConf.select(node, parent)
    return [str(key) for key in node] if isinstance(node, DictConfig) else []
