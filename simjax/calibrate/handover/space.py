"""The parameters of a hand-over that a fit is free to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from simjax.calibrate.handover.priors import HANDOVER
from simjax.calibrate.space import Prior, Space
from simjax.cluster.disaggregation import Disaggregation
from simjax.config.calibrate import ParameterConfig
from simjax.errors import SimjaxError, closest


@dataclass(frozen=True)
class Measured:
    """What the measurements of a fit show.

    Attributes:
        transfers: whether there are times of transfers.
        several_block_sizes: whether they are of blocks of several sizes.
        requests: whether there are requests that were handed over.
    """

    transfers: bool = False
    several_block_sizes: bool = False
    requests: bool = False

    @property
    def told(self) -> tuple[str, ...]:
        """The parameters that they can tell."""
        shown = {
            "setup_s": self.transfers,
            "link_efficiency": self.transfers,
            "per_descriptor_s": self.several_block_sizes,
            "handover_s": self.requests,
        }
        return tuple(name for name, there in shown.items() if there)


def handover_space(measured: Measured, options: Mapping[str, ParameterConfig]) -> Space:
    """The free parameters of a fit of a hand-over; `options` are the user's choices, by name.

    Raises:
        SimjaxError: a name is unknown, a number out of its range, or no parameter is free.
    """
    for name, one in options.items():
        if name not in HANDOVER:
            raise SimjaxError(f"parameters.{name}: a hand-over has no such parameter; {closest(name, list(HANDOVER))}")
        if one.tie is not None:
            raise SimjaxError(f"parameters.{name}.tie: parameters of a hand-over cannot be tied")
        if one.prior is not None and not 0 < one.prior < (1 if HANDOVER[name].unit == "share" else np.inf):
            raise SimjaxError(
                f"parameters.{name}.prior={one.prior}: it must be {'in (0, 1)' if HANDOVER[name].unit == 'share' else 'positive'}"
            )
        if one.sd is not None and not one.sd > 0:
            raise SimjaxError(f"parameters.{name}.sd={one.sd}: it must be positive (parameters.{name}.free=false freezes it)")
    none = ParameterConfig()
    free = [name for name in HANDOVER if (own := options.get(name, none)).free or (own.free is None and name in measured.told)]
    if not free:
        raise SimjaxError("every parameter is frozen, so there is nothing to fit; free at least one")

    def prior(name: str) -> Prior:
        own, p = options.get(name, none), HANDOVER[name]
        return Prior(p, p.prior if own.prior is None else own.prior, p.prior_sd if own.sd is None else own.sd)

    fixed = tuple((name, float(one.prior)) for name, one in options.items() if one.prior is not None and name not in free)
    return Space(tuple(map(prior, free)), fixed=fixed)


def rules_at(rule: Disaggregation, space: Space, points: Iterable[np.ndarray]) -> list[Disaggregation]:
    """The hand-over with the parameters of some whitened coordinates."""
    return [replace(rule, **{name: float(value) for name, value in space.values(u).items()}) for u in points]
