"""From command-line overrides to a checked configuration object."""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simjax.config import calibrate, capacity, schema, sweep
from simjax.config.cluster import ClusterConfig, GroupConfig
from simjax.config.conditional import conditional_options
from simjax.config.disaggregation import with_handover_files
from simjax.config.explain import explain, unknown_option
from simjax.config.scheduler import BackendConfig, SchedulerConfig
from simjax.disk.paths import CONF
from simjax.disk.stored import stored
from simjax.errors import SimjaxError
from simjax.options.effect import conditionals, looking_at, refuse_without_effect, unset_by_choice
from simjax.options.plain import is_plain, plain_value
from simjax.power.config import PowerConfig
from simjax.pricing.config import PriceConfig
from simjax.speculation.config import SpeculationConfig
from simjax.workload.config import WorkloadConfig

SCHEMAS: dict[str, type] = {
    "run": schema.RunConfig,
    "validate": schema.ValidateConfig,
    "calibrate": calibrate.CalibrateConfig,
    "capacity": capacity.CapacityConfig,
    "sensitivity": schema.SensitivityConfig,
    "explain": schema.ExplainConfig,
    "handover": calibrate.HandoverFitConfig,
    "power_fit": calibrate.PowerFitConfig,
    "describe": schema.DescribeConfig,
    "export": schema.ExportConfig,
    "fit": schema.FitConfig,
    "import_operators": schema.ImportConfig,
    "show_point": sweep.ShowPointConfig,
    "pareto": sweep.ParetoConfig,
}
"""The schema of every command; conf/COMMAND.yaml has its defaults."""

GROUPS: dict[str, type] = {
    "cluster": ClusterConfig,
    "scheduler": SchedulerConfig,
    "backend": BackendConfig,
    "speculation": SpeculationConfig,
    "power": PowerConfig,
    "price": PriceConfig,
    "workload": WorkloadConfig,
    "sweep": sweep.SweepConfig,
}
"""The schema of every group of presets, the files conf/GROUP/NAME.yaml of which GROUP=NAME chooses one."""

FREE_MAPPINGS = ("sweep.axes", "profile.parameters", "power.values", "parameters", "workload.models", "workload.classes")
"""Options that are mappings with keys of their own."""
_SETTABLE = re.compile(r"[a-z_]\w*(\.[a-z_]\w*)*", re.ASCII)
_FREE = re.compile(rf"^({'|'.join(map(re.escape, FREE_MAPPINGS))})([.=])")


def register() -> None:
    """Put the schemas into Hydra's config store; the YAML files under conf/ name them in their defaults lists."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    if f"base_{next(iter(SCHEMAS))}.yaml" in store.repo:
        return  # it takes as long as half a composition
    for name, node in SCHEMAS.items():
        store.store(name=f"base_{name}", node=node)
    for group, node in GROUPS.items():
        store.store(group=group, name=f"base_{group}", node=node)


def compose_config(command: str, overrides: list[str], swept: bool = False) -> DictConfig:
    """The composed configuration of a command, checked against its schema.

    Args:
        command: a key of `SCHEMAS`, which is also the name of a file under conf/.
        overrides: Hydra's grammar, `key=value`, with the short forms of `normal`.
        swept: whether the points of a sweep set further options, so that it is not known yet which of these have an effect.

    Raises:
        SimjaxError: an override is malformed, names an unknown key or option, has a value of the wrong type or no effect.
    """
    overrides = [normal(override) for override in with_handover_files(overrides)]
    check_form(overrides)
    config = _from_presets(command, overrides)
    if config is not None:
        return checked(command, config, overrides, swept, known=True)
    return checked(command, _by_hydra(command, overrides), overrides, swept)


def _by_hydra(command: str, overrides: list[str]) -> DictConfig:
    """The configuration that Hydra composes. Errors as for `compose_config`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    register()
    outer = GlobalHydra.instance().hydra  # a multirun composes its points too
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            return compose(config_name=command, overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise SimjaxError(explain(SCHEMAS[command], overrides, error)) from error
    finally:
        GlobalHydra.instance().hydra = outer


def _from_presets(command: str, overrides: list[str]) -> DictConfig | None:
    """The same configuration from what Hydra composed of the choices of presets, once for all values of other options.

    None where that does not do: something is wrong, which Hydra says best, or an override does more than set an option to a value.
    """
    choices = tuple(override for override in overrides if override.partition("=")[0] in GROUPS)
    values = [override.partition("=") for override in overrides if override not in choices]
    if not all(_SETTABLE.fullmatch(key) and is_plain(text) for key, _, text in values):
        return None
    try:
        config = pickle.loads(_composed(command, choices, _files()))
        for key, _, text in values:
            OmegaConf.update(config, key, plain_value(text), merge=True)
    except (SimjaxError, OmegaConfBaseException):
        return None
    return config


@functools.lru_cache(maxsize=64)
def _composed(command: str, choices: tuple[str, ...], files: tuple[str | bytes, ...]) -> bytes:
    """The pickled configuration of a command with presets, which has the keys of its schema only; kept on disk for other processes.

    Args:
        command: a key of `SCHEMAS`.
        choices: overrides that choose presets.
        files: names and contents of the files under conf/.
    """

    def make() -> bytes:
        config = _by_hydra(command, list(choices))
        _refuse_unknown(SCHEMAS[command], config)
        return pickle.dumps(config)

    return stored("composed", (command, *choices, "", *files), make)


def _files() -> tuple[str | bytes, ...]:
    return tuple(part for path in sorted(CONF.rglob("*.yaml")) for part in (str(path.relative_to(CONF)), path.read_bytes()))


def checked(command: str, config: DictConfig, overrides: list[str], swept: bool = False, known: bool = False) -> DictConfig:
    """A configuration that Hydra composed from overrides, as `compose_config` returns it. Errors as there.

    Args:
        command: as there.
        config: the configuration.
        overrides: as there, in full.
        swept: as there.
        known: whether it has no keys but those of the schema, because no override could add one.
    """
    try:
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise SimjaxError(explain(SCHEMAS[command], overrides, error)) from error
    if not known:
        _refuse_unknown(SCHEMAS[command], config)
    for number, group in enumerate(OmegaConf.select(config, "cluster.groups") or []):
        group_config(number, group)
    if not (swept or (command == "run" and typed(config).sweep.asked)):
        unset(config, unset_by_choice(conditional_options(SCHEMAS[command]), looking_at(typed(config)), given_keys(overrides)))
    return config


def given_keys(overrides: Iterable[str]) -> set[str]:
    """The keys that overrides set, without choices of presets."""
    return {key for override in overrides if (key := override.partition("=")[0].lstrip("+")) not in GROUPS}


def unset(config: DictConfig, defaults: Mapping[str, Any]) -> None:
    """Set options of a composed configuration, by key, to the defaults of the schema."""
    for key, default in defaults.items():
        OmegaConf.update(config, key, OmegaConf.structured(default) if is_dataclass(default) else default, merge=False)


def typed(config: DictConfig) -> Any:
    """The configuration as an instance of its schema's dataclass.

    Raises:
        SimjaxError: a value is out of its range.
    """
    return OmegaConf.to_object(config)


def group_config(number: int, raw: Any) -> GroupConfig:
    """An entry of `cluster.groups` (a mapping), checked against its schema.

    Raises:
        SimjaxError: it is no mapping, names an unknown key, or has a value of the wrong type or without effect.
    """
    where = f"cluster.groups[{number}]"
    if isinstance(raw, GroupConfig):
        return raw
    if not isinstance(raw, dict | DictConfig):
        raise SimjaxError(f"{where}: a group is a mapping like {{instances: 2, device: h100}}, got {raw!r}")
    try:
        group = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(GroupConfig), raw))
    except OmegaConfBaseException as error:
        raise SimjaxError(explain(GroupConfig, [], error, where)) from error
    assert isinstance(group, GroupConfig)
    refuse_without_effect(conditionals(GroupConfig, f"{where}."), looking_at(group, f"{where}."))
    return group


def normal(override: str) -> str:
    """An override in full: `profile=FILE` is short for `profile.file=FILE`, and mappings such as `sweep.axes={...}` take keys that no
    schema has.

    The names and constraints of `objective.*` need neither brackets nor the quotes that the shell takes away.
    """
    if override.startswith("objective."):
        return _quoted_objective(override)
    return _FREE.sub(r"++\1\2", re.sub(r"^profile=", "profile.file=", override))


def _quoted_objective(override: str) -> str:
    """`objective.subject_to=[a<=1,b>=2]` with its constraints in quotes, which Hydra's grammar wants; one name as a list of it."""
    key, _, value = override.partition("=")
    inner = re.fullmatch(r"\s*(\[?)([^\[\]{}()'\"$\\]*)(\]?)\s*", value)
    if inner is None or len(inner[1]) != len(inner[3]) or inner[2].strip() in ("", "null"):
        return override
    return f"{key}=[{','.join(repr(part.strip()) for part in inner[2].split(','))}]"


def check_form(overrides: list[str]) -> None:
    """Check that words are options of a single run.

    Raises:
        SimjaxError: one does not look like key=value, or is a setting of Hydra.
    """
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip("+~ ") or key.startswith(("-", "~")):
            raise SimjaxError(f"'{override}' is not an option: options look like key=value (--help lists them)")
        if key.lstrip("+").startswith(("hydra.", "hydra/")):
            raise SimjaxError(f"'{override}': Hydra's own settings affect sweeps only (-m); out=DIR names the directory of the results")


@functools.cache
def _schema(kind: type) -> DictConfig:
    """The schema of a command as a configuration, to be read only: it takes as long as a tenth of a composition."""
    return OmegaConf.structured(kind)


def _refuse_unknown(kind: type, config: DictConfig) -> None:
    """Raise for keys that `+key=value` added: nothing would read them."""
    known = _schema(kind)

    def walk(schema_node: DictConfig, node: DictConfig, path: str) -> None:
        for key in node:
            full = f"{path}{key}"
            if key not in schema_node:
                raise SimjaxError(unknown_option(kind, full))
            inner, outer = schema_node._get_node(key), node._get_node(key)
            if isinstance(inner, DictConfig) and isinstance(outer, DictConfig) and OmegaConf.get_type(inner) is not dict:
                walk(inner, outer, f"{full}.")

    walk(known, config, "")
