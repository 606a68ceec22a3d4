"""Price sheets: files of prices and carbon, each with a date and the source of every number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simjax.disk.documents import once_per_file, read_document
from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError, closest

RENTED = ("on_demand", "reserved", "spot")
KINDS = (*RENTED, "owned")
_OF_DEVICES = (*RENTED, "capex_usd", "embodied_kg", "source")


@dataclass(frozen=True)
class Sheet:
    """The contents of a price sheet.

    Attributes:
        name: stem of its file.
        date: when its prices held.
        devices: by short name of the device: US dollars an hour by kind of contract, `capex_usd`, `embodied_kg`, `source`.
        grid: carbon of electricity by country, in g/kWh.
        tariff_usd_per_kwh: price of electricity, None where the sheet has none.
    """

    name: str
    date: str
    devices: Mapping[str, Mapping[str, Any]]
    grid: Mapping[str, float]
    tariff_usd_per_kwh: float | None

    def of_device(self, device: str, what: str) -> float | None:
        """A number of a device, None where the sheet has none."""
        value = self.devices.get(device, {}).get(what)
        return None if value is None else float(value)


def load_sheet(name_or_path: str) -> Sheet:
    """The price sheet of that name or file.

    Raises:
        SimjaxError: there is none, or it is malformed.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        return _read(Path(name_or_path))
    shipped = {path.stem: path for path in sorted((PROFILES / "prices").glob("*.yaml"))}
    if name_or_path not in shipped:
        raise SimjaxError(f"price.sheet={name_or_path}: there is no such price sheet; {closest(name_or_path, list(shipped))}")
    return _read(shipped[name_or_path])


@once_per_file(64)
def _read(path: Path) -> Sheet:
    raw, where = read_document(path, "price sheet"), f"price sheet {path}"
    if not isinstance(raw, dict) or "date" not in raw or not isinstance(raw.get("devices"), dict):
        raise SimjaxError(f"{where}: it needs a date and devices, like profiles/prices/2026-06.yaml")
    for device, prices in raw["devices"].items():
        if not isinstance(prices, dict) or "source" not in prices:
            raise SimjaxError(f"{where}: {device} needs prices and their source")
        for name, value in prices.items():
            if name not in _OF_DEVICES:
                raise SimjaxError(f"{where}: {device}: there is no {name}; {closest(str(name), list(_OF_DEVICES))}")
            if name != "source" and not (isinstance(value, int | float) and value >= 0):
                raise SimjaxError(f"{where}: {device}: {name} must be a number that is not negative, got {value!r}")
    grid = raw.get("grid_g_per_kwh") or {}
    tariff = raw.get("tariff_usd_per_kwh")
    try:
        found = {str(country): float(value) for country, value in grid.items() if country != "source"}
        return Sheet(path.stem, str(raw["date"]), raw["devices"], found, None if tariff is None else float(tariff))
    except (TypeError, ValueError, AttributeError) as error:
        raise SimjaxError(f"{where}: {error}") from None
