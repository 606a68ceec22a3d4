"""Readers of power logs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.power.logs import read_power_log
from tests.data import data_path

SMI = """timestamp, index, power.draw [W], utilization.gpu [%]
2026/01/31 12:00:00.000, 0, 100.00 W, 3 %
2026/01/31 12:00:00.004, 1, 50.00 W, 3 %
2026/01/31 12:00:00.200, 0, 300.00 W, 3 %
2026/01/31 12:00:00.204, 1, [N/A], 3 %
2026/01/31 12:00:00.400, 0, 301.00 W, 3 %
2026/01/31 12:00:00.404, 1, 49.00 W, 3 %
"""
IPMI = """2026-01-31 12:00:00
    Instantaneous power reading:                   387 Watts
    Minimum during sampling period:                 12 Watts
2026-01-31 12:00:01
    Instantaneous power reading:                   571 Watts
"""


def read(tmp_path: Path, text: str):
    path = tmp_path / "log.csv"
    path.write_text(text)
    return read_power_log(path)


def test_nvidia_smi_adds_its_devices_up(tmp_path: Path):
    log = read(tmp_path, SMI)
    assert log.kind == "nvidia-smi" and log.watts.tolist() == [150.0, 300.0, 350.0]
    np.testing.assert_allclose(log.t_s, [0.0, 0.2, 0.4], atol=1e-6)


def test_ipmitool_with_and_without_times(tmp_path: Path):
    log = read(tmp_path, IPMI)
    assert log.kind == "ipmitool" and log.t_s.tolist() == [0.0, 1.0] and log.watts.tolist() == [387.0, 571.0]
    bare = read(tmp_path, "Pwr Consumption  | 380 Watts\nPwr Consumption  | 390 Watts\n")
    assert bare.t_s.tolist() == [0.0, 1.0] and bare.watts.tolist() == [380.0, 390.0]


def test_samples_of_rounded_times_are_averaged(tmp_path: Path):
    server = read(tmp_path, "t_s,power_w\n-1,390\n-1,386\n0,380\n0,382\n0,384\n")
    assert server.t_s.tolist() == [0.0, 1.0] and server.watts.tolist() == [388.0, 382.0]
    two = read(tmp_path, "t_s,gpu,power_w\n0,0,100\n0,1,50\n0,0,110\n0,1,60\n1,0,100\n1,1,50\n")
    assert two.t_s.tolist() == [0.0, 1.0] and two.watts.tolist() == [160.0, 150.0]


def test_dcgm_prometheus_and_plain_columns(tmp_path: Path):
    dcgm = read(tmp_path, "timestamp,gpu,DCGM_FI_DEV_POWER_USAGE\n1769860800000,0,100.5\n1769860801000,0,200.5\n")
    assert dcgm.kind == "dcgm" and dcgm.t_s.tolist() == [0.0, 1.0] and dcgm.watts.tolist() == [100.5, 200.5]
    assert read(tmp_path, "time,value\n0,100\n1,200\n").kind == "prometheus"
    plain = read(tmp_path, "t_s,power_w\n0.5,100\n0.75,200\n2.5,70\n")
    assert plain.kind == "plain"
    np.testing.assert_allclose(plain.by_second(3), [150.0, np.nan, 70.0])


def test_measured_logs():
    log = read_power_log(data_path("ispass26/figure_6/derived/gpu0_power_tp1.csv"))
    assert len(log.t_s) > 800 and 30 < log.watts.min() < 40 and 290 < log.watts.max() < 310
    server = read_power_log(data_path("ispass26/figure_6/derived/server_power_tp1_4hz.csv"))
    assert 650 < np.nanmax(server.by_second(150)) < 700
    assert read_power_log(data_path("power/server_wall/series/b200_llama3.1-405b_server.csv")).watts.max() > 10_000


@pytest.mark.parametrize(
    "text, words",
    [
        ("", r"no column of times; it has none, and t_s would be one"),
        ("t_s,volts\n1,2\n", r"no column of watts; it has t_s, volts, and power_w or power.draw would be one"),
        ("t_s,power_w\n1,2\n", r"it has 1 samples of power with a time; it needs at least 2"),
        ("t_s,power_w\nnoon,2\n", r"line 2: 'noon' is no time"),
        ("t_s,power_w\n1,2\n2,much\n", r"line 3: could not convert string to float: 'much'"),
        ("t_s,power_w\n1,2\n2\n", r"line 3: too few columns"),
    ],
)
def test_wrong_logs_get_one_line(tmp_path: Path, text: str, words: str):
    with pytest.raises(SimjaxError, match=words):
        read(tmp_path, text)


def test_a_missing_log(tmp_path: Path):
    with pytest.raises(SimjaxError, match=r"cannot read power log .*: No such file"):
        read_power_log(tmp_path / "none.csv")
