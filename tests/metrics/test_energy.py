"""Energy, power over time, money and carbon of results whose numbers can be checked by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from simjax.engine.host.result import Result
from simjax.metrics.energy.parts import PARTS, run_energy
from simjax.metrics.energy.series import device_power, instance_power, metered, power_by_part
from simjax.metrics.rows import result_row
from simjax.metrics.summary import summarize
from simjax.metrics.timeseries import timeline
from simjax.plot.run import plot_run
from simjax.power.plant import Plant
from simjax.power.spec import NodePower
from simjax.pricing.rates import Rates
from tests.metrics.factory import make_result, tiny

STANDBY_S = 4.0


def plant(**node: float) -> Plant:
    parts = NodePower(**{"base_w": 100.0, "cpu_w": 40.0, "cpu_active_w": 10.0, "fan_share": 0.1, "supply_efficiency": 0.88, **node})
    one = np.ones(1)
    return Plant(50.0 * one, 20.0 * one, STANDBY_S * one, 1.0, 0.0 * one, (parts,), one, np.ones((1, 1)), 1.2, 0.1, ("by hand",))


def powered(**node: float) -> Result:
    """The tiny result: steps from 0 to 3 s and from 20 to 20.5 s. Every step draws 100 W for being busy and 200 W for memory."""
    result = tiny()
    assert result.leaps is not None
    leaps = result.leaps
    first, rest = leaps.first_step_s, np.where(leaps.steps > 1, leaps.next_step_s * (leaps.steps - 1), 0.0)
    columns = {"footprint_j": 100 * first, "memory_j": 200 * first, "later_footprint_j": 100 * rest, "later_memory_j": 200 * rest}
    busy_s = np.array([3.5])
    totals = {"footprint_j": 100 * busy_s, "memory_j": 200 * busy_s, "busy_s": busy_s, "ended_s": np.array([20.5])}
    totals["standby_j"] = 20.0 * (busy_s + STANDBY_S)  # of the pause from 3 to 20 s, the first four
    return replace(result, leaps=replace(leaps, **columns), instances=replace(result.instances, **totals), plant=plant(**node))


def test_parts_by_hand():
    energy = run_energy(powered())
    assert energy is not None
    wall = 1.1 / 0.88
    servers = 20.5 * (100 + 40) + 10 * 3.5
    devices = 20.5 * 50 + 7.5 * 20 + 3.5 * 300
    expected = {"idle": 20.5 * 50, "standby": 7.5 * 20, "footprint": 350.0, "memory": 700.0, "base": 2050.0, "cpu": 40 * 20.5 + 35}
    expected |= {"fans_and_supplies": (wall - 1) * (servers + devices), "building": 0.2 * wall * (servers + devices)}
    assert energy.parts_j == pytest.approx({**dict.fromkeys(PARTS, 0.0), **expected})
    assert energy.total_j == pytest.approx(1.2 * wall * (servers + devices)) == pytest.approx(sum(energy.parts_j.values()))
    assert energy.gpu_j == pytest.approx(devices) and energy.mean_power_w == pytest.approx(energy.total_j / 20.5)


@pytest.mark.parametrize("width", [0.3, 1.0, 7.0])
def test_the_series_adds_up_to_the_energy_and_never_falls_below_idle(width):
    result = powered()
    energy, edges = run_energy(result), width * np.arange(int(np.ceil(20.5 / width)) + 1)
    assert energy is not None
    series = power_by_part(result, edges)
    assert {name: float(values.sum() * width) for name, values in series.items()} == pytest.approx(dict(energy.parts_j))
    devices = sum(rows[0] for rows in device_power(result, edges).values())
    assert (devices[edges[1:] <= 20.5] >= 50 - 1e-9).all()
    np.testing.assert_allclose(instance_power(result, edges).sum(axis=0), sum(series.values()))
    frame = timeline(result, width)
    assert float(frame.power_w.sum() * width) == pytest.approx(energy.total_j)


def test_moments_by_hand():
    seconds = np.arange(22.0)
    devices = sum(rows[0] for rows in device_power(powered(), seconds).values())
    np.testing.assert_allclose(devices[:3], 50 + 20 + 300)
    np.testing.assert_allclose(devices[3:7], 70)  # standby
    np.testing.assert_allclose(devices[7:20], 50)
    np.testing.assert_allclose(devices[20], (50 + 20 + 300) / 2)  # half a second until the end of the run


def test_a_run_without_power_has_no_energy():
    result = make_result(tiny().requests, tiny().leaps)
    assert run_energy(result) is None
    summary = summarize(result)
    assert summary["energy"] == {"total_j": None, "per_output_token_j": None, "mean_power_w": None} and summary["cost"] is None
    assert timeline(result, 1.0).power_w.isna().all()


def test_summary_and_row():
    result = powered()
    energy, summary, row = run_energy(result), json.loads(json.dumps(summarize(result))), result_row(result, None, 1)
    assert energy is not None
    assert summary["energy"]["total_j"] == pytest.approx(energy.total_j) == pytest.approx(row["energy_j"])
    assert summary["energy"]["per_output_token_j"] == pytest.approx(energy.total_j / 6) == pytest.approx(row["energy_per_output_token_j"])
    assert summary["energy"]["peak_power_w"] == pytest.approx(1.2 * 1.25 * (370 + 140 + 10))
    assert row["cost_per_million_tokens_usd"] is None and row["mean_power_w"] == pytest.approx(energy.mean_power_w)


def test_money_and_carbon_by_hand():
    rates = Rates(3.6, 0.5, np.zeros(1), np.array([400.0]), 25.0, "owned")
    result = replace(powered(), rates=rates)
    energy, row = run_energy(result), result_row(result, None, 1)
    assert energy is not None
    kw = energy.mean_power_w / 1e3
    usd, tokens_per_h = 3.6 + 0.5 * kw, 3600 * (row["output_tokens_per_s"] or 0)
    assert row["cost_per_million_output_tokens_usd"] == pytest.approx(1e6 * usd / tokens_per_h)
    assert row["carbon_g_per_1k_tokens"] == pytest.approx(1e3 * (kw * 400 + 25) / tokens_per_h)
    assert row["cost_per_good_request_usd"] == pytest.approx(usd / 3600 / (row["goodput_requests_per_s"] or 0))
    assert summarize(result)["cost"]["usd_per_hour"] == pytest.approx(usd)  # type: ignore[index]


def test_owned_devices_without_power_have_no_cost():
    row = result_row(replace(tiny(), rates=Rates(3.6, 0.5)), None, 1)
    assert row["cost_per_million_tokens_usd"] is None and row["carbon_g_per_1k_tokens"] is None
    assert result_row(replace(tiny(), rates=Rates(3.6)), None, 1)["cost_per_million_tokens_usd"] is not None


def test_a_meter_lags_and_keeps_the_mean():
    square = np.tile([100.0] * 4 + [300.0] * 4, 10)
    shown = metered(square, 0.1, 0.8)
    np.testing.assert_allclose(shown[8:], 200.0)  # a meter as slow as the period sees nothing of it
    np.testing.assert_allclose(metered(square, 0.1, 0.25)[4:8], [100 + 200 / 2.5, 100 + 400 / 2.5, 300, 300])
    assert metered(square, 1.0, 0.8) is square


def test_the_grid_of_a_day():
    hourly = Rates(None, 0.0, np.array([-1.0, 0.5, 2.0]), np.array([100.0, 300.0, 500.0]))
    assert hourly.grid(3600.0) == pytest.approx(200.0) and hourly.grid(1.0) == pytest.approx(100.0)
    assert hourly.grid(3 * 3600.0) == pytest.approx((0.5 * 100 + 1.5 * 300 + 500) / 3)


def test_the_figure_is_drawn(tmp_path):
    (path,) = (x for x in plot_run(powered(), tmp_path, "tiny") if x.name == "power.png")
    assert path.stat().st_size > 5_000
    assert not any(x.name == "power.png" for x in plot_run(tiny(), tmp_path / "off"))
