"""Flags of an instance's scheduler under vLLM's names: the one place that says what each of them means and which integers it takes."""

from dataclasses import dataclass
from typing import Any

from simjax.backend.releases import DEFAULT
from simjax.config.disaggregation import DISAGGREGATED
from simjax.model.precision import WHAT_IF
from simjax.options.condition import at_least, is_unset, needs, one_of
from simjax.options.option import facts_by_name, option
from simjax.options.plausible import Plausible

_INT32 = 2**31 - 1  # the engine counts in int32; step times are tabulated up to max_num_batched_tokens and max_num_seqs
_NO_BLOCKS = is_unset("num_gpu_blocks_override")
SCHEDULING_POLICIES = ("fcfs", "priority")
"""Values of `scheduler.scheduling_policy`."""
_CACHED = needs(("enable_prefix_caching",), lambda on: on is not False, "without a prefix cache", "with a prefix cache", refused=False)
_BY_PRIORITY = one_of("scheduling_policy", "priority", default="fcfs", words="priority")


def _some_data_parallel(size: int | None, groups: list[Any], prefill: int | None, decode: int | None, file: str | None) -> bool:
    """Whether some instances have several data-parallel ranks, or may have them."""
    own = [group.get("data_parallel_size") or size for group in groups if hasattr(group, "get")]
    return file is not None or any((x or 1) > 1 for x in (size, prefill, decode, *own))


_DATA_PARALLEL = needs(
    (
        "cluster.data_parallel_size",
        "cluster.groups",
        "cluster.prefill.data_parallel_size",
        "cluster.decode.data_parallel_size",
        "cluster.file",
    ),
    _some_data_parallel,
    "without a data_parallel_size of 2 or more",
    "data_parallel_size >= 2",
    refused=False,
)


@dataclass
class SchedulerConfig:
    """Flags of an instance; unset ones take vLLM's default or, in `simjax validate`, the value that the measured run recorded.

    The defaults are those of `simjax.cluster.instance.InstanceLimits`, which has the same fields; conf/scheduler/vllm.yaml writes out those
    in which releases (`BackendConfig`) do not differ.
    """

    max_num_seqs: int | None = option(None, "most requests running at once", bounds=(1, 2**20))
    max_num_batched_tokens: int | None = option(None, "token budget of a step", bounds=(1, 2**22))
    long_prefill_token_threshold: int | None = option(None, "most tokens of one request in a step; 0: no limit", bounds=(0, _INT32))
    enable_chunked_prefill: bool | None = option(None, "whether a prompt may be split over steps")
    reserve_full_isl: bool | None = option(
        None, "admit a request only if its whole sequence fits the free KV blocks; unset: as the release"
    )
    async_scheduling: bool | None = option(None, "form a step when the one before starts, not when it ends; unset: as the release")
    enable_prefix_caching: bool | None = option(
        None, "keep the KV blocks of finished work for requests that begin alike; unset: on if the workload records what requests share"
    )
    long_prefill_alone: bool | None = option(
        None,
        "let a request that is alone, running and waiting ones counted, exceed long_prefill_token_threshold; unset: as the release",
        only=(at_least("long_prefill_token_threshold", 1, refused=False),),
    )
    reserve_kv_loads: bool | None = option(
        None,
        "reserve blocks for the KV cache of a prefill only if those that prefills on its decode instance still need stay free; "
        "unset: as the release",
        only=(DISAGGREGATED,),
    )
    reuse_nameless_first: bool | None = option(
        None,
        "use freed KV blocks without a name (those that are not full) again before those that may be found; unset: as the release",
        only=(_CACHED,),
    )
    prefill_schedule_interval: int | None = option(
        None,
        "steps from one that may hold prompts to the next, of data-parallel ranks of a mixture of experts: those in between only decode",
        bounds=(1, 2**20),
        only=(_DATA_PARALLEL,),
    )
    dp_sync_interval: int | None = option(
        None,
        "steps after which data-parallel ranks of a mixture of experts ask each other whether any has requests left; unset: as the release",
        bounds=(1, 2**20),
        only=(_DATA_PARALLEL,),
    )
    dp_syncs_first: bool | None = option(
        None, "ask so after the first step since they slept, too; unset: as the release", only=(_DATA_PARALLEL,)
    )
    scheduling_policy: str | None = option(
        None,
        "order of waiting requests and of victims when blocks run out: fcfs, or priority: by the workload's priorities, small first, "
        "then arrival",
        "NAME",
    )
    preempt_self_goes_on: bool | None = option(
        None, "after a request has preempted itself, others still get tokens in the step; unset: as the release", only=(_BY_PRIORITY,)
    )
    preempt_leaves_out: bool | None = option(
        None,
        "a victim without tokens in the step makes the scheduler leave out a running request; unset: as the release",
        only=(_BY_PRIORITY,),
    )
    watermark: float | None = option(
        None,
        "share of all KV blocks that an admission beside running requests leaves free (vLLM 0.28 has it, 0.23 does not)",
        "SHARE",
        plausible=Plausible(0.0, 0.5, "a share of the KV blocks"),
    )
    max_model_len: int | None = option(None, "longest prompt + output in tokens; unset: the model's", bounds=(1, _INT32))
    block_size: int | None = option(None, "tokens of a KV block", bounds=(1, 2**20))
    gpu_memory_utilization: float | None = option(
        None,
        "fraction of the device memory that the instance may use; unset: as the release",
        "SHARE",
        only=(_NO_BLOCKS, is_unset("kv_cache_memory_bytes")),
    )
    kv_cache_memory_bytes: int | None = option(
        None,
        "size of a device's KV cache, instead of what gpu_memory_utilization leaves",
        "BYTES",
        bounds=(1, 2**50),
        only=(_NO_BLOCKS,),
        plausible=Plausible(2**20, 2**42, "bytes (not GB)"),
    )
    num_gpu_blocks_override: int | None = option(
        None, "number of KV blocks as vLLM reports it, whatever fits the device", bounds=(2, _INT32)
    )
    dtype: str | None = option(None, "data type of weights and activations; auto: the checkpoint's, bfloat16 for float32", "NAME")
    quantization: str | None = option(
        None, f"format of the layers' matrices of a checkpoint that has none: auto (as it is), {', '.join(WHAT_IF)}", "NAME"
    )
    kv_cache_dtype: str | None = option(None, "data type of the KV cache; auto: the model's", "NAME")
    enforce_eager: bool | None = option(
        None, "run without CUDA graphs: a step takes no less time than the host needs to launch its kernels"
    )
    cudagraph_mode: str | None = option(
        None,
        "steps that CUDA graphs launch: all, those without a prompt (full_decode_only), or none",
        "NAME",
        only=(is_unset("enforce_eager"),),
    )


@dataclass
class BackendConfig:
    """The serving software. What its releases differ in, `simjax.backend.releases` says."""

    release: str = option(DEFAULT, "release of vLLM whose defaults hold for flags that are unset", "NAME")


@dataclass
class MeasuredBackendConfig:
    """`backend` of `simjax validate` and `simjax calibrate`."""

    release: str | None = option(
        None, "release of vLLM, such as vllm-0.19, for flags that are not recorded; unset: the recorded one", "NAME"
    )


FLAG_BOUNDS: dict[str, tuple[int, int]] = facts_by_name(SchedulerConfig, "bounds")
"""Least and greatest value of every flag that is an integer."""
