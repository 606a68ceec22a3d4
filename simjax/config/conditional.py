"""All options of a schema that have effect under conditions: those that state them, and those that `cluster.groups` may replace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache, partial
from typing import Any

from simjax.config.cluster import GroupConfig
from simjax.options.condition import needs
from simjax.options.effect import Conditional, conditionals
from simjax.options.option import options

_OF_THE_RUN = {"model": "model", "device": "device", "tensor_parallel_size": "cluster.tensor_parallel_size"}
"""Keys of the run that a key of a group replaces; the others are under `scheduler`."""


@cache
def conditional_options(schema: type) -> tuple[Conditional, ...]:
    """The options of a command's schema that have effect under conditions."""
    known = {one.key: one for one in options(schema)}
    found = []
    for name in (field.name for field in fields(GroupConfig) if field.name != "instances"):
        key = _OF_THE_RUN.get(name, f"scheduler.{name}")
        if key in known and "cluster.groups" in known:
            otherwise = f"with cluster.groups, all of which have their own {name}"
            found.append(Conditional(key, known[key].default, (needs(("cluster.groups",), partial(_inherited, name), otherwise),)))
    return (*conditionals(schema), *found)


def _inherited(name: str, groups: list[Any]) -> bool:
    """Whether a group takes the value of the run."""
    return not groups or any(not isinstance(group, Mapping) or group.get(name) is None for group in groups)
