"""The `cluster` group of the configuration.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

from dataclasses import dataclass
from typing import Any

from simjax.config.disaggregation import have_roles
from simjax.config.scheduler import SchedulerConfig
from simjax.options.condition import Condition, is_unset, needs, one_of
from simjax.options.option import option, section
from simjax.options.plausible import Plausible

_NO_FILE = is_unset("cluster.file", words="")
_NO_GROUPS = is_unset("cluster.groups", words="")
# The routers that look at the instances; simjax.cluster.routers has all of them.
_LOOKING = ("least_loaded", "least_kv", "longest_prefix", "session_affinity", "weighted", "llm_d", "dynamo")


def _with_router(*names: str) -> Condition:
    """The router, or in a cluster with prefill and decode instances that of decode instances, is one of the named ones."""

    def obstacle(router: str, decode_router: str, prefill: int, decode: int, groups: list[Any], file: str | None) -> str | None:
        if router in names or (decode_router in names and have_roles(prefill, decode, groups, file)):
            return None
        return f"with router={router}, only with {' or '.join(names)}"

    pools = ("cluster.prefill.instances", "cluster.decode.instances", "cluster.groups", "cluster.file")
    return Condition(("router", "disaggregation.decode_router", *pools), obstacle)


_WEIGHTED, _COST = (_with_router("weighted"),), (_with_router("dynamo"),)


def _several(instances: int | None, groups: list[Any], file: str | None, prefill: int, external: bool) -> bool:
    return instances is None or (prefill or instances) > 1 or bool(groups) or file is not None or external


def _linked(size: int | None, stages: int | None, groups: list[Any], prefill: int) -> bool:
    """Whether devices exchange anything: those of an instance, or those of prefill and decode instances on one node."""
    mappings = [group for group in groups if hasattr(group, "get")]
    sizes = [size, stages, *(group.get(name) for group in mappings for name in ("tensor_parallel_size", "pipeline_parallel_size"))]
    roles = prefill > 0 or any(group.get("role") in ("prefill", "decode") for group in mappings)
    return size is None or roles or any(degree is not None and degree > 1 for degree in sizes)


_CHOICE = needs(
    ("instances", "groups", "file", "cluster.prefill.instances", "data_parallel_external_lb"),
    _several,
    "with one instance, to which every request goes",
    refused=False,
)
_LINK = (
    _NO_FILE,
    needs(
        ("tensor_parallel_size", "pipeline_parallel_size", "groups", "cluster.prefill.instances"),
        _linked,
        "with tensor_parallel_size=1: one device has no link",
        refused=False,
    ),
)
_STAGES = needs(
    ("pipeline_parallel_size", "groups"),
    lambda stages, groups: stages is None or stages > 1 or bool(groups),
    "with pipeline_parallel_size=1: one stage has all layers",
)
_POOLS = ("cluster.prefill", "cluster.decode")


def _several_ranks(size: int | None, groups: list[Any], file: str | None, *pools: Any) -> bool:
    """Whether some instances have several data-parallel ranks."""
    own = [group.get("data_parallel_size") for group in groups if hasattr(group, "get")] + [pool.data_parallel_size for pool in pools]
    return size is None or size > 1 or file is not None or any(ranks is not None and ranks > 1 for ranks in own)


_RANKS = (needs(("data_parallel_size", "groups", "file", *_POOLS), _several_ranks, "with data_parallel_size=1", "data_parallel_size"),)


def _expert_parallel(enabled: bool | None, groups: list[Any], file: str | None, *pools: Any) -> bool:
    """Whether some instances are, or may be, expert-parallel."""
    own = [group.get("enable_expert_parallel") for group in groups if hasattr(group, "get")]
    return enabled is not False or file is not None or any(own) or any(pool.enable_expert_parallel for pool in pools)


_EXPERT_PARALLEL = (
    needs(
        ("enable_expert_parallel", "groups", "file", *_POOLS),
        _expert_parallel,
        "with enable_expert_parallel=false",
        "enable_expert_parallel",
    ),
)
_BALANCED = (*_EXPERT_PARALLEL, one_of("enable_eplb", True))
_NO_POOLS = needs(
    ("cluster.prefill.instances", "cluster.decode.instances"),
    lambda prefill, decode: not (prefill or decode),
    "with cluster.prefill.instances and cluster.decode.instances; leave one of them out",
)


@dataclass
class GroupConfig(SchedulerConfig):
    """An entry of `cluster.groups`: instances of one kind, with flags of their own. An unset key has the value of the run."""

    instances: int = option(1, "instances of this kind")
    model: str | None = option(None, "model, as for the run", "NAME")
    device: str | None = option(None, "device, as for the run", "NAME")
    tensor_parallel_size: int | None = option(None, "devices of each instance, or of each of its pp stages")
    pipeline_parallel_size: int | None = option(None, "pp stages of each instance")
    pipeline_layer_partition: list[int] | None = option(None, "layers of each pp stage")
    data_parallel_size: int | None = option(None, "data-parallel ranks of each instance")
    enable_expert_parallel: bool | None = option(None, "whether the devices of each instance share whole experts")
    role: str = option("both", "phases of a request that they run: both, prefill or decode")


@dataclass
class PoolConfig(SchedulerConfig):
    """The prefill or the decode instances of a cluster, with flags of their own. An unset key has the value of the run."""

    instances: int = option(0, "instances of the pool; 0: none")
    device: str | None = option(None, "device, as for the run", "NAME")
    tensor_parallel_size: int | None = option(None, "devices of each instance")
    data_parallel_size: int | None = option(None, "data-parallel ranks of each instance")
    enable_expert_parallel: bool | None = option(None, "whether the devices of each instance share whole experts")


@dataclass
class ClusterConfig:
    """The instances of a cluster and the router in front of them.

    The routers round_robin and random look at nothing. least_loaded takes the instance with the smallest load, (4 waiting + running) /
    max_num_seqs: vLLM's weights, divided by the seats so that instances of different sizes compare. least_kv takes the one that uses the
    smallest share of its KV cache; longest_prefix the one with the most tokens of the prompt in its prefix cache; session_affinity the one
    of the session's latest call, and the least loaded one for the first; weighted the one with the smallest weighted sum of the share of
    the prompt that is not cached, the load and the KV cache's use. llm_d weighs the cached share of the prompt twice as much as the place
    of the queue between the shortest and the longest one; dynamo takes the lowest cost of Dynamo's KV router: blocks to prefill that are
    not cached, and blocks of active prompts. Both draw among equals.
    """

    instances: int = option(1, "instances of the run's model and device", only=(_NO_FILE, _NO_GROUPS, _NO_POOLS))
    tensor_parallel_size: int = option(1, "devices that each instance, or each of its pp stages, is spread over", only=(_NO_FILE,))
    pipeline_parallel_size: int = option(1, "pp stages that the layers of each instance are spread over", only=(_NO_FILE, _NO_POOLS))
    pipeline_layer_partition: list[int] | None = option(
        None, "layers of each pp stage, in order (VLLM_PP_LAYER_PARTITION); unset: vLLM's division", only=(_NO_FILE, _STAGES)
    )
    data_parallel_size: int = option(
        1, "data-parallel ranks of each instance: each has its devices, its scheduler and its KV cache", only=(_NO_FILE,)
    )
    data_parallel_external_lb: bool = option(
        False,
        "whether the router chooses among the ranks of all instances; false: each instance balances the load of its ranks",
        only=_RANKS,
    )
    api_server_count: int | None = option(
        None,
        "API servers of an instance, each with its own view of the ranks; unset: as many as it has ranks",
        only=(*_RANKS, one_of("data_parallel_external_lb", False)),
    )
    enable_expert_parallel: bool = option(
        False,
        "whether the tensor-parallel devices of each instance share whole experts of MoE layers, not a part of each",
        only=(_NO_FILE,),
    )
    expert_placement_strategy: str = option(
        "linear",
        "experts of each rank: linear or round_robin, which vLLM takes only for models with groups of experts",
        only=_EXPERT_PARALLEL,
    )
    enable_eplb: bool = option(False, "whether vLLM's load balancer places the experts (EPLB)", only=_EXPERT_PARALLEL)
    num_redundant_experts: int = option(0, "copies of experts in each MoE layer that the load balancer may use", only=_BALANCED)
    eplb_rearranged: bool = option(
        True, "whether the load balancer has rearranged the experts already; false: before it does", only=_BALANCED
    )
    all2all_backend: str | None = option(
        None,
        "exchange of tokens in MoE layers of data-parallel instances: allgather_reducescatter, deepep_high_throughput, "
        "deepep_low_latency, or llmservingsim, which simplifies as it does; unset: the first",
        "NAME",
        only=_EXPERT_PARALLEL,
    )
    enable_dbo: bool = option(
        False, "whether data-parallel instances overlap the exchange of one half of a step with the other half (DBO)", only=_EXPERT_PARALLEL
    )
    expert_popularity: str = option(
        "uniform",
        "choices of the gates: uniform, random, balanced, round_robin, zipf, dirichlet, or a CSV file of counts (expert,count; also layer)",
    )
    expert_zipf_exponent: float = option(
        1.0, "exponent of zipf: 0 is uniform", plausible=Plausible(0, 2, ""), only=(one_of("expert_popularity", "zipf"),)
    )
    expert_concentration: float = option(
        1.0, "concentration of dirichlet: small is uneven, large uniform", only=(one_of("expert_popularity", "dirichlet"),)
    )
    router: str = option("round_robin", "rule that picks the instance of a request", only=(_CHOICE,))
    router_prefix_weight: float = option(1.0, "weighted router: weight of the share of the prompt that is not cached", only=_WEIGHTED)
    router_queue_weight: float = option(1.0, "weighted router: weight of the load, (4 waiting + running) / max_num_seqs", only=_WEIGHTED)
    router_kv_weight: float = option(1.0, "weighted router: weight of the KV cache's use", only=_WEIGHTED)
    router_staleness_s: float = option(
        0.0,
        "age in seconds at which the router renews its view of the instances; 0: always fresh",
        plausible=Plausible(1e-4, 300, "seconds (not ms)"),
        only=(_with_router(*_LOOKING), _CHOICE),
    )
    router_prefill_load_scale: float = option(1.0, "dynamo router: weight of the blocks to prefill", only=_COST)
    router_overlap_credit: float = option(
        1.0, "dynamo router: blocks to prefill that a block in the prefix cache saves; decode instances give no credit", only=_COST
    )
    router_active_weight: float = option(0.0, "dynamo router: blocks that a request counts for beyond those of its prompt", only=_COST)
    router_temperature: float = option(
        0.0, "dynamo router: spread of the choices, as a share of the range of the costs; 0: the lowest cost", only=_COST
    )
    groups: list[Any] = option(
        [], "kinds of instances instead: mappings with instances, model, device, tensor_parallel_size, role and vLLM's flags"
    )
    prefill: PoolConfig = section(
        PoolConfig, "instances that only prefill, of the run's model; the router spreads requests over them", only=(_NO_FILE, _NO_GROUPS)
    )
    decode: PoolConfig = section(
        PoolConfig, "instances that only decode, chosen by disaggregation.decode_router", only=(_NO_FILE, _NO_GROUPS)
    )
    file: str | None = option(None, "cluster file in LLMServingSim's schema instead; limits that it sets win over scheduler.*", "FILE.json")
    link_bandwidth_bytes_per_s: float | None = option(
        None, "link between the devices of an instance, and of instances on one node, bytes/s; unset: the node's", "BYTES", only=_LINK
    )
    link_latency_s: float | None = option(None, "latency of that link in seconds; unset: the node's", only=_LINK)


@dataclass
class MeasuredClusterConfig:
    """`cluster` of `simjax validate` and `simjax calibrate`: the measured one where an option is unset."""

    tensor_parallel_size: int | None = option(None, "devices of an instance, or of each of its stages and ranks; unset: as the run records")
    pipeline_parallel_size: int | None = option(None, "pp stages of an instance; unset: as the run records, else 1")
    data_parallel_size: int | None = option(None, "data-parallel ranks of an instance; unset: as the run records, else 1")
    enable_expert_parallel: bool | None = option(
        None, "whether the devices of an instance share whole experts; unset: as the run records, else false"
    )
    expert_popularity: str = option("uniform", "popularity of experts, which no run records, as in simjax run", "NAME")
    expert_zipf_exponent: float = option(1.0, "exponent of a zipf popularity", bounds=(0, 10), only=(one_of("expert_popularity", "zipf"),))
    all2all_backend: str | None = option(None, "how data-parallel ranks exchange tokens of experts, as in simjax run", "NAME")
    router: str = option("round_robin", "rule that picks the instance of a request, as in simjax run")
    link_bandwidth_bytes_per_s: float | None = option(
        None, "link between an instance's devices, bytes/s; unset: as recorded, else the device's", "BYTES"
    )
    link_latency_s: float | None = option(None, "latency of that link in seconds; unset: as recorded, else the device's")
