"""Instances that are alike, as one group of a mixed cluster, with a name that says what they differ in from the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.cluster.instance import InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.deployment import Role


@dataclass(frozen=True)
class AlikeInstances:
    """The G groups of a cluster.

    Attributes:
        names: what tells each from the others.
        index: int32[N], the group of each instance.
    """

    names: tuple[str, ...]
    index: np.ndarray


def alike_instances(cluster: ClusterSpec) -> AlikeInstances | None:
    """The groups of a cluster in the order of their first instances; None where all instances are alike."""
    kinds: list[InstanceSpec] = []
    for one in cluster.instances:
        if one not in kinds:
            kinds.append(one)
    if len(kinds) < 2:
        return None
    columns = [column for column in zip(*map(_parts, kinds), strict=True) if len(set(column)) > 1]
    names = [", ".join(part for part in parts if part) for parts in zip(*columns, strict=True)] if columns else [""] * len(kinds)
    named = [name if name and names.count(name) == 1 else f"{name or 'group'} #{k}" for k, name in enumerate(names)]
    return AlikeInstances(tuple(named), np.array([kinds.index(one) for one in cluster.instances], np.int32))


def _parts(one: InstanceSpec) -> tuple[str, ...]:
    """What instances may differ in, from the most telling on."""
    p, limits = one.parallelism, one.limits
    return (
        one.model.name.split("/")[-1],
        one.device.name,
        "" if one.role is Role.BOTH else one.role.name.lower(),
        f"TP{p.tensor}",
        f"PP{p.pipeline}",
        f"DP{p.data}",
        f"max_num_seqs {limits.max_num_seqs}",
        f"max_num_batched_tokens {limits.max_num_batched_tokens}",
    )
