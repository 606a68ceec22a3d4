"""An instance: a model with its device, parallelism and limits."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property

from simjax.config.scheduler import FLAG_BOUNDS, SCHEDULING_POLICIES
from simjax.deployment import Deployment, Role
from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec, LinkSpec
from simjax.memory.capacity import MemoryLimits, kv_blocks
from simjax.memory.offload import check_placement
from simjax.memory.pim import check_pim
from simjax.model import ModelSpec, quantized_as, served_as, without_windows
from simjax.model.dtypes import KV_CACHE_DTYPES, SERVED_DTYPES, check_name
from simjax.network.placement import Footprint
from simjax.network.stages import broadcast_s, link_between
from simjax.parallel.parallelism import Parallelism
from simjax.placement.pim import Pim
from simjax.placement.weights import WeightPlacement
from simjax.speculation.methods import Speculation

# vLLM's modes: whether the kernels of decode-only steps, and of steps with a prompt, are launched one by one. Piecewise graphs hold all of
# a layer but its attention, up to 512 tokens; beyond that compiled code launches few kernels and the device has much to do.
CUDAGRAPH_MODES = {"full_and_piecewise": (False, False), "full_decode_only": (False, True), "none": (True, True)}


@dataclass(frozen=True)
class InstanceLimits:
    """vLLM's flags of an instance with vLLM's defaults; `simjax.config.scheduler.SchedulerConfig` says what they mean.

    Raises:
        SimjaxError: a value is out of its range.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    long_prefill_token_threshold: int = 0
    enable_chunked_prefill: bool = True
    reserve_full_isl: bool = True
    async_scheduling: bool = True
    enable_prefix_caching: bool | None = None
    long_prefill_alone: bool = False
    reserve_kv_loads: bool = False
    reuse_nameless_first: bool = False
    prefill_schedule_interval: int = 1
    dp_sync_interval: int = 32
    dp_syncs_first: bool = False
    scheduling_policy: str = "fcfs"
    preempt_self_goes_on: bool = False
    preempt_leaves_out: bool = True
    watermark: float = 0.0
    max_model_len: int | None = None
    block_size: int = 16
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_bytes: int | None = None
    num_gpu_blocks_override: int | None = None
    dtype: str = "auto"
    quantization: str = "auto"
    kv_cache_dtype: str = "auto"
    enforce_eager: bool = False
    cudagraph_mode: str = "full_and_piecewise"

    @property
    def launches(self) -> tuple[bool, bool]:
        """Whether the host launches kernels one by one in decode-only steps, and in steps with a prompt."""
        return CUDAGRAPH_MODES["none" if self.enforce_eager else self.cudagraph_mode]

    def __post_init__(self) -> None:
        for name, (least, most) in FLAG_BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not (least <= value <= most and value == int(value)):
                bound = f"at most {most}" if value > most else f"an integer of at least {least}"
                raise SimjaxError(f"scheduler.{name}={value}: it must be {bound}")
        check_name("dtype", self.dtype, SERVED_DTYPES)
        check_name("kv_cache_dtype", self.kv_cache_dtype, KV_CACHE_DTYPES)
        if self.scheduling_policy not in SCHEDULING_POLICIES:
            known = closest(self.scheduling_policy, list(SCHEDULING_POLICIES))
            raise SimjaxError(f"scheduler.scheduling_policy={self.scheduling_policy}: there is no such policy; {known}")
        if self.cudagraph_mode not in CUDAGRAPH_MODES:
            known = closest(self.cudagraph_mode, list(CUDAGRAPH_MODES))
            raise SimjaxError(f"scheduler.cudagraph_mode={self.cudagraph_mode}: there is no such mode; {known}")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise SimjaxError(f"scheduler.gpu_memory_utilization={self.gpu_memory_utilization}: it must lie in (0, 1]")
        if not 0.0 <= self.watermark < 1.0:
            raise SimjaxError(f"scheduler.watermark={self.watermark}: it must lie in [0, 1)")


@dataclass(frozen=True)
class InstanceSpec:
    """One instance: a deployed model with its flags.

    Attributes:
        model: architecture that runs, in the data type of `limits`.
        device: kind of device it runs on.
        parallelism: number of devices and how they share the work.
        limits: vLLM's flags.
        link: link between its devices, None for the device's own link within a node.
        role: phases of a request that it runs.
        kv_stream: link over which its steps send the KV cache of their tokens before they end (`Deployment.kv_stream`); a `ClusterSpec`
            sets it as its connector says.
        speculation: speculative decoding, None without.
        weights: which weights are in memory outside the devices, None where none are; a `ClusterSpec` says how many devices read there.
        pim: memory that computes decode attention, None where the device does.

    Raises:
        SimjaxError: its parallelism is not simulated, or its model cannot be had in the precision that its limits ask for.
    """

    model: ModelSpec
    device: DeviceSpec
    parallelism: Parallelism = field(default_factory=Parallelism)
    limits: InstanceLimits = field(default_factory=InstanceLimits)
    link: LinkSpec | None = None
    role: Role = Role.BOTH
    kv_stream: LinkSpec | None = None
    speculation: Speculation | None = None
    weights: WeightPlacement | None = None
    pim: Pim | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.parallelism, Parallelism):
            raise SimjaxError(f"InstanceSpec: parallelism={self.parallelism!r} is now a record, such as Parallelism(tensor=2)")
        self.parallelism.require_simulated()
        if self.limits.dtype != "auto":
            object.__setattr__(self, "model", served_as(self.model, self.limits.dtype))
        if self.limits.quantization != "auto":
            object.__setattr__(self, "model", quantized_as(self.model, self.limits.quantization))
        computed = self.model.computed_in
        if computed is not None and computed not in self.device.peak_flops:
            has = f"{self.device.name} has no matrix products in {computed} (its peak_flops: {', '.join(self.device.peak_flops)})"
            raise SimjaxError(f"{self.model.name} is in {self.model.quantization}: {has}; int4, int8_wo and others quantise weights alone")
        if (self.limits.max_model_len or self.model.max_position_embeddings) <= self.model.shortest_window:
            object.__setattr__(self, "model", without_windows(self.model))
        _ = self.deployment.stages  # the layers can be divided so
        self.parallelism.experts.check(self.model, self.parallelism.expert)
        check_placement(self.deployment)
        check_pim(self.deployment)

    @cached_property
    def deployment(self) -> Deployment:
        """The properties on which its memory and its step times depend."""
        return Deployment(
            model=self.model,
            device=self.device,
            parallelism=self.parallelism,
            link=self.link or self.device.node.intra_link,
            kv_cache_dtype=self.limits.kv_cache_dtype,
            launches=self.limits.launches,
            async_scheduling=self.limits.async_scheduling,
            role=self.role,
            kv_stream=self.kv_stream,
            speculation=self.speculation,
            weights=self.weights,
            pim=self.pim,
        )

    @cached_property
    def broadcast_s(self) -> float:
        """Seconds from the sampling of tokens on the last pp stage to the first one having them."""
        tensor, stages, node = self.parallelism.tensor, self.parallelism.pipeline, self.device.node
        link = link_between(node, self.deployment.link, tensor, stages, stages - 1, 0)
        return broadcast_s(link, self.limits.max_num_seqs, 0 if self.speculation is None else self.speculation.num_speculative_tokens)

    @cached_property
    def footprint(self) -> Footprint:
        """What it takes of the cluster's nodes."""
        sizes = (self.parallelism.tensor, self.parallelism.pipeline)
        return Footprint.of(*sizes, self.device.node, self.device.name, self.role.value, self.parallelism.data)

    @cached_property
    def num_gpu_blocks(self) -> int:
        """KV blocks of the instance, or of each of its ranks, as vLLM reports them.

        Raises:
            SimjaxError: the model does not fit the device.
        """
        if self.limits.num_gpu_blocks_override is not None:
            return self.limits.num_gpu_blocks_override
        limits = {flag.name: getattr(self.limits, flag.name) for flag in fields(MemoryLimits)}
        return kv_blocks(self.deployment, MemoryLimits(**limits))

    @property
    def usable_blocks(self) -> int:
        """KV blocks that requests can use: vLLM keeps one as the null block."""
        return self.num_gpu_blocks - 1

    @property
    def watermark_blocks(self) -> int:
        """KV blocks that an admission leaves free where a request runs: a share of all, vLLM's null block included."""
        return int(self.limits.watermark * self.num_gpu_blocks)

    @property
    def longest_request_tokens(self) -> int:
        """Longest prompt + output that the instance accepts by its limits, whatever its KV cache holds."""
        longest = self.limits.max_model_len or self.model.max_position_embeddings
        # A prompt that cannot be split, and a preempted request that comes back, must fit a step.
        return longest if self.limits.enable_chunked_prefill else min(longest, self.limits.max_num_batched_tokens)
