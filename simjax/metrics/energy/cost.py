"""Money and carbon of a run: what its cluster costs by the hour over what it serves in one."""

from __future__ import annotations

from dataclasses import dataclass

from simjax.engine.host.result import Result
from simjax.metrics.energy.parts import RunEnergy

J_PER_KWH = 3.6e6


@dataclass(frozen=True)
class RunCost:
    """Money and carbon of a run by the hour; None where they are not known.

    Attributes:
        usd_per_hour: of devices and, where it is paid apart, electricity.
        g_per_hour: CO2e of electricity and of making the devices.
    """

    usd_per_hour: float | None
    g_per_hour: float | None


def run_cost(result: Result, energy: RunEnergy | None) -> RunCost | None:
    """The money and carbon of a run; None where nobody asked for them."""
    rates = result.rates
    if rates is None:
        return None
    kw = None if energy is None else energy.mean_power_w / 1e3
    usd = rates.usd_per_hour
    if usd is not None and rates.usd_per_kwh:
        usd = None if kw is None else usd + kw * rates.usd_per_kwh
    grid = None if energy is None else rates.grid(energy.span_s)
    g = None if kw is None or grid is None else kw * grid + rates.embodied_g_per_hour
    return RunCost(usd, g)


def cost_summary(result: Result, energy: RunEnergy | None) -> dict[str, object] | None:
    """The section `cost` of a summary without the metrics of the catalogue; None where nobody asked for it."""
    cost = run_cost(result, energy)
    if cost is None or result.rates is None:
        return None
    return {"prices": result.rates.note, "usd_per_hour": cost.usd_per_hour, "carbon_g_per_hour": cost.g_per_hour}
