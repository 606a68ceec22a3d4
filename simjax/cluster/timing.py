"""Step costs of a cluster's engines, from measured op tables or from latency profiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from simjax.cluster.spec import InstanceSpec
from simjax.cluster.warnings import as_measured, foreign
from simjax.errors import SimjaxError, value_or_error
from simjax.hardware import DeviceSpec, LinkSpec
from simjax.latency.attention.roofline import AttentionEfficiency
from simjax.latency.bundle import find_bundle, read_bundle
from simjax.latency.join import join_step_times
from simjax.latency.parameters import with_parameters
from simjax.latency.priors import check_value
from simjax.latency.profile import HostOverheads, LatencyProfile, compile_profile
from simjax.latency.profile_file import find_profile, load_profile
from simjax.latency.step_time import StepTime
from simjax.latency.tables import Stack, compile_bundle, valid_range
from simjax.latency.warnings import profile_warnings, range_warnings
from simjax.model import ModelSpec
from simjax.model.dtypes import canonical_dtype
from simjax.network.collectives import all_reduce_s

HOST_TIMES = ("step_s", "api_pre_s", "api_post_s")  # those that can be given beside a profile or tables


@dataclass(frozen=True)
class LatencySource:
    """Where step costs come from: a profile file, a root of measured op tables, or (neither) the profiles shipped with simjax.

    Attributes:
        profile: a latency profile's YAML file.
        bundle_root: tables are looked up as <bundle_root>/<device>/<model>/<variant>/tp<N>.
        variant: which tables.
        step_s, api_pre_s, api_post_s: host times that replace those of the profile, in seconds (tables hold none: 0).
        parameters: values of `simjax.latency.parameters`, on top of the profile: factors multiply what it has, numbers replace it, and are
            replaced by the host times above.
    """

    profile: Path | None = None
    bundle_root: Path | None = None
    variant: str = "bf16"
    step_s: float | None = None
    api_pre_s: float | None = None
    api_post_s: float | None = None
    parameters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.profile is not None and self.bundle_root is not None:
            raise SimjaxError("profile.file and profile.bundle_root are both set; step costs come from one of them")
        for name in HOST_TIMES:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise SimjaxError(f"profile.{name}={value}: it must be a number of seconds that is not negative")
        for name, value in self.parameters:
            try:
                check_value(name, value)
            except SimjaxError as error:
                raise SimjaxError(f"profile.parameters: {error}") from None
            if self.bundle_root is not None and name not in HOST_TIMES:
                instead = f"of a profile; measured tables (profile.bundle_root) have {', '.join(HOST_TIMES)} only"
                raise SimjaxError(f"profile.parameters: {name} is a parameter {instead}")

    def host(self, known: HostOverheads) -> HostOverheads:
        """Host times: given ones first, then those known from the profile."""
        given = {name: getattr(self, name) for name in HOST_TIMES}
        return replace(known, **{name: value for name, value in given.items() if value is not None})

    def profile_of(self, instance: InstanceSpec) -> LatencyProfile:
        """The profile that an engine takes its costs from, with the parameters applied and the host times that are used.

        Raises:
            SimjaxError: it is missing or malformed, or a parameter is for a model that it does not know.
        """
        if self.profile is not None:
            profile = load_profile(self.profile)
        else:
            profile = find_profile(instance.device, instance.model, instance.tensor_parallel_size)
        if self.parameters:
            try:
                profile = with_parameters(profile, dict(self.parameters))
            except SimjaxError as error:
                raise SimjaxError(f"profile.parameters: {error}") from None
        return replace(profile, host=self.host(profile.host))


@dataclass(frozen=True)
class ClusterTiming:
    """Step costs of a cluster of N engines with C distinct cost models.

    Attributes:
        cost: leading axis C, host arrays.
        row: int32[N], the cost model of each engine.
        api_pre_s, api_post_s: float64[N].
        warnings: one line each, where a cost is used outside what it was measured on.
        measured: of each cost model, what it was measured by and the longest context of that in tokens.
    """

    step_time: StepTime
    row: np.ndarray
    api_pre_s: np.ndarray
    api_post_s: np.ndarray
    warnings: tuple[str, ...]
    measured: tuple[tuple[str, int], ...] = ()


class Kind(NamedTuple):
    """All that the price of an engine's steps depends on; kinds are compared, not hashed, for a device holds mappings."""

    model: ModelSpec
    device: DeviceSpec
    tensor_parallel_size: int
    link: LinkSpec
    kv_cache_dtype: str
    async_scheduling: bool
    launches: tuple[bool, bool]

    def step_time(self, profile: LatencyProfile, max_tokens: int, max_seqs: int, xp: Any = np) -> StepTime:
        """The step costs of such an engine by a profile, C = 1; sizes and `xp` as of `compile_profile`."""
        return compile_profile(profile, *self[:4], max_tokens, max_seqs, xp, *self[4:])


class _Timing(NamedTuple):
    step_time: StepTime
    host: HostOverheads
    warnings: list[str]
    measured: tuple[str, int]


class _Sizes(NamedTuple):
    """Most tokens and sequences of a step: entries of the lookups, and the limits of the engines of one kind."""

    max_tokens: int
    max_seqs: int
    own_tokens: int
    own_seqs: int


def cluster_timing(instances: tuple[InstanceSpec, ...], source: LatencySource) -> ClusterTiming:
    """Compile the cost of every distinct kind of engine.

    Raises:
        SimjaxError: tables or profiles are missing, malformed, or for another model or tensor-parallel degree.
    """
    (timings,) = cluster_timings([instances], [source])
    if isinstance(timings, SimjaxError):
        raise timings
    return timings


def cluster_timings(
    clusters: Sequence[tuple[InstanceSpec, ...]],
    sources: Sequence[LatencySource | Sequence[LatencySource]],
    most_tokens: int | None = None,
    most_seqs: int | None = None,
) -> list[ClusterTiming | SimjaxError]:
    """The prices of many clusters; engines of one kind and source are priced once, and share one table of costs.

    Args:
        clusters: the engines of each.
        sources: where each takes its step costs from, all of its engines or one by one.
        most_tokens: no step can hold more, whatever the limits say, for there are no more in the workload; None if unknown.
        most_seqs: the same of sequences.

    Returns:
        The prices of each, or why it has none.
    """
    kinds: list[tuple[LatencySource, Kind]] = []
    members: list[list[InstanceSpec]] = []
    of_source: dict[LatencySource, list[tuple[Kind, int]]] = {}
    known: dict[tuple, int] = {}
    rows: list[list[int]] = []
    for instances, source_of in zip(clusters, sources, strict=True):
        rows.append([])
        each = [source_of] * len(instances) if isinstance(source_of, LatencySource) else source_of
        for instance, source in zip(instances, each, strict=True):
            # By identity first: clusters that are built from the same names share their records, and comparing those takes longer.
            same = (source, id(instance.model), id(instance.device), id(instance.link), instance.tensor_parallel_size)
            same += (instance.limits.kv_cache_dtype, instance.limits.async_scheduling, instance.limits.launches)
            if same not in known:
                kind, others = kind_of(instance), of_source.setdefault(source, [])
                place = next((place for other, place in others if other == kind), len(kinds))
                if place == len(kinds):
                    others.append((kind, place))
                    kinds.append((source, kind))
                    members.append([])
                known[same] = place
            rows[-1].append(known[same])
            members[known[same]].append(instance)
    every = list(chain.from_iterable(members))
    sizes = (_largest("max_num_batched_tokens", every, most_tokens), _largest("max_num_seqs", every, most_seqs))
    timings = [_timing(source, kind, sizes, mine) for (source, kind), mine in zip(kinds, members, strict=True)]
    return _assembled(timings, rows)


def _assembled(timings: list[_Timing | SimjaxError], rows: list[list[int]]) -> list[ClusterTiming | SimjaxError]:
    """The prices of clusters whose engines are of the kinds in `rows`; costs with and without measured attention are different tables."""
    tables: dict[bool, StepTime] = {}
    place: dict[int, int] = {}
    for measured in (False, True):
        mine = [k for k, timing in enumerate(timings) if isinstance(timing, _Timing) and (timing.step_time.table is not None) == measured]
        place |= {k: row for row, k in enumerate(mine)}
        if mine:
            with jax.enable_x64(True):
                table = join_step_times([timing.step_time for k in mine if isinstance(timing := timings[k], _Timing)])
                tables[measured] = jax.tree.map(np.asarray, table)

    def of(cluster: list[int]) -> ClusterTiming | SimjaxError:
        found: list[_Timing] = []
        for k in cluster:
            timing = timings[k]
            if not isinstance(timing, _Timing):
                return timing
            found.append(timing)
        different = [timings[k] for k in dict.fromkeys(cluster)]
        return ClusterTiming(
            step_time=tables[found[0].step_time.table is not None],
            row=np.array([place[k] for k in cluster], np.int32),
            api_pre_s=np.array([float(timing.host.api_pre_s) for timing in found]),
            api_post_s=np.array([float(timing.host.api_post_s) for timing in found]),
            warnings=tuple(dict.fromkeys(line for timing in found for line in timing.warnings)),
            measured=tuple(timing.measured for timing in different if isinstance(timing, _Timing)),
        )

    return [of(cluster) for cluster in rows]


def _timing(source: LatencySource, kind: Kind, sizes: tuple[int, int], members: list[InstanceSpec]) -> _Timing | SimjaxError:
    own = max(x.limits.max_num_batched_tokens for x in members), max(x.limits.max_num_seqs for x in members)
    timing = _from_tables if source.bundle_root is not None else _from_profile
    return value_or_error(lambda: timing(kind, source, _Sizes(*sizes, *own)))


def _largest(limit: str, instances: Sequence[InstanceSpec], most: int | None) -> int:
    """A size of the cost arrays: in few buckets, as limits are traced, so that sweeping them does not recompile."""
    largest = max((getattr(x.limits, limit) for x in instances), default=1)
    return 1 << (min(largest, most or largest) - 1).bit_length()


def kind_of(instance: InstanceSpec) -> Kind:
    """What the price of an engine depends on."""
    model, device, dtype = instance.model, instance.device, instance.limits.kv_cache_dtype
    return Kind(
        model=model,
        device=replace(device, memory_bytes=0),  # how much memory there is changes no price
        tensor_parallel_size=instance.tensor_parallel_size,
        link=instance.link or device.node.intra_link,
        kv_cache_dtype=model.dtype if dtype == "auto" else canonical_dtype(dtype),
        async_scheduling=instance.limits.async_scheduling,
        launches=instance.limits.launches,
    )


def _from_tables(kind: Kind, source: LatencySource, sizes: _Sizes) -> _Timing:
    model, device, degree, link = kind[:4]
    assert source.bundle_root is not None
    names = (device.name, *device.aliases)
    bundle = read_bundle(find_bundle(source.bundle_root, names, model.name, source.variant, degree))
    stack = Stack(model.num_hidden_layers, model.hidden_size, model.dtype_bytes, model.num_experts, model.num_experts_per_tok)
    all_reduce = partial(all_reduce_s, ranks=degree, link=link, memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s)
    host = source.host(HostOverheads(**dict(source.parameters)))
    with jax.enable_x64(True):
        step_time = compile_bundle(bundle, stack, sizes.max_tokens, sizes.max_seqs, all_reduce, float(host.step_s))
    name, valid = str(bundle.path.relative_to(source.bundle_root)), valid_range(bundle)
    warnings = as_measured(name, "kernels are", model, device, kind.kv_cache_dtype)
    warnings += range_warnings(name, valid, sizes.own_tokens, sizes.own_seqs)
    return _Timing(step_time, host, warnings, (name, valid.context[1]))


def _from_profile(kind: Kind, source: LatencySource, sizes: _Sizes) -> _Timing:
    model, device, degree = kind[:3]
    profile = source.profile_of(InstanceSpec(model, device, degree))
    step_time = kind.step_time(profile, sizes.max_tokens, sizes.max_seqs)
    warnings = foreign(profile, model, device)
    warnings += profile_warnings(profile, model, degree, sizes.own_tokens, sizes.own_seqs)
    if not isinstance(profile.rank(degree, model).attention, AttentionEfficiency):
        warnings += as_measured(profile.source, "attention is", model, device, kind.kv_cache_dtype)
    return _Timing(step_time, profile.host, warnings, (profile.source, profile.valid.context[1]))
