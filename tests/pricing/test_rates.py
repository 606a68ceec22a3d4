"""Prices and carbon by the hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from simjax.errors import SimjaxError
from simjax.pricing.config import PriceConfig
from simjax.pricing.rates import Rates, prices_of
from simjax.pricing.sheet import load_sheet


def rates(devices: dict[str, int] | None = None, **options) -> Rates:
    prices = prices_of(PriceConfig(**options))
    assert prices is not None
    return prices.of(devices or {"h100": 8})


def test_rented_by_the_sheet_or_a_price():
    assert rates(sheet="2026-06").usd_per_hour == pytest.approx(8 * 2.95)
    assert rates(sheet="2026-06", kind="spot").usd_per_hour == pytest.approx(8 * 1.25)
    assert rates({"h100": 2, "a100": 1}, sheet="2026-06").usd_per_hour == pytest.approx(2 * 2.95 + 1.30)
    assert rates(usd_per_gpu_hour=4.0).usd_per_hour == 32.0
    assert prices_of(PriceConfig()) is None


def test_owned_is_an_annuity_and_electricity():
    found = rates(kind="owned", capex_usd_per_gpu=40_000.0, years=4, interest=0.08, utilization=0.5, tariff_usd_per_kwh=0.1)
    yearly = 40_000 * 0.08 / (1 - 1.08**-4)
    assert found.usd_per_hour == pytest.approx(8 * yearly / 8760 / 0.5) and found.usd_per_kwh == 0.1
    free = rates(kind="owned", capex_usd_per_gpu=8760.0, years=1, interest=0.0, utilization=1.0, tariff_usd_per_kwh=0.1)
    assert free.usd_per_hour == pytest.approx(8.0)


def test_carbon_of_a_number_a_country_and_a_day(tmp_path: Path):
    assert rates(grid="400").grid(10.0) == 400.0 and rates(grid="400").usd_per_hour is None
    assert rates(sheet="2026-06", grid="FR").grid(10.0) == 56.0
    day = tmp_path / "day.csv"
    day.write_text("hour,g_per_kwh\n0,100\n1,300\n")
    assert rates(grid=str(day)).grid(7200.0) == pytest.approx(200.0) and rates(grid=str(day), grid_start_hour=1.0).grid(10.0) == 300.0
    embodied = rates(sheet="2026-06", grid="FR", years=4, utilization=0.6).embodied_g_per_hour
    assert embodied == pytest.approx(8 * 986e3 / (4 * 8760 * 0.6))


def test_the_shipped_sheet_names_its_sources():
    sheet = load_sheet("2026-06")
    assert sheet.date == "2026-06" and sheet.grid["US"] == 369
    assert all(prices["source"] for prices in sheet.devices.values())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"sheet": "2026-07"}, r"price.sheet=2026-07: there is no such price sheet; did you mean 2026-06"),
        ({"kind": "leased"}, r"price.kind=leased: it must be one of on_demand"),
        ({"sheet": "2026-06", "grid": "XX"}, r"price.grid=XX: it must be a number of g/kWh, a country, or a CSV file; the sheet has AU"),
        ({"grid": "US"}, r"a country needs price.sheet"),
        ({"grid": "none.csv"}, r"cannot read carbon of electricity none.csv"),
        ({"sheet": "2026-06", "kind": "owned", "utilization": 0.0}, r"utilization must lie in"),
    ],
)
def test_wrong_options_get_one_line(options: dict, words: str):
    with pytest.raises(SimjaxError, match=words):
        prices_of(PriceConfig(**options))


@pytest.mark.parametrize(
    "devices, options, words",
    [
        ({"gb200": 1}, {"sheet": "2026-06"}, r"it has no on_demand price of gb200 \(it has a100"),
        ({"h100": 1}, {"kind": "owned"}, r"nothing says what a h100 costs; give price.capex_usd_per_gpu"),
        ({"h100": 1}, {"kind": "owned", "capex_usd_per_gpu": 1.0}, r"give price.tariff_usd_per_kwh"),
    ],
)
def test_what_no_sheet_has_gets_one_line(devices: dict, options: dict, words: str):
    with pytest.raises(SimjaxError, match=words):
        rates(devices, **options)


@pytest.mark.parametrize(
    "text, words",
    [
        ("devices: {}\n", r"it needs a date and devices"),
        ("date: 1\ndevices: {h100: {on_demand: 3}}\n", r"h100 needs prices and their source"),
        ("date: 1\ndevices: {h100: {on_demnd: 3, source: x}}\n", r"h100: there is no on_demnd"),
        ("date: 1\ndevices: {h100: {on_demand: -3, source: x}}\n", r"h100: on_demand must be a number that is not negative"),
    ],
)
def test_wrong_sheets_get_one_line(tmp_path: Path, text: str, words: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SimjaxError, match=words):
        load_sheet(str(path))
