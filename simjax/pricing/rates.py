"""What a cluster costs by the hour, and the carbon of its hardware and electricity."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simjax.errors import SimjaxError, closest
from simjax.pricing.config import PriceConfig
from simjax.pricing.sheet import KINDS, Sheet, load_sheet

HOURS = 8760.0
"""Hours of a year."""


@dataclass(frozen=True)
class Rates:
    """Money and carbon of a cluster.

    Attributes:
        usd_per_hour: of its devices, without electricity that is paid apart; None where no price was given.
        usd_per_kwh: of electricity that is paid apart, 0 of rented devices.
        grid_hours, grid_g_per_kwh: carbon of electricity from each hour on, counted from the start of the run; None where it is not known.
        embodied_g_per_hour: carbon of making the devices, by the hour of their life; 0 where it is not known.
        note: prices' kind, date and sheet in a few words.
    """

    usd_per_hour: float | None
    usd_per_kwh: float = 0.0
    grid_hours: np.ndarray | None = None
    grid_g_per_kwh: np.ndarray | None = None
    embodied_g_per_hour: float = 0.0
    note: str = ""

    def grid(self, span_s: float) -> float | None:
        """Mean carbon of electricity over a run that takes so long, in g/kWh; None where it is not known."""
        if self.grid_hours is None or self.grid_g_per_kwh is None:
            return None
        edges = np.clip(np.append(self.grid_hours, np.inf), 0.0, max(span_s, 1e-9) / 3600.0)
        return float(np.average(self.grid_g_per_kwh, weights=np.diff(edges)))


@dataclass(frozen=True)
class Prices:
    """Prices that a configuration asks for, before it is known of which devices.

    Raises:
        SimjaxError: a name or number is wrong.
    """

    config: PriceConfig
    sheet: Sheet | None

    def of(self, devices: Mapping[str, int]) -> Rates:
        """The rates of so many devices by short name.

        Raises:
            SimjaxError: there is no price for a device.
        """
        config, priced = self.config, self.sheet is not None or self.config.usd_per_gpu_hour is not None or self.config.kind == "owned"
        usd = sum(count * self._usd_per_hour(name) for name, count in devices.items()) if priced else None
        grid = _grid(config, self.sheet)
        embodied = sum(count * self._embodied_g_per_hour(name) for name, count in devices.items()) if grid is not None else 0.0
        sheet = "" if self.sheet is None else f", {self.sheet.name} of {self.sheet.date}"
        hours, g_per_kwh = (None, None) if grid is None else grid
        return Rates(usd, self._tariff() if config.kind == "owned" else 0.0, hours, g_per_kwh, embodied, f"{config.kind}{sheet}")

    def _usd_per_hour(self, device: str) -> float:
        config, sheet = self.config, self.sheet
        if config.kind == "owned":
            capex = config.capex_usd_per_gpu
            capex = sheet.of_device(device, "capex_usd") if capex is None and sheet is not None else capex
            if capex is None:
                raise SimjaxError(f"price.kind=owned: nothing says what a {device} costs; give price.capex_usd_per_gpu")
            rate, years = config.interest, config.years
            yearly = rate / (1 - (1 + rate) ** -years) if rate > 0 else 1 / years
            return capex * yearly / HOURS / config.utilization
        if config.usd_per_gpu_hour is not None:
            return config.usd_per_gpu_hour
        found = None if sheet is None else sheet.of_device(device, config.kind)
        if found is None:
            known = [] if sheet is None else [name for name, prices in sheet.devices.items() if config.kind in prices]
            name = "" if sheet is None else sheet.name
            raise SimjaxError(
                f"price.sheet={name}: it has no {config.kind} price of {device} (it has {', '.join(known)}); "
                "give price.usd_per_gpu_hour, or a sheet of your own"
            )
        return found

    def _tariff(self) -> float:
        tariff = self.config.tariff_usd_per_kwh
        tariff = self.sheet.tariff_usd_per_kwh if tariff is None and self.sheet is not None else tariff
        if tariff is None:
            raise SimjaxError("price.kind=owned: give price.tariff_usd_per_kwh, the price of electricity")
        return tariff

    def _embodied_g_per_hour(self, device: str) -> float:
        config = self.config
        own = config.embodied_kg_per_gpu
        own = self.sheet.of_device(device, "embodied_kg") if own is None and self.sheet is not None else own
        return 0.0 if own is None else 1e3 * own / (config.years * HOURS * config.utilization)


def prices_of(config: PriceConfig) -> Prices | None:
    """The prices that a configuration asks for, None where it asks for neither money nor carbon.

    Raises:
        SimjaxError: a name or number is wrong.
    """
    if config.kind not in KINDS:
        raise SimjaxError(f"price.kind={config.kind}: it must be one of {', '.join(KINDS)}; {closest(config.kind, list(KINDS))}")
    if not (0 < config.utilization <= 1 and config.years > 0 and config.interest >= 0):
        raise SimjaxError("price: utilization must lie in (0, 1], years must be positive and interest not negative")
    asked = (config.sheet, config.usd_per_gpu_hour, config.grid)
    if config.kind != "owned" and all(x is None for x in asked):
        return None
    prices = Prices(config, None if config.sheet is None else load_sheet(config.sheet))
    _grid(config, prices.sheet)
    return prices


def _grid(config: PriceConfig, sheet: Sheet | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Hours from the start of the run, and carbon of electricity from each on; None without."""
    if config.grid is None:
        return None
    text = str(config.grid)
    if text.endswith(".csv"):
        return _series(Path(text), config.grid_start_hour)
    known: Sequence[str] = [] if sheet is None else list(sheet.grid)
    try:
        value = float(sheet.grid[text]) if sheet is not None and text in sheet.grid else float(text)
    except ValueError:
        has = f"; the sheet has {', '.join(known)}" if known else "; a country needs price.sheet"
        raise SimjaxError(f"price.grid={text}: it must be a number of g/kWh, a country, or a CSV file{has}") from None
    return np.zeros(1), np.array([value])


def _series(path: Path, start_hour: float) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            rows = [(float(row["hour"]), float(row["g_per_kwh"])) for row in csv.DictReader(file)]
    except OSError as error:
        raise SimjaxError(f"cannot read carbon of electricity {path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise SimjaxError(f"carbon of electricity {path}: it needs columns hour,g_per_kwh with numbers ({error})") from None
    if not rows or any(b[0] <= a[0] for a, b in itertools.pairwise(rows)):
        raise SimjaxError(f"carbon of electricity {path}: the hours must rise, and there must be one")
    hours, values = np.array(rows).T
    return hours - start_hour, values
