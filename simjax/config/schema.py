"""The configuration's schema: plain dataclasses that Hydra checks every option against.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

import math
from dataclasses import dataclass

from simjax.config.cluster import ClusterConfig, MeasuredClusterConfig
from simjax.config.disaggregation import DISAGGREGATED, DisaggregationConfig
from simjax.config.network import NetworkConfig
from simjax.config.scheduler import BackendConfig, MeasuredBackendConfig, SchedulerConfig
from simjax.config.sweep import ObjectiveConfig, SweepConfig
from simjax.errors import SimjaxError
from simjax.options.condition import Condition, at_least, is_set, is_unset, needs
from simjax.options.option import option, section
from simjax.options.plausible import Plausible
from simjax.placement.config import WeightsConfig
from simjax.placement.pim_config import PimConfig
from simjax.power.config import PowerConfig
from simjax.pricing.config import PriceConfig
from simjax.speculation.config import MeasuredSpeculationConfig, SpeculationConfig
from simjax.tiering.config import TieringConfig
from simjax.workload.config import WorkloadConfig

_NO_FILE = is_unset("cluster.file", words="")
_HOST = Plausible(1e-7, 1, "seconds (not ms or microseconds)")
FEWEST_DRAWS, MOST_DRAWS = 8, 4_096
SENSITIVITY_KINDS = ("both", "total", "pathwise")
MOST_SEEDS = 256
"""Most workloads of `simjax sensitivity`."""


@dataclass
class ProfileConfig:
    """The source of step times."""

    file: str | None = option(
        None,
        "latency profile, short: profile=FILE; unset: the one shipped for device and model, else for the device",
        "FILE.yaml",
    )
    bundle_root: str | None = option(None, "measured op tables instead, in DIR/<device>/<model>/<variant>/tp<N>", "DIR")
    variant: str = option("bf16", "variant of the op tables", only=(is_set("bundle_root"),))
    step_s: float | None = option(None, "host seconds of a step that the device does not hide; unset: the profile's", plausible=_HOST)
    api_pre_s: float | None = option(None, "API seconds of a request before it is queued; unset: the profile's", plausible=_HOST)
    api_post_s: float | None = option(None, "API seconds of a token on its way to the client; unset: the profile's", plausible=_HOST)
    parameters: dict[str, float] = option({}, "parameters on top of the profile: factors on efficiencies, or values instead of its own")


@dataclass
class UncertaintyConfig:
    """Intervals of the numbers of a run, from the uncertainty of its profile's parameters."""

    draws: int = option(
        0, f"further runs with drawn parameters, {FEWEST_DRAWS} to {MOST_DRAWS} (from the profile's calibration, else priors); 0: none"
    )
    level: float = option(0.9, "probability of the intervals", only=(at_least("draws", 1),))
    seed: int = option(0, "seed of the draws", only=(at_least("draws", 1),))
    load: bool = option(
        True,
        "each draw has requests of its own (further seeds), so that intervals cover their randomness; not of a trace",
        only=(at_least("draws", 1),),
    )

    def __post_init__(self) -> None:
        if self.draws != 0 and not FEWEST_DRAWS <= self.draws <= MOST_DRAWS:
            raise SimjaxError(f"uncertainty.draws={self.draws}: it must be {FEWEST_DRAWS} to {MOST_DRAWS:,}, or 0 for no intervals")
        if not 0 < self.level < 1:
            raise SimjaxError(f"uncertainty.level={self.level}: it must lie in (0, 1), such as 0.9")
        if self.seed < 0:
            raise SimjaxError(f"uncertainty.seed={self.seed}: it must not be negative")


@dataclass
class SimConfig:
    """The way a simulation is carried out."""

    leap: bool = option(True, "take pure-decode steps many at a time; false gives the same results more slowly")
    activity: bool = option(False, "record busy time, and tokens by phase, of each instance: columns of a sweep, entries of a summary")
    max_ticks: int = option(50_000_000, "bound on the length of a run, which then ends with status tick_limit")

    def __post_init__(self) -> None:
        if self.max_ticks < 1:
            raise SimjaxError(f"sim.max_ticks={self.max_ticks}: it must be at least 1")


@dataclass
class SloConfig:
    """Service levels in seconds that a request must meet to count for goodput; unset ones do not matter."""

    ttft_s: float | None = option(None, "greatest time to first token", plausible=Plausible(1e-3, 120, "seconds (not ms)"))
    tpot_s: float | None = option(None, "greatest mean time per output token", plausible=Plausible(1e-4, 5, "seconds (not ms)"))
    e2e_s: float | None = option(None, "greatest end-to-end latency", plausible=Plausible(1e-2, 3600, "seconds (not ms)"))

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            _check_seconds(f"slo.{name}", getattr(self, name))


@dataclass
class MetricsConfig:
    """The measurement window: the part of a run over which latencies, throughput and attainment are taken."""

    warmup_s: float | None = option(
        None, "seconds from the first arrival that are left out; unset: two times the stay of a request, 0 for traces, pulses and bursts"
    )
    cooldown_s: float | None = option(
        None,
        "seconds before the last finish that are left out; unset: all after the last arrival and one stay before it, 0 as above",
    )

    def __post_init__(self) -> None:
        for name in ("warmup_s", "cooldown_s"):
            seconds = getattr(self, name)
            if seconds is not None and not (seconds >= 0 and math.isfinite(seconds)):
                raise SimjaxError(f"metrics.{name}={seconds}: it must be a number of seconds that is not negative")


@dataclass
class DeployedConfig:
    """Options that describe a cluster."""

    model: str = option("llama-3.1-8b", "a shipped name, its Hugging Face id, or the path of a config.json", only=(_NO_FILE,))
    device: str = option("h100", "a shipped name, or the path of a file like profiles/hardware/h100.yaml", only=(_NO_FILE,))
    cluster: ClusterConfig = section(ClusterConfig, "instances and their router")
    network: NetworkConfig = section(NetworkConfig, "nodes and their links", only=(_NO_FILE,))
    scheduler: SchedulerConfig = section(SchedulerConfig, "flags of the instances, under vLLM's names")
    backend: BackendConfig = section(BackendConfig, "serving software")
    speculation: SpeculationConfig = section(SpeculationConfig, "speculative decoding")
    weights: WeightsConfig = section(WeightsConfig, "weights outside the devices")
    pim: PimConfig = section(PimConfig, "decode attention in memory that computes")
    kv_tiers: TieringConfig = section(TieringConfig, "KV offloading: tiers of KV cache behind that of the devices")
    disaggregation: DisaggregationConfig = section(
        DisaggregationConfig, "hand-over of requests from prefill to decode instances", only=(DISAGGREGATED,)
    )


@dataclass
class SimulatedConfig(DeployedConfig):
    """Options that the commands which simulate a configuration have in common."""

    workload: WorkloadConfig = section(WorkloadConfig, "requests")
    profile: ProfileConfig = section(ProfileConfig, "step times")
    power: PowerConfig = section(PowerConfig, "power and energy")
    price: PriceConfig = section(PriceConfig, "money and carbon")
    sim: SimConfig = section(SimConfig, "the simulation itself")
    slo: SloConfig = section(SloConfig, "service levels; with them results have attainment and goodput")
    metrics: MetricsConfig = section(MetricsConfig, "measurement window; warmup_s=0 and cooldown_s=0 measure the whole run")
    out: str | None = option(None, "directory of the results; unset: a dated one under outputs/", "DIR")
    plots: bool = option(True, "whether to draw plots")


@dataclass
class RunConfig(SimulatedConfig):
    """`simjax run`."""

    timeline_interval_s: float | None = option(None, "bin of timeseries.csv in seconds; unset: a round number that gives some hundred bins")
    uncertainty: UncertaintyConfig = section(UncertaintyConfig, "intervals, from the uncertainty of step times")
    sweep: SweepConfig = section(SweepConfig, "many runs in one call, all combinations of the swept values")
    objective: ObjectiveConfig = section(
        ObjectiveConfig,
        "metrics of a sweep's Pareto front",
        only=(needs(("sweep",), lambda sweep: sweep.asked, "without a sweep (-m, or sweep=NAME)"),),
    )

    def __post_init__(self) -> None:
        _check_seconds("timeline_interval_s", self.timeline_interval_s)


@dataclass
class SensitivityConfig(SimulatedConfig):
    """`simjax sensitivity`."""

    outputs: list[str] = option(
        [],
        "columns of a sweep's results.csv, the table is sorted by the first; []: means and P99 of TTFT and TPOT, mean E2E latency, "
        "output tokens/s and, with slo.*, goodput",
    )
    parameters: list[str] = option([], "names of the parameters to vary; []: all that matter")
    kind: str = option(
        "both",
        "total: differences of simulations with the same requests; pathwise: derivatives with the schedule held, too small at ordinary "
        "load (experiments/derivatives); or both",
    )
    step: float = option(
        0.02,
        "relative change of a parameter, up and down (of integers at least 1)",
        only=(needs(("kind",), lambda kind: kind != "pathwise", "with kind=pathwise", words="not with pathwise", refused=False),),
    )
    seeds: int = option(4, f"workloads that the numbers are means over, from workload.seed on, up to {MOST_SEEDS}; a trace has one")

    def __post_init__(self) -> None:
        if self.kind not in SENSITIVITY_KINDS:
            raise SimjaxError(f"kind={self.kind}: it must be {', '.join(SENSITIVITY_KINDS[:-1])} or {SENSITIVITY_KINDS[-1]}")
        if not 0.0001 <= self.step <= 0.5:
            raise SimjaxError(f"step={self.step}: it must be a relative change from 0.0001 to 0.5, such as 0.02")
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise SimjaxError(f"seeds={self.seeds}: it must be 1 to {MOST_SEEDS}")


def _not_explained(name: str) -> tuple[Condition, ...]:
    return (Condition((name,), lambda _: "in simjax explain, which divides latencies; simjax run reports it"),)


@dataclass
class ExplainConfig(SimulatedConfig):
    """`simjax explain`."""

    power: PowerConfig = section(
        PowerConfig,
        "power, where it makes steps longer",
        only=(
            needs(
                ("power",),
                lambda power: power.cap_w is not None or power.node_cap_w is not None or power.clock != 1.0,
                "in simjax explain without power.cap_w, power.node_cap_w or power.clock: nothing else of it changes a latency",
            ),
        ),
    )
    price: PriceConfig = section(PriceConfig, "money and carbon, which say nothing of latencies", only=_not_explained("price"))
    slo: SloConfig = section(SloConfig, "service levels, which say nothing of latencies", only=_not_explained("slo"))
    trace: bool = option(True, "write trace.json, the run as Perfetto (ui.perfetto.dev) shows it")


@dataclass
class MeasuredWorkloadConfig:
    """`workload` of `simjax validate`: the arrivals are the measured ones."""

    file: str | None = option(
        None, "trace that the measured run replayed, checked against it; its token ids show what prompts share", "FILE"
    )
    max_concurrency: int | None = option(
        None,
        "most requests in flight of the client, under which its schedule is replayed; unset: as recorded or found; 0: as they were sent",
    )


@dataclass
class ValidateConfig:
    """`simjax validate`; an unset option takes what the measured run records."""

    measured: str | None = option(
        None, "directory of the measured run, the result file of a load generator, or a table of requests with their times", "DIR"
    )
    model: str | None = option(None, "model, as in simjax run; unset: the measured one", "NAME")
    device: str | None = option(None, "device, as in simjax run; unset: the measured one", "NAME")
    cluster: MeasuredClusterConfig = section(MeasuredClusterConfig, "deviations from the recorded cluster")
    speculation: MeasuredSpeculationConfig = section(
        MeasuredSpeculationConfig, "acceptance of the drafts of runs with speculative decoding"
    )
    scheduler: SchedulerConfig = section(SchedulerConfig, "vLLM's flags, where they differ from the recorded ones")
    backend: MeasuredBackendConfig = section(MeasuredBackendConfig, "serving software")
    workload: MeasuredWorkloadConfig = section(MeasuredWorkloadConfig, "requests")
    profile: ProfileConfig = section(ProfileConfig, "step times")
    sim: SimConfig = section(SimConfig, "the simulation itself")
    out: str | None = option(None, "directory of the results; unset: a dated one under outputs/", "DIR")
    plots: bool = option(True, "whether to draw plots")


@dataclass
class DescribeConfig:
    """`simjax trace describe FILE`."""

    workload: WorkloadConfig = section(WorkloadConfig, "trace: how it is read and changed")
    block_size: int = option(16, "tokens of a block of the prefix caches whose hits are reported, for traces that record what is shared")
    cache_blocks: list[int] | None = option(None, "sizes of these caches in blocks; unset: shares of the distinct blocks")
    out: str | None = option(None, "directory of the results; unset: a dated one under outputs/", "DIR")


@dataclass
class ExportConfig:
    """`simjax trace export FILE`."""

    requests: str | None = option(
        None, "requests with their times: the requests.csv of a run, or anything else that simjax validate reads", "FILE"
    )
    out: str | None = option(None, "file to write: a .json file, or a directory for vllm_bench.json; unset: vllm_bench.json", "PATH")


@dataclass
class FitConfig:
    """`simjax profile fit`."""

    bundle: str | None = option(None, "directory of measured op tables, the one that holds meta.yaml", "DIR")
    out: str | None = option(None, "profile to write: a .yaml file, or a directory for profile.yaml; unset: in outputs/", "PATH")


@dataclass
class ImportConfig:
    """`simjax profile import`."""

    device: str | None = option(None, "device whose operators are imported", "NAME")
    systems: str | None = option(None, "folder systems of aiconfigurator-core; unset: that of the installed package", "DIR")
    base: str | None = option(None, "profile that keeps what is not imported; unset: the device's generic one", "FILE.yaml")
    only: list[str] = option(
        [], "operations to import, such as gemm_fp8 or experts_*; empty: all. Those of other backends alone always are", "NAMES"
    )
    out: str | None = option(None, "profile to write: a .yaml file, or a directory for profile.yaml; unset: in outputs/", "PATH")


def _check_seconds(name: str, value: float | None) -> None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise SimjaxError(f"{name}={value}: it must be a positive number of seconds")
