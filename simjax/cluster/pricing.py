"""Step costs of a cluster's engines, from measured op tables or from latency profiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from simjax.cluster.spec import InstanceSpec
from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec
from simjax.latency.bundle import find_bundle, read_bundle
from simjax.latency.collectives import all_reduce_s
from simjax.latency.cost import StepCost
from simjax.latency.profile import HostOverheads, LatencyProfile, compile_profile, profile_warnings
from simjax.latency.profile_file import find_profile, load_profile
from simjax.latency.stack import stack_costs
from simjax.latency.tables import Stack, compile_bundle
from simjax.model import ModelSpec, load_model


@dataclass(frozen=True)
class CostSource:
    """Where step costs come from: a profile file, a root of measured op tables, or (neither) the profiles shipped with simjax.

    Attributes:
        profile: a latency profile's YAML file.
        bundle_root: tables are looked up as <bundle_root>/<device>/<model>/<variant>/tp<N>.
        variant: which tables.
        step_s, api_pre_s, api_post_s: host times that replace those of the profile, in seconds (tables hold none: 0).
    """

    profile: Path | None = None
    bundle_root: Path | None = None
    variant: str = "bf16"
    step_s: float | None = None
    api_pre_s: float | None = None
    api_post_s: float | None = None

    def __post_init__(self) -> None:
        if self.profile is not None and self.bundle_root is not None:
            raise SimjaxError("profile.file and profile.bundle_root are both set; step costs come from one of them")
        for name in ("step_s", "api_pre_s", "api_post_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise SimjaxError(f"profile.{name}={value}: it must be a number of seconds that is not negative")

    def host(self, known: HostOverheads) -> HostOverheads:
        """Host times: given ones first, then those known from the profile."""
        given = {name: getattr(self, name) for name in ("step_s", "api_pre_s", "api_post_s")}
        return replace(known, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class ClusterPrices:
    """Step costs of a cluster of N engines with C distinct cost models.

    Attributes:
        cost: leading axis C.
        row: int32[N], the cost model of each engine.
        api_pre_s, api_post_s: float64[N].
        warnings: one line each, where a cost is used outside what it was measured on.
    """

    cost: StepCost
    row: np.ndarray
    api_pre_s: np.ndarray
    api_post_s: np.ndarray
    warnings: tuple[str, ...]


def price_cluster(instances: tuple[InstanceSpec, ...], source: CostSource) -> ClusterPrices:
    """Compile the cost of every distinct kind of engine.

    Raises:
        SimjaxError: tables or profiles are missing, malformed, or for another model or tensor-parallel degree.
    """
    max_tokens = _power_of_two(max(x.limits.max_num_batched_tokens for x in instances))
    max_seqs = _power_of_two(max(x.limits.max_num_seqs for x in instances))
    kinds: dict[tuple, int] = {}
    costs: list[StepCost] = []
    hosts: list[HostOverheads] = []
    warnings: list[str] = []
    rows = []
    for instance in instances:
        link = instance.link or instance.device.node.intra_link
        kind = (instance.model, instance.device.name, instance.tensor_parallel_size, link)
        if kind not in kinds:
            kinds[kind] = len(costs)
            price = _from_tables if source.bundle_root is not None else _from_profile
            cost, host, notes = price(replace(instance, link=link), source, max_tokens, max_seqs)
            costs.append(cost)
            hosts.append(host)
            warnings += notes
        rows.append(kinds[kind])
    row = np.array(rows, np.int32)
    with jax.enable_x64(True):
        cost = stack_costs(costs)
    return ClusterPrices(
        cost=cost,
        row=row,
        api_pre_s=np.array([float(host.api_pre_s) for host in hosts])[row],
        api_post_s=np.array([float(host.api_post_s) for host in hosts])[row],
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _from_tables(instance: InstanceSpec, source: CostSource, max_tokens: int, max_seqs: int) -> tuple[StepCost, HostOverheads, list[str]]:
    model, device, degree = instance.model, instance.device, instance.tensor_parallel_size
    assert source.bundle_root is not None and instance.link is not None
    names = (device.name, *device.aliases)
    bundle = read_bundle(find_bundle(source.bundle_root, names, model.name, source.variant, degree))
    stack = Stack(model.num_hidden_layers, model.hidden_size, model.dtype_bytes, model.num_experts, model.num_experts_per_tok)
    all_reduce = partial(all_reduce_s, ranks=degree, link=instance.link, memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s)
    host = source.host(HostOverheads())
    with jax.enable_x64(True):
        cost = compile_bundle(bundle, stack, max_tokens, max_seqs, all_reduce, float(host.step_s))
    return cost, host, []


def _from_profile(instance: InstanceSpec, source: CostSource, max_tokens: int, max_seqs: int) -> tuple[StepCost, HostOverheads, list[str]]:
    model, device, degree = instance.model, instance.device, instance.tensor_parallel_size
    profile: LatencyProfile = load_profile(source.profile) if source.profile is not None else find_profile(device, model, degree)
    host = source.host(profile.host)
    cost = compile_profile(replace(profile, host=host), model, device, degree, instance.link, max_tokens, max_seqs)
    limits = instance.limits
    warnings = profile_warnings(profile, model, degree, limits.max_num_batched_tokens, limits.max_num_seqs)
    return cost, host, [*_foreign(profile, model, device), *warnings]


def _foreign(profile: LatencyProfile, model: ModelSpec, device: DeviceSpec) -> list[str]:
    """One line each, where a profile that the user chose was measured on another device or another model."""
    lines = []
    if profile.device not in (device.name, *device.aliases):
        lines.append(f"{profile.source}: measured on {profile.device}, used for {device.name}")
    if profile.model is not None and not _same(profile.model, model):
        lines.append(f"{profile.source}: measured for {profile.model}, used for {model.name}")
    return lines


def _same(name: str, model: ModelSpec) -> bool:
    """Whether a model of that name is `model`, or has the same architecture under another name."""
    try:
        known = load_model(name)
    except SimjaxError:
        return name == model.name
    return replace(known, name=model.name, max_position_embeddings=model.max_position_embeddings) == model


def _power_of_two(n: int) -> int:
    """Sizes of the cost arrays come in few buckets: limits are traced, so that sweeping them does not recompile."""
    return 1 << (n - 1).bit_length()
