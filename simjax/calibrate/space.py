"""The parameters that a fit is free to change, and the whitened coordinates in which it moves: 0 is the prior's median, 1 its sd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.latency.parameters import PARALLEL, present_value
from simjax.latency.priors import BACKEND_TIMES, DRAWN, PARAMETERS, STEP_CORRECTIONS, VLLM, Parameter, parameter
from simjax.latency.profiles.profile import LatencyProfile

MOST = 4.0  # prior standard deviations: the bound of every parameter
NEAR_BOUND = 0.9  # fraction of MOST from which a parameter counts as near its bound
# Overlap needs runs with and without asynchronous scheduling; step corrections stand for what no physical parameter explains.
NEVER_BY_THEMSELVES = ("overlap", *STEP_CORRECTIONS)
ONLY_WITH_RANKS = ("collective_bandwidth", "collective_latency")
ONLY_LAUNCHED, ONLY_FP8 = "launch_s", "fp8_compute"


@dataclass(frozen=True)
class Prior:
    """A parameter's normal prior in its transformed value; `median` is a value."""

    parameter: Parameter
    median: float
    sd: float

    @property
    def center(self) -> float:
        """The transformed median."""
        return float(self.parameter.transform(self.median))


@dataclass(frozen=True)
class Space:
    """The free parameters of a fit.

    Attributes:
        priors: priors of the free parameters, in order.
        ties: other parameters that take the value of a free one.
        fixed: other parameters with a value of their own.
    """

    priors: tuple[Prior, ...]
    ties: tuple[tuple[str, str], ...] = ()
    fixed: tuple[tuple[str, float], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the free parameters."""
        return tuple(prior.parameter.name for prior in self.priors)

    def __len__(self) -> int:
        return len(self.priors)

    @property
    def drawn(self) -> tuple[int, ...]:
        """Places of the parameters whose effect only differences between simulations tell."""
        return tuple(i for i, name in enumerate(self.names) if name in DRAWN)

    def values(self, u: Any, xp: Any = np) -> dict[str, Any]:
        """The values at whitened coordinates u, f64[P]; beyond the bound a parameter stays on it."""
        u = xp.clip(u, -MOST, MOST)
        values = {p.parameter.name: p.parameter.value(p.center + p.sd * u[i], xp) for i, p in enumerate(self.priors)}
        return values | {name: values[other] for name, other in self.ties} | dict(self.fixed)

    def whitened(self, values: Mapping[str, float]) -> np.ndarray:
        """The coordinates of values, f64[P]; the prior's median where there is none."""
        return np.array([(p.parameter.transform(values.get(p.parameter.name, p.median)) - p.center) / p.sd for p in self.priors])


@dataclass(frozen=True)
class Coverage:
    """The effects that the data of a fit can show.

    Attributes:
        several_ranks: whether any instance has tensor-parallel ranks, so that collectives matter.
        backends: backends whose host times are fitted, vLLM or others.
        launched: those of them that launch kernels one by one in some steps.
        fp8: whether any model multiplies in fp8.
        parallel: parameters of what several ranks, experts and drafts bring that matter (`simjax.latency.parameters.parallel_effects`).
    """

    several_ranks: bool = False
    backends: tuple[str, ...] = (VLLM,)
    launched: tuple[str, ...] = ()
    fp8: bool = False
    parallel: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choices:
    """The user's choices about the parameters of a fit, by name.

    Attributes:
        freeze: parameters that are not fitted; one takes its median as its value if that is given, else the profile's.
        free: parameters that are fitted in addition to the usual ones.
        tie: parameters that take the value of another one.
        medians: medians of priors that differ from those of `PARAMETERS`.
        sds: standard deviations of priors that differ from those of `PARAMETERS`, in the transformed value.

    Raises:
        SimjaxError: a name is unknown, or a number is out of its range.
    """

    freeze: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    tie: Mapping[str, str] = field(default_factory=dict)
    medians: Mapping[str, float] = field(default_factory=dict)
    sds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*self.freeze, *self.free, *self.tie, *self.tie.values(), *self.medians, *self.sds):
            parameter(name)
        for name, sd in self.sds.items():
            if not sd > 0:
                raise SimjaxError(f"parameters.{name}.sd={sd}: it must be positive (parameters.{name}.free=false freezes it)")
        for name, median in self.medians.items():
            share = parameter(name).unit == "share"
            if not 0 < median < (1 if share else np.inf):
                raise SimjaxError(f"parameters.{name}.prior={median}: it must be {'in (0, 1)' if share else 'positive'}")


def space_of(profile: LatencyProfile, coverage: Coverage | None = None, choices: Choices | None = None) -> Space:
    """The free parameters of a fit to a profile.

    Args:
        profile: parameters that it holds itself and that are frozen stay as they are there.
        coverage: effects that the data can show; vLLM on single ranks when None.
        choices: the user's choices; none when None.

    Raises:
        SimjaxError: a tie leads nowhere, or no parameter is free.
    """
    coverage, choices = coverage or Coverage(), choices or Choices()
    names = _free_names(coverage, choices)
    for name, other in choices.tie.items():
        if other not in names:
            raise SimjaxError(f"parameters.{name}.tie={other}: {other} is not fitted; tie to a free parameter")
        if parameter(name).unit != parameter(other).unit:
            raise SimjaxError(f"parameters.{name}.tie={other}: a {parameter(name).unit} cannot take the value of a {parameter(other).unit}")
    if not names:
        raise SimjaxError("every parameter is frozen, so there is nothing to fit; free at least one")
    priors = tuple(_prior(profile, name, choices) for name in names)
    fixed = tuple((name, value) for name, value in choices.medians.items() if name not in names and name not in choices.tie)
    return Space(priors, tuple(choices.tie.items()), fixed)


def _free_names(coverage: Coverage, choices: Choices) -> list[str]:
    """The parameters that the data can show or the user frees, without those that are frozen or tied, in the order of `PARAMETERS`."""
    without = {*NEVER_BY_THEMSELVES, *(() if coverage.several_ranks else ONLY_WITH_RANKS)}
    without |= set() if coverage.fp8 else {ONLY_FP8}
    without |= {*PARALLEL} - {*coverage.parallel}
    without |= set() if VLLM in coverage.backends else {*BACKEND_TIMES}
    without |= set() if VLLM in coverage.launched else {ONLY_LAUNCHED}
    others = [backend for backend in coverage.backends if backend != VLLM]
    theirs = [f"{name}[{x}]" for x in others for name in BACKEND_TIMES if name != ONLY_LAUNCHED or x in coverage.launched]
    free = [*choices.free, *theirs]
    known = [*PARAMETERS, *(name for name in free if name not in PARAMETERS)]  # corrections of a single model have names of their own
    chosen = {*(name for name in PARAMETERS if name not in without), *free}
    return [name for name in known if name in chosen and name not in choices.freeze and name not in choices.tie]


def _prior(profile: LatencyProfile, name: str, choices: Choices) -> Prior:
    """The prior of a parameter; the skew of decodes is around the value that the profile knows."""
    p = parameter(name)
    present = present_value(profile, name) if name == "decode_skew" else 0.0
    return Prior(p, choices.medians.get(name) or present or p.prior, choices.sds.get(name, p.prior_sd))
