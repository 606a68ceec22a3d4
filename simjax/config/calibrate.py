"""The schema of `simjax calibrate`."""

from dataclasses import dataclass, field, fields
from typing import Any

from simjax.config.schema import MeasuredClusterConfig, ProfileConfig, SchedulerConfig
from simjax.errors import SimjaxError, closest

METHODS = ("auto", "lm", "lbfgs", "adam")


@dataclass
class ParameterConfig:
    """An entry of `parameters`.

    Attributes:
        free: whether it is fitted; unset: as usual.
        prior: median of the prior; the value of a parameter that is not fitted.
        sd: standard deviation of the prior, of the value's logarithm (of a share's logit).
        tie: another parameter whose value it takes.
    """

    free: bool | None = None
    prior: float | None = None
    sd: float | None = None
    tie: str | None = None

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
    """How to search.

    Attributes:
        method: lm (Levenberg-Marquardt, forward mode), lbfgs or adam (optax, reverse mode); auto: lm for up to `most_for_lm` parameters.
        starts: points of the prior that the search begins from, side by side; unset: 8 for up to 300 requests, fewer for more, at least 4.
        max_steps: most steps of each.
        seed: of the starts.
        first_fraction: share of each run's requests, the first in time, that the fit looks at; the others are scored as held out.
        most_for_lm: see method.
    """

    method: str = "auto"
    starts: int | None = None
    max_steps: int = 40
    seed: int = 0
    first_fraction: float = 1.0
    most_for_lm: int = 40

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
    """What counts.

    Attributes:
        weight: factor on the weight of all measurements against the prior.
        outlier: residuals beyond so many standard deviations count linearly.
    """

    weight: float = 1.0
    outlier: float = 3.0

    def __post_init__(self) -> None:
        for name in ("weight", "outlier"):
            if not getattr(self, name) > 0:
                raise SimjaxError(f"loss.{name}={getattr(self, name)}: it must be positive")


@dataclass
class PointsConfig:
    """Measured mean points: a table of deployments in closed loops with their mean TTFT and TPOT (`simjax.calibrate.targets.points`).

    Attributes:
        file: the CSV table.
        models, backends, precision: rows to keep; unset: all of the device that can be simulated.
    """

    file: str | None = None
    models: list[str] | None = None
    backends: list[str] | None = None
    precision: str | None = None


@dataclass
class ReplayedConfig:
    """`workload` of `simjax calibrate`.

    Attributes:
        file: the trace that the runs replayed, or a list of traces: each run takes the one that holds its requests, and from its token ids
            what they share.
    """

    file: Any = None

    def paths(self) -> list[str]:
        """The traces, whether one or several were given."""
        return _listed(self.file)


@dataclass
class CalibrateConfig:
    """`simjax calibrate`; what is unset comes from the measured runs.

    Attributes:
        measured: directories of the measured runs to fit, or one of them.
        held_out: measured runs that are only scored.
        model, device, cluster, scheduler, profile, out, plots: as in `simjax validate`; the profile is where the fit begins.
        workload: see `ReplayedConfig`.
        tables: directories of measured op tables to fit beside the runs, or alone (with `device`).
        points: measured mean points likewise.
        parameters: by name, a mapping with the keys of `ParameterConfig`.
        fit, loss: how to search, and what counts.
    """

    measured: Any = None
    held_out: list[str] = field(default_factory=list)
    model: str | None = None
    device: str | None = None
    cluster: MeasuredClusterConfig = field(default_factory=MeasuredClusterConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    workload: ReplayedConfig = field(default_factory=ReplayedConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    tables: list[str] = field(default_factory=list)
    points: PointsConfig = field(default_factory=PointsConfig)
    parameters: dict[str, Any] = field(default_factory=dict)
    fit: FitOptionsConfig = field(default_factory=FitOptionsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    out: str | None = None
    plots: bool = True

    def measured_paths(self) -> list[str]:
        """The directories to fit, whether one or several were given."""
        return _listed(self.measured)


def _listed(given: Any) -> list[str]:
    return [] if given is None else [str(given)] if not isinstance(given, list | tuple) else [str(path) for path in given]
