"""Power of the ranks' devices and the work of their steps, as arrays; and the plant, for readers of the run."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from simjax.cluster.instance import InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.engine.params import PowerParams
from simjax.errors import SimjaxError
from simjax.latency.terms import ALL_REDUCES_PER_LAYER
from simjax.power.plant import Plant
from simjax.power.source import PowerSource
from simjax.power.work import work_with_drafts

if TYPE_CHECKING:
    from simjax.engine.host.lower import Lowered

UNBOUNDED_W = 1e30
"""Watts of a limit that is none, in the engine: products with it stay finite."""


def with_power(lowered: Lowered, cluster: ClusterSpec, timing: ClusterTiming, source: PowerSource) -> Lowered:
    """The simulation with the energy of its devices; the activity of its ranks, which servers' power follows, comes with it."""
    shape, params = replace(lowered.shape, power=True, activity=True), replace(lowered.params, power=power_params(cluster, timing, source))
    return replace(lowered, shape=shape, params=params)


def power_params(cluster: ClusterSpec, timing: ClusterTiming, source: PowerSource) -> PowerParams:
    """The power of the ranks of a cluster, all devices of a rank together."""
    of = list(cluster.instance_of_rank)
    rows = []
    for instance in cluster.instances:
        device, count = source.of_device(instance.device), instance.parallelism.num_devices / instance.parallelism.data
        watts = {name: count * getattr(device, name) for name in ("footprint_w", "memory_w", "compute_w")}
        limit_w = min(device.limit_w - device.standby_w, UNBOUNDED_W)
        own = {"standing_w": count * (device.standby_w - device.idle_w), "limit_w": count * limit_w, "standby_s": device.standby_s}
        rows.append({**watts, **own, **asdict(work_with_drafts(instance.deployment))})
    columns: dict[str, Any] = {name: np.array([rows[i][name] for i in of]) for name in rows[0]}
    columns["sequence_host_s"] = np.broadcast_to(timing.sequence_host_s, len(cluster.instances))[of]
    return PowerParams(**columns)


def plant_of(cluster: ClusterSpec, source: PowerSource) -> Plant:
    """The devices, servers and building of a cluster.

    Raises:
        SimjaxError: the cluster has something whose energy is not simulated, or nothing is known of a device.
    """
    _refuse(cluster)
    ranks = cluster.ranks
    devices = [source.of_device(x.device) for x in ranks]
    counts = np.array([x.parallelism.num_devices // x.parallelism.data for x in ranks], float)
    used = sorted({node for nodes in cluster.nodes_of_ranks for node in nodes})
    on = np.array([[nodes.count(node) / len(nodes) for node in used] for nodes in cluster.nodes_of_ranks])
    hosts = [ranks[int(np.argmax(on[:, k] > 0))].device for k in range(len(used))]
    on_node = counts @ on
    per_node = np.array([max(host.node.devices_per_node, 1) for host in hosts], float)
    return Plant(
        idle_w=counts * [x.idle_w for x in devices],
        standing_w=counts * [x.standby_w - x.idle_w for x in devices],
        standby_s=np.array([x.standby_s for x in devices]),
        meter_s=max(x.meter_s for x in devices),
        link_bytes_per_token=np.array([_link_bytes(x) for x in ranks]),
        nodes=tuple(source.of_node(host) for host in hosts),
        shares=np.ones(len(used)) if source.share == "whole" else np.minimum(on_node / per_node, 1.0),
        on=on,
        pue=source.pue,
        error=max(x.error for x in devices),
        sources=tuple(dict.fromkeys(f"{spec.device.name}: {x.source}" for spec, x in zip(ranks, devices, strict=True))),
    )


def _link_bytes(instance: InstanceSpec) -> float:
    """Bytes of a token that the devices of a rank send in all-reduces, in rings."""
    model, ranks = instance.model, instance.parallelism.tensor
    return ALL_REDUCES_PER_LAYER * model.num_hidden_layers * 2.0 * (ranks - 1) * model.hidden_size * model.dtype_bytes


def _refuse(cluster: ClusterSpec) -> None:
    for there, what in (
        (any(x.parallelism.pipeline > 1 for x in cluster.instances), "pipeline_parallel_size > 1"),
        (any(x.deployment.grouped for x in cluster.instances), "data-parallel ranks that step together"),
    ):
        if there:
            raise SimjaxError(f"power.model: energy is not simulated together with {what} yet; leave one of them out (power=none)")
