"""Warnings about a simulated cluster: what its step times leave out, flags that vLLM would refuse, parts that make no difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isclose

from simjax.caveat import Estimate
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.spec import ClusterSpec, RouterWeights
from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.offload.copied import copied
from simjax.latency.offload.demand import hit_rate
from simjax.latency.pim.compile_pim import bound
from simjax.latency.profiles.profile import LatencyProfile
from simjax.model import ModelSpec, dtype_bytes, plain_name, same_architecture, state_bytes_per_sequence
from simjax.parallel.experts import placement_in_effect
from simjax.placement.weights import EXPERTS
from simjax.workload.workload import Workload


def foreign(profile: LatencyProfile, deployment: Deployment) -> list[str]:
    """One line each, where a profile that the user chose was measured on another device or another model."""
    lines, model, device = [], deployment.model, deployment.device
    if profile.device not in (device.name, *device.aliases):
        lines.append(f"{profile.source}: measured on {profile.device}, used for {device.name}")
    if profile.model is not None and not same_architecture(profile.model, model):
        lines.append(f"{profile.source}: measured for {profile.model}, used for {model.name}")
    return lines


def as_measured(source: str, subject: str, deployment: Deployment) -> list[str]:
    """One line for each property of a deployment that measured times do not follow.

    Args:
        source: where the times come from.
        subject: the part of a step whose times are in seconds, rather than fractions of what the device can do, with its verb.
        deployment: its device may differ from the shipped one of the same name, as cluster files state their own memory.
    """
    lines, model, device = [], deployment.model, deployment.device
    if dtype_bytes(deployment.kv_cache_dtype) != model.dtype_bytes:
        stored = f"kv_cache_dtype={deployment.kv_cache_dtype} changes the capacity of the KV cache only"
        lines.append(f"{source}: {stored}; its reads are timed as measured ({8 * model.dtype_bytes}-bit)")
    try:
        known = load_device(device.name).memory_bandwidth_bytes_per_s
    except SimjaxError:
        return lines
    given = device.memory_bandwidth_bytes_per_s
    if not isclose(given, known, rel_tol=1e-6):
        instead = f"{given / 1e9:g} GB/s of memory bandwidth instead of {device.name}'s {known / 1e9:g} GB/s"
        lines.append(f"{source}: {subject} timed as measured, whatever the {instead}")
    return lines


def of_stages(deployment: Deployment) -> list[str]:
    """A line about pp stages: how they are timed, and under which rules."""
    stages = deployment.parallelism.pipeline
    if stages == 1:
        return []
    layers = "+".join(str(x.part.num_hidden_layers) for x in deployment.stages)
    rules = "; asynchronous scheduling as of vLLM 0.23's second model runner" if deployment.async_scheduling else ""
    return [Estimate(f"pipeline_parallel_size={stages}: stages of {layers} layers are timed from measurements without pipelines{rules}")]


def of_memory(deployment: Deployment) -> list[str]:
    """Lines about weights outside the devices, and about what bounds the gain of memory that computes."""
    lines: list[str] = []
    if deployment.weights is not None and deployment.weights.used:
        lines.append(f"weights: {copied(deployment)}")
    if (placement := deployment.weights) is not None and any(name == EXPERTS for name, store in placement.layers if store is not None):
        kept, popularity = placement.cached_experts, deployment.parallelism.experts.popularity
        hits = f"{kept} experts of each layer on the device take {100 * hit_rate(deployment):.0f} % of the pairs of tokens and experts"
        lines.append(Estimate(f"weights: {hits}, with choices of {popularity.words}; no measured run was compared yet"))
    if deployment.pim is not None:
        lines.append(f"pim: {bound(deployment)}")
    return lines


def of_experts(deployment: Deployment) -> list[str]:
    """Lines about the experts of a mixture: what vLLM makes of their placement, and what is known of their load."""
    model, parallelism = deployment.model, deployment.parallelism
    experts, ranks = parallelism.experts, parallelism.expert
    lines: list[str] = []
    if not model.is_moe:
        return lines
    if ranks > 1:
        if experts.placement != placement_in_effect(experts.placement, 1, experts.redundant, experts.eplb):
            lines.append(
                f"expert_placement_strategy={experts.placement}: {model.name} has no groups of experts, and vLLM places them linearly then"
            )
        split = f"expert_parallel_size={ranks}: the fullest of the ranks sets the time of a MoE layer"
        lines.append(Estimate(f"{split}, with choices of {experts.popularity.words}; no measured run of one was compared yet"))
    if ranks > 1 and experts.eplb:
        when = "as after its rearrangements, from the first step on" if experts.rearranged else "as before its first rearrangement"
        lines.append(Estimate(f"enable_eplb: experts are placed {when}, by their popularity; rearranging takes no time"))
    return lines


def over_nodes(deployment: Deployment) -> list[str]:
    """A line about tensor parallelism over several servers: how it is priced."""
    node, ranks, nodes = deployment.device.node, deployment.parallelism.tensor, deployment.nodes
    if nodes == 1:
        return []
    link = f"{node.inter_link.bandwidth_bytes_per_s / 1e9:g} GB/s and {node.inter_link.latency_s * 1e6:g} us a hop"
    return [
        f"tensor_parallel_size={ranks} exceeds the {node.devices_per_node} devices of a node of {deployment.device.name}: all-reduces are "
        f"priced in two levels over {nodes} nodes, between them at {link} (its inter_link as the data sheet says, without congestion)"
    ]


def about_models(instances: Sequence[InstanceSpec]) -> list[str]:
    """What the files of the models ask for and is not simulated."""
    models = list({instance.model: None for instance in instances})
    return [f"{model.name}: {note}" for model in models for note in (*model.notes, *_simplified(model))]


def _simplified(model: ModelSpec) -> list[str]:
    """How the layers of a model that do not see the whole context are taken."""
    lines = []
    if model.shortest_window:
        window = f"the window of {model.sliding_window} tokens shortens attention, but no block behind it is freed"
        lines.append(f"{window}: the KV cache is one that max_num_seqs requests are sure to have in vLLM, which may hold more")
    if state_bytes_per_sequence(model):
        lines.append(
            "room for the states of recurrent layers is kept for max_num_seqs requests; vLLM takes it from the pool as it needs it"
        )
    return lines


def about_requests(cluster: ClusterSpec, workload: Workload) -> list[str]:
    """Lines on what the cluster looks for and the workload does not have, or the reverse: models, priorities, contents to route by."""
    names = list(dict.fromkeys(instance.model.name for instance in cluster.instances))
    lines = []
    if len({plain_name(name) for name in names}) > 1 and workload.models is None:
        lines.append(
            f"the instances have different models ({', '.join(names)}) behind one router: any of them serves any request, which names no "
            "model (workload.models, or a trace's column model)"
        )
    return lines + _idle_priorities(cluster, workload) + _idle_router(cluster, workload)


def _idle_priorities(cluster: ClusterSpec, workload: Workload) -> list[str]:
    """A line if instances schedule by priorities that do not differ, or none schedules by those that do."""
    by_priority = any(x.limits.scheduling_policy == "priority" for x in cluster.instances)
    if by_priority and not workload.has_priorities:
        return ["scheduler.scheduling_policy=priority: all requests have the same priority, so that it acts as fcfs"]
    if workload.has_priorities and not by_priority:
        return ["the priorities of the requests have no effect without scheduler.scheduling_policy=priority"]
    return []


def _idle_router(cluster: ClusterSpec, workload: Workload) -> list[str]:
    """A line if the router looks for something that the workload or the instances do not have."""
    if len(cluster.instances) == 1:
        return []
    cached = [x.limits.enable_prefix_caching for x in cluster.instances]
    routers = {"cluster.router": cluster.router}
    if cluster.disaggregated:
        routers["disaggregation.decode_router"] = cluster.disaggregation.decode_router
    lines = []
    if workload.prefixes is None or all(given is False for given in cached):
        why = "no requests share a prefix" if workload.prefixes is None else "no instance has a prefix cache"
        lines += [f"{key}=longest_prefix: {why}, so that it acts as round_robin" for key, x in routers.items() if x == "longest_prefix"]
        if "weighted" in routers.values() and cluster.router_weights.prefix != RouterWeights.prefix:
            lines.append(f"cluster.router_prefix_weight={cluster.router_weights.prefix:g} has no effect: {why}")
    if workload.sessions is None:
        why = "the workload has no sessions, so that it acts as least_loaded"
        lines += [f"{key}=session_affinity: {why}" for key, x in routers.items() if x == "session_affinity"]
    return lines


def beyond_context(measured: Iterable[tuple[str, int]], longest_tokens: int) -> list[str]:
    """One line for each source, given as (name, longest measured context), that the longest request of the workload exceeds."""
    return [
        f"{source}: the longest request has {longest_tokens} tokens, the longest measured context {context}; beyond it is extrapolated"
        for source, context in dict.fromkeys(measured)
        if longest_tokens > context
    ]


def refused_by_vllm(instances: Sequence[InstanceSpec]) -> list[str]:
    """One line for each combination of flags with which vLLM would not start, though it can be simulated.

    Limits left at their defaults cause no line: vLLM lowers its default `max_num_seqs` to the token budget by itself.
    """
    lines = []
    for one in {id(one): one for one in instances}.values():
        limits = one.limits
        if limits.max_model_len is not None:
            needed = -(-limits.max_model_len // limits.block_size)
            if needed > one.num_gpu_blocks:
                lines.append(
                    f"vLLM would not start: max_model_len={limits.max_model_len} needs {needed} KV blocks, {one.model.name} on "
                    f"{one.device.name} has {one.num_gpu_blocks}"
                )
        budget, longest = limits.max_num_batched_tokens, limits.max_model_len or one.model.max_position_embeddings
        if seats_beyond_budget(limits):
            lines.append(f"vLLM would not start: max_num_batched_tokens={budget} is less than max_num_seqs={limits.max_num_seqs}")
        if not limits.enable_chunked_prefill and budget < longest:
            lines.append(
                f"vLLM would not start without chunked prefill: max_num_batched_tokens={budget} is less than max_model_len={longest}; "
                "give both"
            )
    return list(dict.fromkeys(lines))


def seats_beyond_budget(limits: InstanceLimits) -> bool:
    """Whether a step has fewer tokens than the instance has seats, which vLLM refuses; it lowers its own default to the budget."""
    return limits.max_num_batched_tokens < limits.max_num_seqs != InstanceLimits.max_num_seqs
