"""Configurations of many points: composed once for each choice of option groups, after which only the swept fields are set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simjax.config.compose import compose_config, given_keys, normal, typed, unset
from simjax.config.conditional import conditional_options
from simjax.config.explain import explain, group_options
from simjax.config.schema import RunConfig
from simjax.errors import SimjaxError
from simjax.explore.keys import PARAMETERS
from simjax.explore.values import format_value
from simjax.options.effect import Conditional, looking_at, unset_by_choice


class Options:
    """Typed configurations of points that share the base overrides and differ in some keys.

    Composing takes Hydra about 70 ms, setting a field of the composed dataclass microseconds. The schema converts every
    value once, as composing would.
    """

    def __init__(self, base: Sequence[str], keys: Sequence[str]) -> None:
        self.base = list(base)
        self.groups = tuple(key for key in keys if group_options(key))
        self._given = given_keys(map(normal, base))
        # Whether these options have an effect depends on the point, by the swept keys beside them; of all others it is known once.
        decisive = [(one, _decisive(one, keys)) for one in conditional_options(RunConfig)]
        self._open = [(one, swept) for one, swept in decisive if swept]
        self._settled = [one for one, swept in decisive if not swept]
        # By choice of groups: the configuration that Hydra composes, a copy in which values are set and read back, and the dataclasses.
        self._composed: dict[tuple[str, ...], tuple[DictConfig, DictConfig, RunConfig]] = {}
        self._converted: dict[tuple[str, str], Any] = {}

    def unresolved(self) -> DictConfig:
        """The base as Hydra composes it, interpolations unresolved."""
        return self._base({})[0]

    def config(self, values: Mapping[str, Any]) -> RunConfig:
        """The configuration with these values for swept keys; keys left out have the value of the base.

        Raises:
            SimjaxError: there is no such option, or a value is of the wrong type, out of its range or without effect.
        """
        _, scratch, config = self._base(values)
        for key, value in values.items():
            if key not in self.groups:
                config = _with(config, key.split("."), self._convert(scratch, key, value))
        if self._open:
            given = self._given | {key for key in values if key not in self.groups}
            found = [one for one, swept in self._open if swept <= values.keys()]  # a part of a design has its keys only
            for key, default in unset_by_choice(found, looking_at(config), given).items():
                config = _with(config, key.split("."), default)
        return config

    def _base(self, values: Mapping[str, Any]) -> tuple[DictConfig, DictConfig, RunConfig]:
        choices = tuple(f"{key}={format_value(values[key])}" for key in self.groups if key in values)
        if choices not in self._composed:
            raw = compose_config("run", [*self.base, *choices], swept=True)
            unset(raw, unset_by_choice(self._settled, looking_at(typed(raw)), self._given))
            self._composed[choices] = raw, raw.copy(), typed(raw)
        return self._composed[choices]

    def _convert(self, scratch: DictConfig, key: str, value: Any) -> Any:
        """A value as the field of that key holds it."""
        known = (key, format_value(value))
        if known not in self._converted:
            try:
                OmegaConf.update(scratch, key, value, merge=False, force_add=key.startswith(f"{PARAMETERS}."))
                found = OmegaConf.select(scratch, key)
                self._converted[known] = OmegaConf.to_object(found) if OmegaConf.is_config(found) else found
            except OmegaConfBaseException as error:
                raise SimjaxError(explain(RunConfig, [], error)) from error
        return self._converted[known]


def _decisive(one: Conditional, keys: Sequence[str]) -> frozenset[str]:
    """The swept keys, presets among them, that decide whether an option has an effect."""
    return frozenset(
        swept for swept in keys if any(key == swept or key.startswith(f"{swept}.") or swept.startswith(f"{key}.") for key in one.touched_by)
    )


def _with(config: Any, path: Sequence[str], value: Any) -> Any:
    """The dataclass or mapping with the value at the end of the path replaced; checks of ranges run again."""
    name, *rest = path
    if isinstance(config, dict):
        return {**config, ".".join(path): value}
    return replace(config, **{name: _with(getattr(config, name), rest, value) if rest else value})
