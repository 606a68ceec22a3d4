"""The `price` group of the configuration.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

from dataclasses import dataclass

from simjax.options.condition import is_set, one_of
from simjax.options.option import option
from simjax.options.plausible import Plausible

_OWNED = (one_of("kind", "owned"),)


@dataclass
class PriceConfig:
    """Prices of devices, and carbon of electricity and hardware.

    Devices are rented by the hour (on_demand, reserved, spot) at the price of the sheet, or owned: an annuity of what they cost, spread
    over the hours in which they are used, and their electricity.
    """

    sheet: str | None = option(None, "price sheet with date and source: a shipped name such as 2026-06, or a file; unset: no money", "NAME")
    kind: str = option("on_demand", "on_demand, reserved, spot or owned")
    usd_per_gpu_hour: float | None = option(
        None, "price of every device instead of the sheet's", "USD", plausible=Plausible(0.05, 50, "US dollars an hour")
    )
    capex_usd_per_gpu: float | None = option(None, "money for a device and its share of the server; unset: the sheet's", "USD", only=_OWNED)
    years: float = option(4.0, "years over which that is paid back", only=_OWNED)
    interest: float = option(0.08, "yearly interest", plausible=Plausible(0, 0.3, "a fraction"), only=_OWNED)
    utilization: float = option(0.6, "share of the hours in which the devices are used", only=_OWNED)
    tariff_usd_per_kwh: float | None = option(
        None, "price of electricity, of owned devices", "USD", plausible=Plausible(0.01, 1, "US dollars a kWh")
    )
    grid: str | None = option(
        None, "carbon of electricity: g/kWh, a country of the sheet such as US, or a CSV file hour,g_per_kwh; unset: no carbon", "G"
    )
    grid_start_hour: float = option(0.0, "hour of that file at which the run begins", only=(is_set("grid"),))
    embodied_kg_per_gpu: float | None = option(
        None, "CO2e of making a device and its share of the server; unset: the sheet's", "KG", only=(is_set("grid"),)
    )
