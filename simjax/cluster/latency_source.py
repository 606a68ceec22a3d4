"""Where step times come from: measured tables, a latency profile's file, or the profiles shipped with simjax."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from simjax.config.schema import ProfileConfig
from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.latency.parameters import with_parameters
from simjax.latency.priors import check_value
from simjax.latency.profiles.file import find_profile, load_profile
from simjax.latency.profiles.profile import HostOverheads, LatencyProfile
from simjax.power.source import PowerSource

HOST_TIMES = ("step_s", "api_pre_s", "api_post_s")
"""Host times that can be set in addition to a profile or tables."""


@dataclass(frozen=True)
class LatencySource:
    """The source of step times: a profile file, a root of measured op tables, or (neither) the profiles shipped with simjax.

    Attributes:
        profile: YAML file of a latency profile.
        bundle_root: folder of measured tables, which are looked up as <bundle_root>/<device>/<model>/<variant>/tp<N>.
        variant: name of the variant among those tables.
        step_s, api_pre_s, api_post_s: host times that replace those of the profile, in seconds (tables hold none: 0).
        power: cap and clock of the devices, which make steps slower; None where nothing holds them down.
        parameters: values of `simjax.latency.priors.PARAMETERS` on top of the profile: factors multiply its numbers, other values replace
            them and are replaced by the host times above.

    Raises:
        SimjaxError: two sources are mixed, or a number is out of its range or of no use to the source.
    """

    profile: Path | None = None
    bundle_root: Path | None = None
    variant: str = "bf16"
    step_s: float | None = None
    api_pre_s: float | None = None
    api_post_s: float | None = None
    parameters: tuple[tuple[str, float], ...] = ()
    power: PowerSource | None = None

    def __post_init__(self) -> None:
        if self.profile is not None and self.bundle_root is not None:
            raise SimjaxError("profile.file and profile.bundle_root are both set; step times come from one of them")
        for name in HOST_TIMES:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise SimjaxError(f"profile.{name}={value}: it must be a number of seconds that is not negative")
        for name, value in self.parameters:
            try:
                check_value(name, value)
            except SimjaxError as error:
                raise SimjaxError(f"profile.parameters: {error}") from None
            if self.bundle_root is not None and name not in HOST_TIMES:
                instead = f"of a profile; measured tables (profile.bundle_root) have {', '.join(HOST_TIMES)} only"
                raise SimjaxError(f"profile.parameters: {name} is a parameter {instead}")

    def host(self, known: HostOverheads) -> HostOverheads:
        """Host times: given ones first, then those known from the profile."""
        given = {name: getattr(self, name) for name in HOST_TIMES}
        return replace(known, **{name: value for name, value in given.items() if value is not None})

    def profile_of(self, deployment: Deployment) -> LatencyProfile:
        """The profile that a deployment takes its step times from, with the parameters and host times of this source applied.

        Raises:
            SimjaxError: it is missing or malformed, or a parameter is for a model that it does not know.
        """
        if self.profile is not None:
            profile = load_profile(self.profile)
        else:
            profile = find_profile(deployment.device, deployment.model, deployment.parallelism.tensor)
        if self.parameters:
            try:
                profile = with_parameters(profile, dict(self.parameters))
            except SimjaxError as error:
                raise SimjaxError(f"profile.parameters: {error}") from None
        return replace(profile, host=self.host(profile.host))


def held_down(source: LatencySource, power: PowerSource | None) -> LatencySource:
    """The source with the caps and clocks of the devices, itself where nothing holds them down."""
    return replace(source, power=power) if power is not None and power.slows else source


def latency_source(config: ProfileConfig) -> LatencySource:
    """The source from which the configuration takes step times.

    Raises:
        SimjaxError: a number is out of its range, a parameter is unknown or set twice, or two sources are mixed.
    """
    for name in HOST_TIMES:
        if name in config.parameters and getattr(config, name) is not None:
            raise SimjaxError(f"profile.{name} and profile.parameters.{name} are both set; leave one of them out")
    return LatencySource(
        profile=None if config.file is None else Path(config.file),
        bundle_root=None if config.bundle_root is None else Path(config.bundle_root),
        variant=config.variant,
        step_s=config.step_s,
        api_pre_s=config.api_pre_s,
        api_post_s=config.api_post_s,
        parameters=tuple((str(name), float(value)) for name, value in config.parameters.items()),
    )
