"""From command-line overrides to a checked configuration object."""

from __future__ import annotations

import re
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simjax.config import schema
from simjax.config.explain import explain, unknown_option
from simjax.errors import SimjaxError
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
    _check_form(overrides)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            config = compose(config_name=command, overrides=overrides)
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise SimjaxError(explain(SCHEMAS[command], overrides, error)) from error
    _refuse_unknown(SCHEMAS[command], config)
    for number, group in enumerate(OmegaConf.select(config, "cluster.groups") or []):
        group_config(number, group)
    _refuse_ignored(overrides, config)
    return config


def typed(config: DictConfig) -> Any:
    """The configuration as an instance of its schema's dataclass.

    Raises:
        SimjaxError: a value is out of its range.
    """
    return OmegaConf.to_object(config)


def group_config(number: int, raw: Any) -> schema.GroupConfig:
    """An entry of `cluster.groups` (a mapping), checked against its schema.

    Raises:
        SimjaxError: it is no mapping, names an unknown key, or has a value of the wrong type.
    """
    where = f"cluster.groups[{number}]"
    if isinstance(raw, schema.GroupConfig):
        return raw
    if not isinstance(raw, dict | DictConfig):
        raise SimjaxError(f"{where}: a group is a mapping like {{instances: 2, device: h100}}, got {raw!r}")
    try:
        group = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema.GroupConfig), raw))
    except OmegaConfBaseException as error:
        raise SimjaxError(explain(schema.GroupConfig, [], error, where)) from error
    assert isinstance(group, schema.GroupConfig)
    return group


def _check_form(overrides: list[str]) -> None:
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip("+~ ") or key.startswith(("-", "~")):
            raise SimjaxError(f"'{override}' is not an option: options look like key=value (--help lists them)")
        if key.lstrip("+").startswith(("hydra.", "hydra/")):
            raise SimjaxError(f"'{override}' has no effect: Hydra's own settings are not used; out=DIR says where results go")


def _refuse_unknown(kind: type, config: DictConfig) -> None:
    """Raise for keys that `+key=value` added: nothing would read them."""
    known = OmegaConf.structured(kind)

    def walk(schema_node: DictConfig, node: DictConfig, path: str) -> None:
        for key in node:
            full = f"{path}{key}"
            if key not in schema_node:
                raise SimjaxError(unknown_option(kind, full))
            inner, outer = schema_node._get_node(key), node._get_node(key)
            if isinstance(inner, DictConfig) and isinstance(outer, DictConfig):
                walk(inner, outer, f"{full}.")

    walk(known, config, "")


def _refuse_ignored(overrides: list[str], config: DictConfig) -> None:
    """Raise for options of a run that another one leaves without effect."""
    file, groups = OmegaConf.select(config, "cluster.file"), OmegaConf.select(config, "cluster.groups")
    by_file = ("model", "device", "cluster.instances", "cluster.tensor_parallel_size", "cluster.link_bandwidth_bytes_per_s")
    by_file += ("cluster.link_latency_s",)
    winner, ignored = ("cluster.file", by_file) if file is not None else ("cluster.groups", ("cluster.instances",) if groups else ())
    for override in overrides:
        if override.partition("=")[0].lstrip("+") in ignored:
            raise SimjaxError(f"{override} has no effect beside {winner}, which says it itself; leave one of them out")
