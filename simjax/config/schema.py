"""The configuration's schema: plain dataclasses that Hydra checks every option against.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from simjax.config.sweep import ObjectiveConfig, SweepConfig
from simjax.errors import SimjaxError
from simjax.workload.config import WorkloadConfig

FEWEST_DRAWS, MOST_DRAWS = 8, 4_096
MOST_SEEDS = 256  # of `simjax sensitivity`


@dataclass
class SchedulerConfig:
    """Engine limits, vLLM's flags; unset ones take vLLM's default or, in `simjax validate`, what the measured run recorded.

    Attributes:
        max_num_seqs: most requests running at once.
        max_num_batched_tokens: token budget of a step.
        long_prefill_token_threshold: most tokens of one request in a step, 0 = no limit.
        enable_chunked_prefill: whether a prompt may be split over steps.
        reserve_full_isl: admit a request only if its whole sequence fits the free KV blocks.
        async_scheduling: form a step when the one before starts, not when it ends (default of vLLM since 0.14).
        enable_prefix_caching: keep the KV blocks of what was computed, for requests that begin with the same tokens and for preempted ones
            that come back; unset: if the workload knows what its requests share.
        max_model_len: longest prompt + output in tokens; unset: the model's.
        block_size: tokens of a KV block.
        gpu_memory_utilization: fraction of the device memory the engine may use.
        kv_cache_memory_bytes: size of the KV cache of one device, instead of what `gpu_memory_utilization` leaves.
        num_gpu_blocks_override: KV blocks as vLLM reports them, whatever fits the device.
        kv_cache_dtype: "auto" (the model's) or another type, such as "fp8" (fp8_e4m3 and fp8_e5m2 are as large).
        enforce_eager: run without CUDA graphs, so that a step takes at least as long as the host needs to launch its kernels.
        cudagraph_mode: steps that CUDA graphs launch: full_and_piecewise (all), full_decode_only (those without a prompt) or none.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    long_prefill_token_threshold: int | None = None
    enable_chunked_prefill: bool | None = None
    reserve_full_isl: bool | None = None
    async_scheduling: bool | None = None
    enable_prefix_caching: bool | None = None
    max_model_len: int | None = None
    block_size: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    num_gpu_blocks_override: int | None = None
    kv_cache_dtype: str | None = None
    enforce_eager: bool | None = None
    cudagraph_mode: str | None = None


@dataclass
class GroupConfig(SchedulerConfig):
    """One entry of `cluster.groups`: engines of one kind. What is unset comes from the run.

    Attributes:
        instances: engines of this kind.
        model, device, tensor_parallel_size: as for the run.
    """

    instances: int = 1
    model: str | None = None
    device: str | None = None
    tensor_parallel_size: int | None = None


@dataclass
class ClusterConfig:
    """How many engines, and what stands before them.

    Attributes:
        instances: engines of the run's model and device.
        tensor_parallel_size: devices each engine is spread over.
        router: round_robin, random, least_loaded, least_kv, longest_prefix, session_affinity or weighted. The load is
            (4 waiting + running) / max_num_seqs: vLLM's weights, divided by the seats so that engines of different sizes compare.
            longest_prefix takes the engine with the most tokens of the prompt in its prefix cache; session_affinity that of the session's
            latest call, and the least loaded one for the first; weighted the smallest weighted sum of the part of the prompt that is not
            cached, the load and the KV cache's use.
        router_prefix_weight, router_queue_weight, router_kv_weight: of the weighted router.
        router_staleness_s: age at which the router renews its view of the engines, 0 = it sees them as they are.
        groups: engines of several kinds instead, each a mapping with the keys of `GroupConfig`.
        file: cluster file in LLMServingSim's JSON schema instead.
        link_bandwidth_bytes_per_s, link_latency_s: link between the devices of an engine; unset: the device's.
    """

    instances: int = 1
    tensor_parallel_size: int | None = None
    router: str = "round_robin"
    router_prefix_weight: float = 1.0
    router_queue_weight: float = 1.0
    router_kv_weight: float = 1.0
    router_staleness_s: float = 0.0
    groups: list[Any] = field(default_factory=list)
    file: str | None = None
    link_bandwidth_bytes_per_s: float | None = None
    link_latency_s: float | None = None


@dataclass
class ProfileConfig:
    """What a step costs.

    Attributes:
        file: latency profile (YAML); unset: the one shipped for device and model, else for the device.
        bundle_root: measured op tables instead, looked up as <bundle_root>/<device>/<model>/<variant>/tp<N>.
        variant: which tables.
        step_s: host time per step that the device does not hide; unset: the profile's.
        api_pre_s, api_post_s: API time of a request before it is queued, of a token on its way to the client; unset: the profile's.
        parameters: values of `simjax.latency.parameters` by name, applied on top of the profile.
    """

    file: str | None = None
    bundle_root: str | None = None
    variant: str = "bf16"
    step_s: float | None = None
    api_pre_s: float | None = None
    api_post_s: float | None = None
    parameters: dict[str, float] = field(default_factory=dict)


@dataclass
class UncertaintyConfig:
    """How sure the numbers of a run are, as far as the parameters of its profile go.

    Attributes:
        draws: simulations beside the run, with parameters drawn from the profile's calibration, or from priors where it has none; 0: none.
        level: probability of the intervals.
        seed: of the draws.
    """

    draws: int = 0
    level: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws != 0 and not FEWEST_DRAWS <= self.draws <= MOST_DRAWS:
            raise SimjaxError(f"uncertainty.draws={self.draws}: it must be {FEWEST_DRAWS} to {MOST_DRAWS:,}, or 0 for no intervals")
        if not 0 < self.level < 1:
            raise SimjaxError(f"uncertainty.level={self.level}: it must lie in (0, 1), such as 0.9")
        if self.seed < 0:
            raise SimjaxError(f"uncertainty.seed={self.seed}: it must not be negative")


@dataclass
class SimConfig:
    """How to simulate.

    Attributes:
        leap: take pure-decode steps many at a time; the results are the same, only slower without.
        max_ticks: bound on the length of a run; one that reaches it ends with what it has.
    """

    leap: bool = True
    max_ticks: int = 50_000_000

    def __post_init__(self) -> None:
        if self.max_ticks < 1:
            raise SimjaxError(f"sim.max_ticks={self.max_ticks}: it must be at least 1")


@dataclass
class SloConfig:
    """Service levels a request must meet to count for goodput, in seconds; unset ones do not matter."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            _check_seconds(f"slo.{name}", getattr(self, name))


@dataclass
class SimulatedConfig:
    """What a command that simulates a configuration has in common with the others.

    Attributes:
        model: a shipped name (llama-3.1-8b), a Hugging Face id, or the path of a config.json.
        device: a shipped name (h100) or the path of a YAML file.
        out: output directory; unset: a dated one under outputs/.
        plots: whether to draw.
    """

    model: str = "llama-3.1-8b"
    device: str = "h100"
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    slo: SloConfig = field(default_factory=SloConfig)
    out: str | None = None
    plots: bool = True


@dataclass
class RunConfig(SimulatedConfig):
    """`simjax run`.

    Attributes:
        timeline_interval_s: bin of timeseries.csv; unset: a round number that gives a few hundred bins.
        uncertainty: intervals beside the numbers.
        sweep: many such runs, one table of results.
        objective: what a sweep looks for.
    """

    timeline_interval_s: float | None = None
    uncertainty: UncertaintyConfig = field(default_factory=UncertaintyConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        _check_seconds("timeline_interval_s", self.timeline_interval_s)


@dataclass
class SensitivityConfig(SimulatedConfig):
    """`simjax sensitivity`.

    Attributes:
        outputs: names of `simjax.metrics.rows.METRICS`; empty: the usual ones.
        parameters: which ones; empty: all.
        step: relative change of a parameter, in both directions.
        seeds: workloads that the numbers are means over, with the seeds from `workload.seed` on; a trace has one.
    """

    outputs: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    step: float = 0.02
    seeds: int = 4

    def __post_init__(self) -> None:
        if not 0.0001 <= self.step <= 0.5:
            raise SimjaxError(f"step={self.step}: it must be a relative change from 0.0001 to 0.5, such as 0.02")
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise SimjaxError(f"seeds={self.seeds}: it must be 1 to {MOST_SEEDS}")


@dataclass
class MeasuredClusterConfig:
    """`cluster` of `simjax validate`: the measured one, where nothing else is said. Keys as in `ClusterConfig`."""

    tensor_parallel_size: int | None = None
    router: str = "round_robin"
    link_bandwidth_bytes_per_s: float | None = None
    link_latency_s: float | None = None


@dataclass
class MeasuredWorkloadConfig:
    """`workload` of `simjax validate`: the arrivals are the measured ones.

    Attributes:
        file: the trace the measured run replayed; its lengths must be the measured ones.
    """

    file: str | None = None


@dataclass
class ValidateConfig:
    """`simjax validate`; what is unset comes from the measured run.

    Attributes:
        measured: directory of the measured run.
        model, device, scheduler, profile, sim, out, plots: as in `simjax run`.
        cluster, workload: see `MeasuredClusterConfig`, `MeasuredWorkloadConfig`.
    """

    measured: str | None = None
    model: str | None = None
    device: str | None = None
    cluster: MeasuredClusterConfig = field(default_factory=MeasuredClusterConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    workload: MeasuredWorkloadConfig = field(default_factory=MeasuredWorkloadConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    out: str | None = None
    plots: bool = True


@dataclass
class DescribeConfig:
    """`simjax trace describe FILE`: how to read the trace (fields as in `workload`), and where to write.

    Attributes:
        workload: the trace.
        block_size: tokens of a block of the prefix cache whose hits are told, where the trace tells what requests share.
        cache_blocks: sizes of that cache in blocks; unset: shares of the distinct blocks.
        out: directory of the results; unset: a dated one under outputs/.
    """

    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    block_size: int = 16
    cache_blocks: list[int] | None = None
    out: str | None = None


@dataclass
class FitConfig:
    """`simjax profile fit`.

    Attributes:
        bundle: directory of measured op tables (the one that holds meta.yaml).
        out: the profile to write (a .yaml file, or a directory for profile.yaml); unset: a dated directory under outputs/.
    """

    bundle: str | None = None
    out: str | None = None


def _check_seconds(name: str, value: float | None) -> None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise SimjaxError(f"{name}={value}: it must be a positive number of seconds")
