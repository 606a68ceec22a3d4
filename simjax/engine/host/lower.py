"""From a cluster and a workload to the engine's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from simjax.cluster.disaggregation import CONNECTORS
from simjax.cluster.instance import InstanceLimits
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.engine.host.impossible import refuse_impossible
from simjax.engine.host.lowering.balancer import balancer_part, refuse_with_balancer
from simjax.engine.host.lowering.groups import group_part, refuse_with_groups
from simjax.engine.host.lowering.handover import MORE_ROWS, handover_part
from simjax.engine.host.lowering.pipeline import most_stages, refuse_with_stages, with_stages
from simjax.engine.host.lowering.priority import refuse_with_priorities, request_priorities, schedules_by_priority, with_policies
from simjax.engine.host.lowering.requests import prefix_params, request_models, request_params, sizes_of
from simjax.engine.host.lowering.speculation import refuse_with_speculation, speculates, speculation_part, with_names
from simjax.engine.host.lowering.tiers import tier_part, with_places
from simjax.engine.params import ClusterParams, NoSpeculationParams, RankParams, RequestParams, RouterParams
from simjax.engine.shape import EngineShape, requests_bucket, slots_for
from simjax.errors import SimjaxError
from simjax.model import plain_name
from simjax.workload.classes import RequestClasses
from simjax.workload.models import ANY, RequestModels
from simjax.workload.sessions import Sessions
from simjax.workload.workload import Workload

_OWN_RULES = ("max_model_len", "enable_prefix_caching")  # limits that follow from more than the flag of their name


def _same_named(dtype: str) -> tuple[str, ...]:
    """Parameters of a rank, of a data type, that are limits of an instance by the same name."""
    limits = {x.name for x in fields(InstanceLimits)}
    return tuple(x.name for x in fields(RankParams) if x.name in limits and x.name not in _OWN_RULES and str(x.type).startswith(dtype))


FLAGS, LIMITS = _same_named("Bool"), _same_named("Int32")
ONE_AND_NEXT = 2  # window of ranks with a prefix cache, or by priority: one request is admitted, and the next one seen


@dataclass(frozen=True)
class Lowered:
    """A simulation ready to run: static sizes, traced arrays (numpy), and the facts of the workload that readers of the results need."""

    shape: EngineShape
    params: ClusterParams
    sessions: Sessions | None = None
    stationary: bool = False
    classes: RequestClasses | None = None


def lower(
    cluster: ClusterSpec,
    timings: ClusterTiming,
    workload: Workload,
    *,
    seed: int = 0,
    leap: bool = True,
    log: bool = True,
    requests: RequestParams | None = None,
) -> Lowered:
    """Arrays for `simjax.engine.simulate.simulate`.

    Args:
        cluster: instances and router.
        timings: step times of the instances.
        workload: requests.
        seed: seed of the random router.
        leap: take pure-decode steps many at a time.
        log: record the leaps (`LeapLog`), from which time series and inter-token latencies are made.
        requests: result of `request_params` for the workload and the seed, where it is known already.

    Raises:
        SimjaxError: the workload is malformed, or a request can never be served by any instance.
    """
    workload.validate()
    size = requests_bucket(len(workload))
    caching = caches(cluster, workload)
    refuse_with_speculation(cluster)
    refuse_with_stages(cluster)
    refuse_with_groups(cluster)
    refuse_with_balancer(cluster)
    instances = with_stages(cluster, instance_params(cluster, timings, size, caching), size)
    by_priority = schedules_by_priority(cluster, workload)
    tiers = tier_part(cluster, caching, by_priority)
    if tiers.sizes:
        instances = with_places(instances, cluster, size)
    if by_priority:
        refuse_with_priorities(cluster)
        instances = with_policies(cluster, instances)
    if (of_models := served_models(cluster, workload)) is not None:
        instances = replace(instances, model=of_models)
    if speculates(cluster) and any(caching):
        instances = with_names(cluster, instances)
    drafts = speculation_part(cluster, timings.draft_acceptance)
    refuse_impossible(cluster, instances, workload, drafts.params.get("speculation", NoSpeculationParams()))
    parts = handover_part(cluster, workload, size) | group_part(cluster) | balancer_part(cluster, seed) | drafts | tiers
    looks = any(rule.looks for rule in cluster.routers)
    requests = requests or request_params([workload], size, [seed], any(caching))
    requests = _with_what_the_cluster_reads(requests, workload, any(caching), instances.model is not None)
    if by_priority:
        requests = replace(requests, priority=request_priorities(workload, size))
    shape = EngineShape(
        requests=size,
        slots=int(instances.slots.max()),
        ranks=len(cluster.ranks),
        window=ONE_AND_NEXT if any(caching) or by_priority else EngineShape.window,
        models=instances.model is not None,
        several_ranks=instances.instance is not None,
        stale_view=looks and cluster.router_staleness_s > 0,
        router_books=any(rule.compares for rule in cluster.routers),
        live_routing=workload.waits_for_answers or looks or cluster.disaggregated or cluster.balances,
        leap=leap,
        priorities=by_priority,
        pipeline_stages=most_stages(cluster),
        log_rows=EngineShape.log_rows if log else 0,
        **sizes_of(requests, workload, size),
        **parts.sizes,
    )
    weights = (cluster.router_weights.prefix, cluster.router_weights.queue, cluster.router_weights.kv)
    served: Any = np.int32(0)
    router = RouterParams.of(cluster.router, weights, cluster.router_staleness_s, cluster.router_costs)
    params = ClusterParams(instances, router, requests, served, timings.step_time, **parts.params)
    return Lowered(shape, params, workload.sessions, workload.stationary, workload.classes)


def _with_what_the_cluster_reads(requests: RequestParams, workload: Workload, contents: bool, models: bool) -> RequestParams:
    """The requests with what they share if the cluster caches it, and the models that they name if it has several; else without."""
    size = requests.arrival_s.shape[1]
    if contents != (requests.prefix is not None):
        requests = replace(requests, prefix=prefix_params([workload], size) if contents else None)
    if models != (requests.model is not None):
        model, turn = request_models(workload, size) if models else (None, None)
        requests = replace(requests, model=model, model_turn=turn)
    return requests


def with_more_rows(lowered: Lowered) -> Lowered | None:
    """The simulation with room for more hand-overs at once; None if it had enough for all its requests."""
    shape = lowered.shape
    if not shape.handovers or shape.handovers >= shape.requests:
        return None
    return replace(lowered, shape=replace(shape, handovers=min(shape.handovers * MORE_ROWS, shape.requests)))


def with_larger_caches(lowered: Lowered) -> Lowered:
    """The simulation with twice the room for runs of blocks in its prefix caches."""
    return replace(lowered, shape=replace(lowered.shape, prefix_room=2 * lowered.shape.prefix_room))


def with_larger_tiers(lowered: Lowered) -> Lowered:
    """The simulation with twice the room for runs of blocks and copies of its KV tiers, and for requests that wait in the slots."""
    shape = lowered.shape
    return replace(lowered, shape=replace(shape, slots=2 * shape.slots, tier_room=2 * shape.tier_room))


def caches(cluster: ClusterSpec, workload: Workload) -> list[bool]:
    """Whether each rank has a prefix cache; one without a setting has one if the workload records what its requests share."""
    known = workload.prefixes is not None
    given = [x.limits.enable_prefix_caching for x in cluster.ranks]
    return [known if flag is None else flag for flag in given]


def instance_params(cluster: ClusterSpec, timings: ClusterTiming, requests: int, caching: Sequence[bool] | None = None) -> RankParams:
    """Limits of the ranks as arrays over N, for a workload of `requests` requests; `caching`: whether each has a prefix cache."""
    specs, of = cluster.ranks, np.array(cluster.instance_of_rank, np.int32)
    leaves: dict[str, Any] = {name: [getattr(x.limits, name) for x in specs] for name in LIMITS}
    leaves |= {"max_model_len": [x.longest_request_tokens for x in specs], "num_blocks": [x.usable_blocks for x in specs]}
    leaves |= {"watermark_blocks": [x.watermark_blocks for x in specs]}
    leaves |= {"slots": [slots_for(x.limits.max_num_seqs, requests, EngineShape.window) for x in specs]}
    leaves = {name: np.array(values, np.int32) for name, values in leaves.items()}
    leaves |= {name: np.array([getattr(x.limits, name) for x in specs], bool) for name in FLAGS}
    if cluster.disaggregated and CONNECTORS[cluster.disaggregation.connector].carried:
        leaves["long_prefill_alone"] &= False  # vLLM's rule, and no vLLM carries tokens
    leaves |= {"enable_prefix_caching": np.array(caching or [False] * len(specs), bool)}
    leaves |= {name: getattr(timings, name)[of] for name in ("api_pre_s", "api_post_s")} | {"step_time": timings.row[of]}
    leaves |= {"instance": of if len(of) > len(cluster.instances) else None}
    return RankParams(**leaves)


def served_models(cluster: ClusterSpec, workload: Workload) -> np.ndarray | None:
    """The model of each rank by its place in `workload.models`, int32[N]; None where any instance serves any request.

    That is so in a cluster of one model, whatever requests name: a trace of another service is played on it.

    Raises:
        SimjaxError: a request names a model that no instance serves, or none where its two legs need one.
    """
    models = [x.model.name for x in cluster.instances]
    served, named = ", ".join(dict.fromkeys(models)), workload.models or RequestModels((), np.full(1, ANY, np.int32))
    if len({plain_name(name) for name in models}) == 1:
        return None
    unnamed = np.flatnonzero(named.index < 0)
    if cluster.disaggregated and unnamed.size:
        raise SimjaxError(
            f"{workload.source}: request {unnamed[0]} names no model, and the prefill and decode instances have several ({served}); "
            "workload.models, or a trace's column model, names them"
        )
    if not named.names:
        return None
    of_instances = named.served_by(models)
    missing = np.flatnonzero((named.index >= 0) & ~np.isin(named.index, of_instances))
    if missing.size:
        name = named.names[named.index[missing[0]]]
        raise SimjaxError(
            f"{workload.source}: request {missing[0]} names the model {name}, which no instance serves; the cluster has {served}"
        )
    return of_instances[list(cluster.instance_of_rank)]
