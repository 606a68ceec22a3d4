"""The schemas of `simjax calibrate`, `simjax handover fit` and `simjax power fit`."""

from dataclasses import dataclass, fields
from typing import Any

from simjax.config.cluster import MeasuredClusterConfig
from simjax.config.scheduler import MeasuredBackendConfig, SchedulerConfig
from simjax.config.schema import DeployedConfig, ProfileConfig, SimConfig
from simjax.errors import SimjaxError, closest
from simjax.options.condition import is_set, one_of
from simjax.options.option import option, section
from simjax.power.config import PowerConfig
from simjax.speculation.config import MeasuredSpeculationConfig
from simjax.workload.config import WorkloadConfig

METHODS = ("auto", "lm", "lbfgs", "adam")
_FILE = (is_set("file"),)


@dataclass
class ParameterConfig:
    """An entry of `parameters`."""

    free: bool | None = option(None, "whether the parameter is fitted; unset: as usual")
    prior: float | None = option(None, "median of the prior; the value of a parameter that is not fitted")
    sd: float | None = option(None, "standard deviation of the prior, of the value's logarithm (of a share's logit)")
    tie: str | None = option(None, "another parameter whose value it takes", "NAME")

    @staticmethod
    def of(name: str, raw: Any) -> "ParameterConfig":
        """The entry of that name, a mapping with these keys.

        Raises:
            SimjaxError: it is no mapping, names an unknown key, or a value is of the wrong type.
        """
        known = {f.name: kinds for f, kinds in zip(fields(ParameterConfig), (bool, (int, float), (int, float), str), strict=True)}
        if not isinstance(raw, dict):
            raise SimjaxError(f"parameters.{name}={raw}: give a mapping like {{free: false}} (keys: {', '.join(known)})")
        for key, value in raw.items():
            if key not in known:
                raise SimjaxError(f"parameters.{name}.{key}: there is no such key; {closest(str(key), list(known))}")
            wanted = {"free": "true or false", "tie": "a name"}.get(key, "a number")
            if not isinstance(value, known[key]) or (isinstance(value, bool) and key != "free"):
                raise SimjaxError(f"parameters.{name}.{key}={value}: it must be {wanted}")
        return ParameterConfig(**raw)


@dataclass
class FitOptionsConfig:
    """The search for the best parameters."""

    method: str = option("auto", "lm: Levenberg-Marquardt; lbfgs, adam: by gradients; auto: lm for few parameters")
    starts: int | None = option(None, "starting points, side by side; unset: 8 for up to 300 requests, down to 4 for more")
    max_steps: int = option(40, "most steps of each")
    seed: int = option(0, "seed of the starting points")
    first_fraction: float = option(1.0, "share of each run's requests, the first in time, to fit; the others are scored as held out")
    most_for_lm: int = option(40, "most parameters for which method=auto takes lm", only=(one_of("method", "auto", words=""),))

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SimjaxError(f"fit.method={self.method}: there is no such method; {closest(self.method, list(METHODS))}")
        for name in ("starts", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SimjaxError(f"fit.{name}={value}: it must be at least 1")
        if self.seed < 0:
            raise SimjaxError(f"fit.seed={self.seed}: it must not be negative")
        if not 0 < self.first_fraction <= 1:
            raise SimjaxError(f"fit.first_fraction={self.first_fraction}: it must lie in (0, 1]")


@dataclass
class LossConfig:
    """The loss of a fit."""

    weight: float = option(1.0, "factor on the weight of all measurements against the priors")
    outlier: float = option(3.0, "standard deviations beyond which residuals count linearly")

    def __post_init__(self) -> None:
        for name in ("weight", "outlier"):
            if not getattr(self, name) > 0:
                raise SimjaxError(f"loss.{name}={getattr(self, name)}: it must be positive")


@dataclass
class PointsConfig:
    """Measured mean points: a table of deployments in closed loops with their mean TTFT and TPOT (`simjax.calibrate.targets.points`)."""

    file: str | None = option(None, "CSV table of mean TTFT and TPOT; beside runs, or alone with device=NAME", "FILE.csv")
    models: list[str] | None = option(None, "models whose rows to keep; unset: all that can be simulated", "[NAME,...]", only=_FILE)
    backends: list[str] | None = option(None, "backends whose rows to keep, such as vllm; unset: all", "[NAME,...]", only=_FILE)
    precision: str | None = option(None, "precision of the rows to keep, such as bf16; unset: all", "NAME", only=_FILE)


@dataclass
class ReplayedConfig:
    """`workload` of `simjax calibrate`."""

    file: Any = option(
        None,
        "trace that the runs replayed, or a list: each run takes the one with its requests; its token ids show what prompts share",
        "[FILE,...]",
    )
    max_concurrency: int | None = option(
        None,
        "most requests in flight of the clients, under which schedules are replayed; unset: as recorded or found; 0: as they were sent",
    )

    def paths(self) -> list[str]:
        """The traces, whether one or several were given."""
        return _listed(self.file)


@dataclass
class CalibrateConfig:
    """`simjax calibrate`; an unset option takes what the measured runs record."""

    measured: Any = option(
        None, "directories or files of the measured runs to fit, all on one device (layouts: validate --help)", "[DIR,...]"
    )
    held_out: list[str] = option([], "directories or files of measured runs that are only scored")
    allow_unsimulated: bool = option(False, "whether to fit runs whose recorded settings ask for what is not simulated")
    model: str | None = option(None, "model, as in simjax run; unset: the measured one", "NAME")
    device: str | None = option(None, "device, as in simjax run; unset: the measured one", "NAME")
    cluster: MeasuredClusterConfig = section(MeasuredClusterConfig, "deviations from the recorded clusters")
    speculation: MeasuredSpeculationConfig = section(
        MeasuredSpeculationConfig, "acceptance of the drafts of runs with speculative decoding"
    )
    scheduler: SchedulerConfig = section(SchedulerConfig, "vLLM's flags, where they differ from the recorded ones")
    backend: MeasuredBackendConfig = section(MeasuredBackendConfig, "serving software")
    workload: ReplayedConfig = section(ReplayedConfig, "requests")
    profile: ProfileConfig = section(
        ProfileConfig, "where the fit begins: a profile, or op tables; host times that are set are known and not fitted"
    )
    tables: list[str] = option([], "directories of op tables (with meta.yaml) to fit beside the runs, or alone with device=NAME")
    points: PointsConfig = section(PointsConfig, "measured mean points: deployments in closed loops")
    parameters: dict[str, Any] = option(
        {}, "mappings by name (as in profile.parameters): free, prior (median), sd (of the logarithm), tie (to another)"
    )
    fit: FitOptionsConfig = section(FitOptionsConfig, "the search for the best parameters")
    loss: LossConfig = section(LossConfig, "the weight of the measurements")
    out: str | None = option(None, "directory of the results; unset: a dated one under outputs/", "DIR")
    plots: bool = option(True, "whether to draw plots")

    def measured_paths(self) -> list[str]:
        """The directories to fit, whether one or several were given."""
        return _listed(self.measured)


@dataclass
class HandoverFitConfig(DeployedConfig):
    """`simjax handover fit`."""

    transfers: str | None = option(
        None,
        "CSV table of transfers measured one by one: bytes, blocks or prompt_tokens, and transfer_s, transfer_ms or transfer_us",
        "FILE",
    )
    requests: str | None = option(
        None,
        "CSV table of measured requests: arrival_s, prompt_tokens, output_tokens, ttft_s; perhaps stamps of the hand-over",
        "FILE",
    )
    profile: ProfileConfig = section(ProfileConfig, "step times, with which requests are simulated")
    parameters: dict[str, Any] = option(
        {}, "mappings by name: free, prior (median), sd (of the logarithm, of a share's logit), such as {empty_pass_s: {free: true}}"
    )
    seed: int = option(0, "seed of the candidates")
    out: str | None = option(None, "directory of the results; unset: a dated one under outputs/", "DIR")

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise SimjaxError(f"seed={self.seed}: it must not be negative")


@dataclass
class PowerFitConfig(DeployedConfig):
    """`simjax power fit`."""

    log: str | None = option(
        None, "samples of a meter while the requests were served: nvidia-smi, ipmitool, DCGM, Prometheus, or CSV of t_s and power_w", "FILE"
    )
    latest_s: float = option(5.0, "most seconds from the log's first sample to the first request")
    workload: WorkloadConfig = section(WorkloadConfig, "the requests that were served")
    profile: ProfileConfig = section(ProfileConfig, "step times")
    power: PowerConfig = section(PowerConfig, "power of the devices, whose steps the fit scales")
    sim: SimConfig = section(SimConfig, "the simulation itself")
    out: str | None = option(None, "directory of the results; unset: a dated one under outputs/", "DIR")
    plots: bool = option(True, "whether to draw plots")

    def __post_init__(self) -> None:
        if not 0 <= self.latest_s <= 3600:
            raise SimjaxError(f"latest_s={self.latest_s}: it must be a number of seconds from 0 to 3600")


def _listed(given: Any) -> list[str]:
    return [] if given is None else [str(given)] if not isinstance(given, list | tuple) else [str(path) for path in given]
