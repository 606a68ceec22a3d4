"""Step times of the instances of clusters, from measured op tables or from latency profiles."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import jax
import numpy as np

from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.warnings import as_measured, foreign, of_experts, of_memory, of_stages, over_nodes
from simjax.deployment import Deployment
from simjax.disk.stored import stored
from simjax.errors import SimjaxError, value_or_error
from simjax.latency.attention.roofline import AttentionEfficiency
from simjax.latency.clocks import Clock, slowed
from simjax.latency.join import join_step_times
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.profile import HostOverheads, ValidRange
from simjax.latency.step_time import StepTime
from simjax.latency.tables.bundle import contents, find_bundle, read_bundle
from simjax.latency.tables.compile_tables import compile_tables
from simjax.latency.tables.curves import valid_range
from simjax.latency.warnings import profile_warnings, range_warnings
from simjax.power.source import PowerSource


@dataclass(frozen=True)
class ClusterTiming:
    """Step times of a cluster of N instances with C distinct step-time models.

    Attributes:
        step_time: leading axis C, host arrays.
        row: int32[N], the step-time model of each instance; of one with pp stages that of the first, which those of the others follow.
        api_pre_s, api_post_s: float64[N], seconds before an instance queues a request, and after the step that makes a token.
        warnings: one line each, where a step time is used outside the range that it was measured on.
        sequence_host_s: float64[N], part of a step's time for each sequence in which the device waits for the host; 0 if unknown.
        draft_acceptance: float64[N], `ParallelEffects.draft_acceptance` of each instance; None where it is 1.
        measured: for each step-time model, the name of its source and the longest context measured there in tokens.
    """

    step_time: StepTime
    row: np.ndarray
    api_pre_s: np.ndarray
    api_post_s: np.ndarray
    warnings: tuple[str, ...]
    measured: tuple[tuple[str, int], ...] = ()
    sequence_host_s: np.ndarray | float = 0.0
    draft_acceptance: np.ndarray | None = None


class _Timing(NamedTuple):
    """The step-time model of one deployment by one source, one row a pp stage, and the rest that `ClusterTiming` holds of it."""

    step_time: StepTime
    host: HostOverheads
    warnings: list[str]
    measured: tuple[str, int]
    draft_acceptance: float = 1.0


class _Sizes(NamedTuple):
    """Most tokens and sequences of a step: entries of the lookups, and the limits of the instances of one deployment."""

    max_tokens: int
    max_seqs: int
    own_tokens: int
    own_seqs: int


def cluster_timing(instances: tuple[InstanceSpec, ...], source: LatencySource) -> ClusterTiming:
    """The step times of one cluster; every distinct deployment is compiled once.

    Raises:
        SimjaxError: tables or profiles are missing, malformed, or for another model or tensor-parallel degree.
    """
    (timing,) = cluster_timings([instances], [source])
    if isinstance(timing, SimjaxError):
        raise timing
    return timing


def cluster_timings(
    clusters: Sequence[tuple[InstanceSpec, ...]],
    sources: Sequence[LatencySource | Sequence[LatencySource]],
    most_tokens: int | None = None,
    most_seqs: int | None = None,
) -> list[ClusterTiming | SimjaxError]:
    """The step times of many clusters; each pair of deployment and source is compiled once, and all share one table.

    Args:
        clusters: the instances of each.
        sources: where each takes its step times from, all of its instances or one by one.
        most_tokens: no step can hold more tokens, whatever the limits are, because the workload has no more; None if unknown.
        most_seqs: likewise for sequences.

    Returns:
        The step times of each, or why it has none.
    """
    compiled: list[tuple[LatencySource, Deployment]] = []
    members: list[list[InstanceSpec]] = []
    of_source: dict[LatencySource, list[tuple[Deployment, int]]] = {}
    known: dict[tuple, int] = {}
    rows: list[list[int]] = []
    for instances, source_of in zip(clusters, sources, strict=True):
        rows.append([])
        each = [source_of] * len(instances) if isinstance(source_of, LatencySource) else source_of
        for instance, source in zip(instances, each, strict=True):
            # By identity first: clusters that are built from the same names share their records, and comparing those takes longer.
            same = (source, id(instance.model), id(instance.device), id(instance.link), instance.parallelism)
            same += (instance.limits.kv_cache_dtype, instance.limits.async_scheduling, instance.limits.launches, instance.kv_stream)
            same += (id(instance.speculation), id(instance.weights), id(instance.pim))
            if same not in known:
                deployment, others = instance.deployment.with_times_only(), of_source.setdefault(source, [])
                place = next((place for other, place in others if other == deployment), len(compiled))
                if place == len(compiled):
                    others.append((deployment, place))
                    compiled.append((source, deployment))
                    members.append([])
                known[same] = place
            rows[-1].append(known[same])
            members[known[same]].append(instance)
    every = list(chain.from_iterable(members))
    sizes = (_largest("max_num_batched_tokens", every, most_tokens), _largest("max_num_seqs", every, most_seqs))
    timings = [_timing(source, deployment, sizes, mine) for (source, deployment), mine in zip(compiled, members, strict=True)]
    return _assembled(timings, rows)


def _assembled(timings: list[_Timing | SimjaxError], rows: list[list[int]]) -> list[ClusterTiming | SimjaxError]:
    """The step times of clusters whose instances have the timings in `rows`; those with and without measured attention are joined apart."""
    joined: dict[bool, StepTime] = {}
    place: dict[int, int] = {}
    for measured in (False, True):
        mine = [k for k, timing in enumerate(timings) if isinstance(timing, _Timing) and (timing.step_time.table is not None) == measured]
        counts = [timing.step_time.host_s.shape[0] for k in mine if isinstance(timing := timings[k], _Timing)]
        place |= dict(zip(mine, np.cumsum([0, *counts]).tolist(), strict=False))
        if mine:
            with jax.enable_x64(True):
                table = join_step_times([timing.step_time for k in mine if isinstance(timing := timings[k], _Timing)])
                joined[measured] = jax.tree.map(np.asarray, table)

    def of(cluster: list[int]) -> ClusterTiming | SimjaxError:
        found: list[_Timing] = []
        for k in cluster:
            timing = timings[k]
            if not isinstance(timing, _Timing):
                return timing
            found.append(timing)
        different = [timings[k] for k in dict.fromkeys(cluster)]
        return ClusterTiming(
            step_time=joined[found[0].step_time.table is not None],
            row=np.array([place[k] for k in cluster], np.int32),
            api_pre_s=np.array([float(timing.host.api_pre_s) for timing in found]),
            api_post_s=np.array([float(timing.host.api_post_s) for timing in found]),
            warnings=tuple(dict.fromkeys(line for timing in found for line in timing.warnings)),
            measured=tuple(timing.measured for timing in different if isinstance(timing, _Timing)),
            sequence_host_s=np.array([float(timing.host.sequence_s) for timing in found]),
            draft_acceptance=np.array([timing.draft_acceptance for timing in found]),
        )

    return [of(cluster) for cluster in rows]


def _timing(source: LatencySource, deployment: Deployment, sizes: tuple[int, int], members: list[InstanceSpec]) -> _Timing | SimjaxError:
    own = max(x.limits.max_num_batched_tokens for x in members), max(x.limits.max_num_seqs for x in members)
    timing = _from_tables if source.bundle_root is not None else _from_profile
    return value_or_error(lambda: _at_its_clock(timing(deployment, source, _Sizes(*sizes, *own)), deployment, source.power))


def _at_its_clock(timing: _Timing, deployment: Deployment, power: PowerSource | None) -> _Timing:
    """The timing under the cap and the clock of its device."""
    if power is None:
        return timing
    for name, placed in (("weights outside the devices (weights.*)", deployment.weights), ("memory that computes (pim.*)", deployment.pim)):
        if placed is not None:
            raise SimjaxError(f"power: caps and clocks do not go with {name} yet")
    if len(deployment.stages) > 1 or deployment.grouped or timing.step_time.table is not None:
        raise SimjaxError("power: caps and clocks go with neither pp stages nor ranks that step together nor measured op tables yet")
    clock = Clock(power.of_board(deployment.device), power.cap_of(deployment.device), power.clock)
    with jax.enable_x64(True):
        return timing._replace(step_time=slowed(timing.step_time, deployment, clock))


def _joined(stages: list[StepTime]) -> StepTime:
    """The step times of the pp stages, one row each."""
    return stages[0] if len(stages) == 1 else join_step_times(stages)


def _largest(limit: str, instances: Sequence[InstanceSpec], most: int | None) -> int:
    """The largest size of a step, rounded up to a power of two: limits are traced, so sweeping them does not recompile."""
    largest = max((getattr(x.limits, limit) for x in instances), default=1)
    return 1 << (min(largest, most or largest) - 1).bit_length()


def _from_tables(deployment: Deployment, source: LatencySource, sizes: _Sizes) -> _Timing:
    model, device = deployment.model, deployment.device
    assert source.bundle_root is not None
    if deployment.speculation is not None:
        raise SimjaxError("profile.bundle_root: measured op tables do not time drafts; leave it out, or speculation")
    names = (device.name, *device.aliases)
    path = find_bundle(source.bundle_root, names, model.name, source.variant, deployment.parallelism.tensor)
    host = source.host(HostOverheads(**dict(source.parameters)))

    def compiled() -> tuple[StepTime, ValidRange]:
        bundle = read_bundle(path)
        with jax.enable_x64(True):
            stages = [compile_tables(bundle, stage, sizes.max_tokens, sizes.max_seqs, host) for stage in deployment.stages]
            return jax.tree.map(np.asarray, _joined(stages)), valid_range(bundle)

    inputs = (pickle.dumps((deployment, sizes.max_tokens, sizes.max_seqs, host)), *contents(path))
    step_time, valid = stored("tables", inputs, compiled)  # their attention is fitted, which takes longer than a short run
    name = str(path.relative_to(source.bundle_root))
    warnings = (
        over_nodes(deployment)
        + of_stages(deployment)
        + of_experts(deployment)
        + of_memory(deployment)
        + as_measured(name, "kernels are", deployment)
    )
    warnings += range_warnings(name, valid, sizes.own_tokens, sizes.own_seqs)
    return _Timing(step_time, host, warnings, (name, valid.context[1]))


def _from_profile(deployment: Deployment, source: LatencySource, sizes: _Sizes) -> _Timing:
    profile = source.profile_of(deployment)
    with jax.enable_x64(True):
        step_time = _joined([compile_profile(profile, stage, sizes.max_tokens, sizes.max_seqs) for stage in deployment.stages])
    warnings = (
        over_nodes(deployment) + of_stages(deployment) + of_experts(deployment) + of_memory(deployment) + foreign(profile, deployment)
    )
    warnings += profile_warnings(profile, deployment, sizes.own_tokens, sizes.own_seqs)
    attention = profile.rank(deployment.parallelism.tensor, deployment.model).attention
    if not isinstance(attention, AttentionEfficiency):
        warnings += as_measured(profile.source, "attention is", deployment)
    measured = (profile.source, profile.valid.context[1])
    return _Timing(step_time, profile.host, warnings, measured, float(profile.parallel.draft_acceptance))
