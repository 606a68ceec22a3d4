"""The instances of a cluster, grouped by the profile that gives their step times and by what they run."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.latency.profiles.profile import LatencyProfile
from simjax.model import ModelSpec

Profiles: TypeAlias = MutableMapping[tuple, LatencyProfile]
"""Profiles that have been read already, for many clusters that share their models, devices and sources."""


@dataclass(frozen=True)
class InstanceGroup:
    """Instances of a cluster that run one model at one tensor-parallel degree and take their step times from one profile.

    Attributes:
        profile: the profile, with the parameters of the run's `LatencySource` applied.
        model: the model that the instances run.
        tensor_parallel_size: devices of each instance.
        indices: places of the instances in the cluster.
    """

    profile: LatencyProfile
    model: ModelSpec
    tensor_parallel_size: int
    indices: tuple[int, ...]


def instance_groups(cluster: ClusterSpec, source: LatencySource, known: Profiles | None = None) -> tuple[InstanceGroup, ...]:
    """The groups of a cluster, in the order of their first instances.

    Args:
        cluster: the instances; they must be kept alive as long as `known`, which identifies their models and devices by object.
        source: source of their step times, a profile.
        known: profiles read for other clusters; those of this one are added.

    Raises:
        SimjaxError: a profile is missing or malformed.
    """
    profiles: Profiles = {} if known is None else known
    found: list[InstanceGroup] = []
    for index, instance in enumerate(cluster.instances):
        degree = instance.parallelism.tensor
        key = (source, id(instance.model), id(instance.device), degree)
        if key not in profiles:
            profiles[key] = source.profile_of(instance.deployment)
        profile = profiles[key]
        for number, group in enumerate(found):
            if same_profile(group.profile, profile) and group.tensor_parallel_size == degree and group.model == instance.model:
                found[number] = replace(group, indices=(*group.indices, index))
                break
        else:
            found.append(InstanceGroup(profile, instance.model, degree, (index,)))
    return tuple(found)


def calibrated_groups(cluster: ClusterSpec, source: LatencySource, known: Profiles | None = None) -> tuple[InstanceGroup, ...]:
    """The groups whose profile has a calibration, and so ranges that a run may leave; none where step times come from measured tables.

    Arguments and errors are those of `instance_groups`; the profiles are without the parameters of the source.
    """
    if source.bundle_root is not None:
        return ()
    plain = LatencySource(profile=source.profile)  # parameters change no range: points that differ in them read one profile
    return tuple(group for group in instance_groups(cluster, plain, known) if group.profile.calibration is not None)


def same_profile(a: LatencyProfile, b: LatencyProfile) -> bool:
    """Whether two profiles of one `LatencySource` are the same."""
    return (a.source, a.device) == (b.source, b.device)
