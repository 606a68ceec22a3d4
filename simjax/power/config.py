"""The `power` group of the configuration.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

from dataclasses import dataclass

from simjax.options.condition import needs
from simjax.options.option import option
from simjax.options.plausible import Plausible

_ON = (needs(("model",), lambda model: model != "none", "with power=none"),)


@dataclass
class PowerConfig:
    """Power of devices, servers and the building.

    A device draws its idle power always, its standby power while clocks are raised, and more in steps: by the memory bandwidth and the
    compute that they attain (utilization), or the same in all of them (three_state, as LLMServingSim).
    """

    model: str = option("none", "none, utilization or three_state")
    file: str | None = option(
        None, "power of the devices; unset: the one shipped, else a typical one scaled by tdp_w", "FILE.yaml", only=_ON
    )
    values: dict[str, float] = option({}, "numbers instead of the file's: idle_w, standby_w, limit_w, ...; active_w of three_state")
    factor: float = option(
        1.0, "factor on the power of steps beyond standby: kernels and boards differ", plausible=Plausible(0.5, 2, ""), only=_ON
    )
    node: bool = option(True, "whether servers count too: processors, memory, network adapters, fans and supplies", only=_ON)
    node_share: str = option("used", "share of a server that counts: used, that of its devices in use, or whole", only=_ON)
    cap_w: float | None = option(None, "most power of a device, below its limit: steps get slower", "WATTS", only=_ON)
    node_cap_w: float | None = option(None, "most power of a server at its plug, for all its devices alike", "WATTS", only=_ON)
    clock: float = option(
        1.0, "clock to which devices are locked, as a share of the highest one", plausible=Plausible(0.2, 1, "a share"), only=_ON
    )
    pue: float = option(1.0, "power usage effectiveness of the building", plausible=Plausible(1, 2.5, ""), only=_ON)
