"""All options of a schema that have effect under conditions.

Those are the options that state them, those of the run that groups or pools of instances replace, and those of pools without instances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache, partial
from typing import Any

from simjax.config.cluster import GroupConfig, PoolConfig
from simjax.options.condition import needs
from simjax.options.effect import Conditional, conditionals
from simjax.options.option import options

_OF_THE_RUN = {"model": "model", "device": "device"}
_OF_THE_RUN |= {
    name: f"cluster.{name}"
    for name in (
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "pipeline_layer_partition",
        "data_parallel_size",
        "enable_expert_parallel",
    )
}
"""Keys of the run that a key of a group replaces; the others are under `scheduler`."""
_POOLS = ("cluster.prefill", "cluster.decode")


@cache
def conditional_options(schema: type) -> tuple[Conditional, ...]:
    """The options of a command's schema that have effect under conditions."""
    known = {one.key: one for one in options(schema)}
    found = []
    if "cluster.groups" not in known:
        return conditionals(schema)
    in_pools = [field.name for field in fields(PoolConfig) if field.name != "instances"]
    for name in (field.name for field in fields(GroupConfig) if field.name not in ("instances", "role")):
        key = _OF_THE_RUN.get(name, f"scheduler.{name}")
        if key in known:
            own = [needs(("cluster.groups",), partial(_of_a_group, name), f"with cluster.groups, all of which have their own {name}")]
            if name in in_pools:
                own.append(needs(_POOLS, partial(_of_a_pool, name), f"with {' and '.join(_POOLS)}, which have their own {name}"))
            found.append(Conditional(key, known[key].default, tuple(own)))
    for key in (f"{pool}.{name}" for pool in _POOLS for name in in_pools):
        count = f"{key.rpartition('.')[0]}.instances"
        found.append(Conditional(key, known[key].default, (needs((count,), lambda instances: instances != 0, f"without {count}"),)))
    return (*conditionals(schema), *found)


def _of_a_group(name: str, groups: list[Any]) -> bool:
    """Whether a group takes the value of the run."""
    return not groups or any(not isinstance(group, Mapping) or group.get(name) is None for group in groups)


def _of_a_pool(name: str, *pools: PoolConfig) -> bool:
    """Whether a pool takes the value of the run, or there is none."""
    return not any(pool.instances for pool in pools) or any(getattr(pool, name) is None for pool in pools)
