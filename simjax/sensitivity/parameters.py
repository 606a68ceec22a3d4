"""The parameters whose effect on a run is asked for: those of the profile, limits of the instances, hardware, and the workload."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from simjax.calibrate.handover.priors import HANDOVER
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import HOST_TIMES, LatencySource
from simjax.config.scheduler import FLAG_BOUNDS
from simjax.deployment import Role
from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec, LinkSpec
from simjax.latency.attention.roofline import AttentionEfficiency
from simjax.latency.parameters import PARALLEL, parallel_effects, present_value
from simjax.latency.priors import DRAWN, PARAMETERS, STEP_CORRECTIONS, parameter
from simjax.latency.profiles.profile import HostOverheads
from simjax.model.precision import FP8
from simjax.sensitivity.names import CLUSTER_PARAMETERS, HARDWARE, LIMITS, WORKLOAD
from simjax.workload.transform import mean_rate
from simjax.workload.workload import Workload

_LARGEST_SHARE = 1.0 - 1e-9
_OF_COLLECTIVES = ("collective_bandwidth", "collective_latency")  # no effect without tensor parallelism
_OF_LINKS = ("link_bandwidth", "link_latency")  # nor these, unless KV caches are moved
_OF_NETWORK = ("network_bandwidth", "network_latency")  # no effect where all stays in one node
_ARRIVALS = "it moves requests, and so the schedule alone"
_WHOLE = "it is a whole number"
_LINK_FIELDS = {"bandwidth": "bandwidth_bytes_per_s", "latency": "latency_s"}

_WITHOUT_EXCHANGE = "it has no effect where no data-parallel ranks exchange the tokens of experts (cluster.data_parallel_size)"
_WITHOUT = {
    "exchange_bandwidth": _WITHOUT_EXCHANGE,
    "exchange_latency": _WITHOUT_EXCHANGE,
    "expert_skew": "it has no effect where all experts are alike (cluster.expert_popularity)",
    "draft_acceptance": "it has no effect without speculative decoding (speculation.method)",
}

HELD_BY_DRAWS = "accepted drafts are drawn: with the schedule held no change moves anything"
"""Reason why parameters of draws have no gradient."""
HELD_BY_STEPS = "instances act on hand-overs when their steps end: with the schedule held nearly every change moves nothing"
"""Reason why parameters of transfers have no gradient."""


@dataclass(frozen=True)
class Setting:
    """A variant of a cluster and its workload, without the requests themselves.

    Attributes:
        instances: the instances of the cluster.
        sources: source of the step times of each.
        rate: arrival rate relative to that of the workload.
        concurrency: requests in flight in a closed loop, 0 for an open one.
        disaggregation: the hand-over between its instances.
    """

    instances: tuple[InstanceSpec, ...]
    sources: tuple[LatencySource, ...]
    rate: float = 1.0
    concurrency: int = 0
    disaggregation: Disaggregation = field(default_factory=Disaggregation)

    @property
    def disaggregated(self) -> bool:
        """Whether KV caches are moved between its instances."""
        return any(x.role is not Role.BOTH for x in self.instances)


@dataclass(frozen=True)
class SensitivityParameter:
    """A parameter that can be scaled.

    Attributes:
        name, unit: name and unit, as in reports.
        value: the present value; None where instances differ in it.
        text: description for reports.
        by_differences: why it has no derivative through the engine with the schedule held, so that only differences of simulations tell
            its effect; "" where step times depend on it smoothly.
        scale: function of a setting and a factor that gives the setting with this parameter times the factor, and the logarithm of the
            factor that was reached: integers move by at least 1, and nothing leaves its bounds.
    """

    name: str
    unit: str
    value: float | None
    text: str
    by_differences: str
    scale: Callable[[Setting, float], tuple[Setting, float]]

    @property
    def smooth(self) -> bool:
        """Whether it has a derivative with the schedule held."""
        return not self.by_differences


_One = Callable[[InstanceSpec, LatencySource, float], tuple[InstanceSpec, LatencySource, float]]
_Value = Callable[[InstanceSpec, LatencySource], float]


def sensitivity_parameters(setting: Setting, workload: Workload, names: Sequence[str] = ()) -> tuple[list[SensitivityParameter], list[str]]:
    """The parameters of a cluster, and warnings about those that are left out, one line each.

    Args:
        setting: the cluster as it is.
        workload: the workload that it serves.
        names: names of parameters, in the wanted order; empty for all but the corrections of steps, which no parameter explains.

    Raises:
        SimjaxError: there is no such parameter, or it can have no effect here.
    """
    known = [*(name for name in PARAMETERS if name not in STEP_CORRECTIONS), *CLUSTER_PARAMETERS]
    found: list[SensitivityParameter] = []
    nothing: list[str] = []
    for name in dict.fromkeys(names or known):
        if name.partition("[")[0] not in PARAMETERS and name not in CLUSTER_PARAMETERS:
            raise SimjaxError(f"parameters: there is no parameter '{name}'; {closest(name, [*known, *STEP_CORRECTIONS])}")
        made = _parameter(name, setting, workload)
        if isinstance(made, SensitivityParameter):
            found.append(made)
        elif names:
            raise SimjaxError(f"parameters: {name}: {made}")
        elif made == _IS_ZERO:
            nothing.append(name)
    lines = [f"left out, for a percent of 0 is 0: {', '.join(nothing)}"] if nothing else []
    if any(x.name == "memory_bandwidth" for x in found) and _measured_attention(setting):
        lines.append("memory_bandwidth and peak_flops leave attention as it is: the profile has it in seconds (see decode_attention)")
    return found, lines


_IS_ZERO = "it is 0 here, and a percent of 0 is 0"


def _parameter(name: str, setting: Setting, workload: Workload) -> SensitivityParameter | str:
    """The parameter of that name, or why there is none."""
    if name in _OF_COLLECTIVES and all(x.parallelism.tensor == 1 for x in setting.instances):
        return "it has no effect without tensor parallelism (cluster.tensor_parallel_size)"
    if name in _OF_LINKS and not setting.disaggregated and all(x.parallelism.tensor == 1 for x in setting.instances):
        return "it has no effect without tensor parallelism (cluster.tensor_parallel_size)"
    if name in _OF_NETWORK and not setting.disaggregated and all(x.deployment.nodes == 1 for x in setting.instances):
        return "it has no effect on a cluster in which nothing crosses from node to node"
    if name in HANDOVER:
        return _of_handover(name, setting)
    if name == "launch_s" and not any(any(x.limits.launches) for x in setting.instances):
        return "it has no effect where CUDA graphs launch all steps (scheduler.enforce_eager, scheduler.cudagraph_mode)"
    if name == "fp8_compute" and not any(x.model.quantization in FP8 for x in setting.instances):
        return "it has no effect without a model in fp8"
    if name in PARALLEL and not any(name in parallel_effects(x.deployment) for x in setting.instances):
        return _WITHOUT[name]
    tables = setting.sources[0].bundle_root is not None
    if tables and name not in (*HOST_TIMES, *WORKLOAD, *LIMITS, *_OF_LINKS, *_OF_NETWORK):
        return "step times come from measured tables (profile.bundle_root), which it does not change"
    if name in WORKLOAD:
        return _of_workload(name, setting, workload)
    if name in LIMITS:
        field, text = LIMITS[name]
        return _of_instances(name, "", text, setting, lambda x, _: float(_limit_now(name, x)), partial(_limit, name, field), _WHOLE)
    if name in HARDWARE:
        unit, text = HARDWARE[name]
        # A derivative through step times alone would leave out the transfers.
        held = name in (*_OF_LINKS, *_OF_NETWORK) and setting.disaggregated
        return _of_instances(
            name, unit, text, setting, lambda x, _: float(_fact(name, x)), partial(_hardware, name), HELD_BY_STEPS if held else ""
        )
    p = parameter(name)
    held = HELD_BY_DRAWS if name in DRAWN else ""
    return _of_instances(name, p.unit, p.text, setting, partial(_present, name), partial(_profile, name), held)


def _of_workload(name: str, setting: Setting, workload: Workload) -> SensitivityParameter | str:
    unit, text = WORKLOAD[name]
    if name == "concurrency":
        now = setting.concurrency
        if not now:
            return "arrivals are known here; it belongs to a closed loop (workload=closed_loop)"

        def scale(setting: Setting, factor: float) -> tuple[Setting, float]:
            new = _integer(now, factor, 1, len(workload))
            return replace(setting, concurrency=new), math.log(new / now)

        return SensitivityParameter(name, unit, float(now), text, _WHOLE, scale)
    if setting.concurrency:
        return "in a closed loop a request arrives when another one finishes; see concurrency"
    if len(workload) < 2 or workload.arrival_s[-1] == workload.arrival_s[0]:
        return "all requests arrive at once"
    faster = lambda setting, factor: (replace(setting, rate=setting.rate * factor), math.log(factor))
    return SensitivityParameter(name, unit, mean_rate(workload), text, _ARRIVALS, faster)


def _of_handover(name: str, setting: Setting) -> SensitivityParameter | str:
    p, now = HANDOVER[name], float(getattr(setting.disaggregation, name))
    if not setting.disaggregated:
        return "it has no effect without prefill and decode instances"
    if now == 0.0:
        return _IS_ZERO

    def scale(setting: Setting, factor: float) -> tuple[Setting, float]:
        new = min(now * factor, 1.0) if p.unit == "share" else now * factor
        return replace(setting, disaggregation=replace(setting.disaggregation, **{name: new})), math.log(new / now)

    return SensitivityParameter(name, p.unit, now, p.text, HELD_BY_STEPS, scale)


def _of_instances(
    name: str, unit: str, text: str, setting: Setting, value: _Value, one: _One, by_differences: str = ""
) -> SensitivityParameter | str:
    """A parameter that scales something of every instance."""
    values = {value(instance, source) for instance, source in zip(setting.instances, setting.sources, strict=True)}
    if values == {0.0}:
        return _IS_ZERO

    def scale(setting: Setting, factor: float) -> tuple[Setting, float]:
        known: dict[tuple[int, LatencySource], tuple[InstanceSpec, LatencySource, float]] = {}
        scaled = []
        for instance, source in zip(setting.instances, setting.sources, strict=True):
            key = (id(instance), source)
            if key not in known:  # instances that share a record still do: their step times are made once
                known[key] = one(instance, source, factor)
            scaled.append(known[key])
        instances, sources, logs = zip(*scaled, strict=True)
        moved = [x for x in logs if x]
        return replace(setting, instances=instances, sources=sources), sum(moved) / len(moved) if moved else 0.0

    return SensitivityParameter(name, unit, values.pop() if len(values) == 1 else None, text, by_differences, scale)


def _integer(now: int, factor: float, least: int, most: int) -> int:
    """An integer times a factor, at least 1 away from its present value, within bounds."""
    new = round(now * factor)
    if new == now:
        new += 1 if factor > 1.0 else -1
    return min(max(new, least), most)


def _limit_now(name: str, x: InstanceSpec) -> int:
    return x.num_gpu_blocks if name == "num_gpu_blocks" else getattr(x.limits, name)


def _limit(name: str, field: str, x: InstanceSpec, source: LatencySource, factor: float) -> tuple[InstanceSpec, LatencySource, float]:
    now = _limit_now(name, x)
    new = _integer(now, factor, *FLAG_BOUNDS[field])
    return replace(x, limits=replace(x.limits, **{field: new})), source, math.log(new / now)


def _link(x: InstanceSpec) -> LinkSpec:
    return x.link or x.device.node.intra_link


def _fact(name: str, x: InstanceSpec) -> float:
    if name == "memory_bandwidth":
        return x.device.memory_bandwidth_bytes_per_s
    if name == "peak_flops":
        return x.device.peak_flops[x.model.dtype] if x.model.dtype in x.device.peak_flops else max(x.device.peak_flops.values())
    of, _, what = name.partition("_")
    return getattr(_link(x) if of == "link" else x.device.node.inter_link, _LINK_FIELDS[what])


def _hardware(name: str, x: InstanceSpec, source: LatencySource, factor: float) -> tuple[InstanceSpec, LatencySource, float]:
    device: DeviceSpec = x.device
    if name == "memory_bandwidth":
        x = replace(x, device=replace(device, memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s * factor))
    elif name == "peak_flops":
        x = replace(x, device=replace(device, peak_flops={dtype: peak * factor for dtype, peak in device.peak_flops.items()}))
    else:
        of, _, what = name.partition("_")
        changed = {_LINK_FIELDS[what]: _fact(name, x) * factor}
        if of == "link":
            x = replace(x, link=replace(_link(x), **changed))
        else:
            node = replace(device.node, inter_link=replace(device.node.inter_link, **changed))
            x = replace(x, device=replace(device, node=node))
    return x, source, math.log(factor)


def _present(name: str, x: InstanceSpec, source: LatencySource) -> float:
    """The value of a profile's parameter for an instance."""
    if parameter(name).unit == "factor":
        return dict(source.parameters).get(name, 1.0)
    if source.bundle_root is not None:
        return float(getattr(source.host(HostOverheads(**dict(source.parameters))), name))
    profile = source.profile_of(x.deployment)
    if name == "decode_skew":  # that of the tensor-parallel degree in use; a profile may have others
        return float(profile.rank(x.parallelism.tensor, x.model).attention.decode_skew)
    return present_value(profile, name)


def _profile(name: str, x: InstanceSpec, source: LatencySource, factor: float) -> tuple[InstanceSpec, LatencySource, float]:
    now = _present(name, x, source)
    if now == 0.0:
        return x, source, 0.0
    new = min(now * factor, _LARGEST_SHARE) if parameter(name).unit == "share" else now * factor
    given = {name: None} if name in HOST_TIMES else {}  # a host time that the configuration sets would take precedence
    return x, replace(source, parameters=tuple((dict(source.parameters) | {name: new}).items()), **given), math.log(new / now)


def _measured_attention(setting: Setting) -> bool:
    return any(
        not isinstance(source.profile_of(x.deployment).rank(x.parallelism.tensor, x.model).attention, AttentionEfficiency)
        for x, source in {id(x): (x, source) for x, source in zip(setting.instances, setting.sources, strict=True)}.values()
    )
