"""Which parameters a fit is free to change, and the whitened coordinates in which it moves: 0 is the prior's median, 1 its sd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.latency.parameters import PARAMETERS, STEP_CORRECTIONS, VLLM, Parameter, parameter, present_value
from simjax.latency.priors import ENGINE_TIMES
from simjax.latency.profile import LatencyProfile

MOST = 4.0  # prior standard deviations: the bound of every parameter
NEAR_BOUND = 0.9  # of it
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
        priors: of the free ones, in order.
        ties: other parameters that take the value of a free one.
        fixed: other parameters with a value of their own.
    """

    priors: tuple[Prior, ...]
    ties: tuple[tuple[str, str], ...] = ()
    fixed: tuple[tuple[str, float], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the free parameters."""
        return tuple(prior.parameter.name for prior in self.priors)

    def __len__(self) -> int:
        return len(self.priors)

    def values(self, u: Any, xp: Any = np) -> dict[str, Any]:
        """The values at whitened coordinates u, f64[P]; beyond the bound a parameter stays on it."""
        u = xp.clip(u, -MOST, MOST)
        values = {p.parameter.name: p.parameter.value(p.center + p.sd * u[i], xp) for i, p in enumerate(self.priors)}
        return values | {name: values[other] for name, other in self.ties} | dict(self.fixed)

    def whitened(self, values: Mapping[str, float]) -> np.ndarray:
        """The coordinates of values, f64[P]; the prior's median where there is none."""
        return np.array([(p.parameter.transform(values.get(p.parameter.name, p.median)) - p.center) / p.sd for p in self.priors])


def space_of(
    profile: LatencyProfile,
    several_ranks: bool,
    freeze: Sequence[str] = (),
    free: Sequence[str] = (),
    tie: Mapping[str, str] | None = None,
    medians: Mapping[str, float] | None = None,
    sds: Mapping[str, float] | None = None,
    engines: Sequence[str] = (VLLM,),
    launched: Sequence[str] = (),
    fp8: bool = False,
) -> Space:
    """The free parameters of a fit to a profile.

    Args:
        profile: parameters that it holds itself and that are frozen stay as they are there.
        several_ranks: whether any engine has tensor-parallel ranks, so that collectives matter.
        freeze: parameters that are not fitted.
        free: parameters that are fitted beside the usual ones.
        tie: parameters that take the value of another one.
        medians: of priors that differ from those of `PARAMETERS`; a frozen parameter takes its median as its value.
        sds: their standard deviations.
        engines: whose host times are fitted, vLLM's or others'.
        launched: those of them that launch kernels one by one.
        fp8: whether any model multiplies in fp8.

    Raises:
        SimjaxError: a name is unknown, a number is out of its range, or a tie leads nowhere.
    """
    tie, medians, sds = dict(tie or {}), dict(medians or {}), dict(sds or {})
    for name in (*freeze, *free, *tie, *tie.values(), *medians, *sds):
        parameter(name)
    for name, sd in sds.items():
        if not sd > 0:
            raise SimjaxError(f"parameters.{name}.sd={sd}: it must be positive (parameters.{name}.free=false freezes it)")
    for name, median in medians.items():
        if not 0 < median < (1 if parameter(name).unit == "share" else np.inf):
            raise SimjaxError(
                f"parameters.{name}.prior={median}: it must be {'in (0, 1)' if parameter(name).unit == 'share' else 'positive'}"
            )
    without = {*NEVER_BY_THEMSELVES, *(() if several_ranks else ONLY_WITH_RANKS)}
    without |= set() if fp8 else {ONLY_FP8}
    without |= set() if VLLM in engines else {*ENGINE_TIMES}
    without |= set() if VLLM in launched else {ONLY_LAUNCHED}
    free = [*free, *(f"{x}[{e}]" for e in engines if e != VLLM for x in ENGINE_TIMES if x != ONLY_LAUNCHED or e in launched)]
    usual = [name for name in PARAMETERS if name not in without]
    known = [*PARAMETERS, *(name for name in free if name not in PARAMETERS)]  # corrections of a single model have names of their own
    names = [name for name in known if (name in usual or name in free) and name not in freeze and name not in tie]
    for name, other in tie.items():
        if other not in names:
            raise SimjaxError(f"parameters.{name}.tie={other}: {other} is not fitted; tie to a free parameter")
        if parameter(name).unit != parameter(other).unit:
            raise SimjaxError(f"parameters.{name}.tie={other}: a {parameter(name).unit} cannot take the value of a {parameter(other).unit}")
    if not names:
        raise SimjaxError("every parameter is frozen, so there is nothing to fit; free at least one")
    priors = []
    for name in names:
        p = parameter(name)
        present = present_value(profile, name) if name == "decode_skew" else 0.0
        priors.append(Prior(p, medians.get(name) or present or p.prior, sds.get(name, p.prior_sd)))
    fixed = tuple((name, value) for name, value in medians.items() if name not in names and name not in tie)
    return Space(tuple(priors), tuple(tie.items()), fixed)
