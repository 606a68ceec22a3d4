"""`simjax power fit`: from the log of a meter to the power of a device, and with it to a run that draws what the meter saw."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import simjax
from simjax.metrics.energy.parts import span_of
from simjax.metrics.energy.series import device_power
from tests.cli.conftest import Cli, one_line

SERVED = ("workload.num_requests=40", "workload.rate=0.4", "device=h100", "model=llama-3.1-8b")
TRUTH = ("power.values={idle_w: 90, standby_w: 150, standby_s: 2}", "power.factor=1.3", "power.node=false")
STEP_S = 0.1


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Power of a run whose devices are not the shipped ones, by tenths of a second."""
    result = simjax.run(simjax.compose([*SERVED, "power=utilization", *TRUTH])).result
    begin_s, end_s = span_of(result)
    edges = begin_s + STEP_S * np.arange(round((end_s - begin_s) / STEP_S) + 1)
    return np.sum([rows[0] for rows in device_power(result, edges).values()], axis=0)


def log(watts: np.ndarray, late_s: float = 1.5, idle_w: float = 90.0) -> Path:
    """What nvidia-smi would write of it, begun before the first request."""
    watts = np.append(np.full(round(late_s / STEP_S), idle_w), watts)
    rows = [f"{1.7e9 + STEP_S * k:.1f}, 0, {watt:.3f} W" for k, watt in enumerate(watts)]
    path = Path("smi.csv")
    path.write_text("\n".join(["timestamp, index, power.draw [W]", *rows]) + "\n")
    return path


def test_from_a_log_to_a_run_that_draws_the_same(cli: Cli, drawn: np.ndarray) -> None:
    said = cli("power", "fit", str(log(drawn)), *SERVED, "out=fitted")
    assert said.code == 0, said
    assert {path.name for path in Path("fitted").iterdir()} == {"power.yaml", "calibration.json", "power_fit.png", "config.yaml"}
    report = json.loads(Path("fitted/calibration.json").read_text())
    assert report["status"] == "calibrated" and report["log"]["format"] == "nvidia-smi" and report["devices"] == 1
    assert report["start_s"] == pytest.approx(1.5, abs=0.11)
    assert report["factor"] == pytest.approx(1.3, rel=0.02) and report["limit"] == "the boards'"
    low, high = report["energy_j"]["interval_90_pct"]
    assert low < report["energy_j"]["measured"] < high
    device = yaml.safe_load(Path("fitted/power.yaml").read_text())
    assert (device["idle_w"], device["standby_w"], device["standby_s"]) == (pytest.approx(90, rel=0.02), pytest.approx(150, rel=0.02), 2.0)
    assert "sha256" in device["source"] and "simjax run power=utilization power.file=fitted/power.yaml power.node=false" in said.out
    again = simjax.run(simjax.compose([*SERVED, "power=utilization", "power.file=fitted/power.yaml", "power.node=false"]))
    energy = simjax.summarize(again.result)["energy"]["total_j"]
    assert energy == pytest.approx(float(drawn.sum()) * STEP_S, rel=0.01)


def test_the_log_of_something_else_is_a_poor_fit(cli: Cli, drawn: np.ndarray) -> None:
    busy = 200.0 + 150.0 * (np.arange(len(drawn)) % 80 < 40)  # another server's four seconds on and four off
    said = cli("power", "fit", str(log(busy)), *SERVED, "out=poor", "plots=false")
    assert said.code == 1 and said.err.splitlines()[-1].startswith("simjax: error: not calibrated well")
    assert json.loads(Path("poor/calibration.json").read_text())["status"] == "poor" and Path("poor/power.yaml").exists()


def test_energies_are_of_the_seconds_with_samples(cli: Cli, drawn: np.ndarray) -> None:
    path = log(drawn)
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *(row for k, row in enumerate(rows) if k // 10 % 3)]) + "\n")  # two of three seconds
    said = cli("power", "fit", str(path), *SERVED, "out=thin", "plots=false")
    assert said.code == 0, said
    energy = json.loads(Path("thin/calibration.json").read_text())["energy_j"]
    assert energy["fitted"] == pytest.approx(energy["measured"], rel=0.02)


def test_a_log_in_which_steps_show_nothing_is_a_poor_fit(cli: Cli, drawn: np.ndarray) -> None:
    said = cli("power", "fit", str(log(np.full(len(drawn), 90.0))), *SERVED, "out=flat", "plots=false")
    assert said.code == 1 and said.err.splitlines()[-1].startswith("simjax: error: not calibrated well")
    assert yaml.safe_load(Path("flat/power.yaml").read_text())["limit_w"] > 90.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to fit to: simjax power fit LOG"),
        (("nowhere.csv",), "cannot read power log nowhere.csv: No such file or directory"),
        (("short.csv",), "a fit to a power log needs 10 seconds with samples in common with the run, and has 3"),
        (("short.csv", "power=none"), "power=none: a fit needs power=utilization or power=three_state"),
        (("short.csv", "power.pue=1.2"), "power.pue has no effect on a fit"),
        (("short.csv", "power.node=false"), "power.node has no effect on a fit"),
        (("short.csv", "latest_s=-1"), "latest_s=-1.0: it must be a number of seconds from 0 to 3600"),
        (("short.csv", "cluster=heterogeneous"), "a log of h100, l40s together does not say what each draws"),
        (("short.csv", "slo.ttft_s=1"), "unknown option 'slo'"),
    ],
)
def test_mistakes(cli: Cli, words: tuple[str, ...], message: str) -> None:
    Path("short.csv").write_text("t_s,power_w\n0,100\n1,200\n2,200\n3,100\n")
    line = one_line(cli("power", "fit", *SERVED[:2], *words) if words[:1] == ("short.csv",) else cli("power", "fit", *words))
    assert line.startswith(message), line
