"""Files, sources and the work of steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simjax.deployment import Deployment
from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError
from simjax.hardware import device_names, load_device
from simjax.hardware.nodes import load_node, node_names
from simjax.model import load_model, weight_bytes
from simjax.parallel.parallelism import Parallelism
from simjax.power.cluster_file import file_power
from simjax.power.config import PowerConfig
from simjax.power.files import device_power, node_power
from simjax.power.source import PowerSource, power_source
from simjax.power.spec import DevicePower, NodePower, pooled
from simjax.power.work import step_work
from tests.data import data_path

MINE = "idle_w: 30\nstandby_w: 40\nfootprint_w: 10\nmemory_w: 90\ncompute_w: 80\nlimit_w: 200\nsource: mine\n"


@pytest.mark.parametrize("name", [name for name in device_names() if load_device(name).tdp_w is not None])
def test_every_shipped_device_has_a_file_with_source_and_error(name: str):
    device, power = load_device(name), device_power(load_device(name))
    assert (PROFILES / "power" / f"{device.name}.yaml").is_file()
    assert power.source and 0 < power.error <= 0.2
    assert 0 < power.idle_w <= power.standby_w < power.limit_w <= 1.001 * (device.tdp_w or 0)
    assert power.standby_w + power.footprint_w + power.memory_w + power.compute_w >= power.limit_w * 0.95


@pytest.mark.parametrize("name", [name for name in node_names() if name != "tpu_v6e_8"])
def test_every_shipped_server_has_one(name: str):
    power = node_power(load_node(name).name)
    assert power.source and sum(power.constants.values()) > 0 and 1 < power.at_the_wall < 1.3


def test_a_new_device_has_the_pooled_form():
    power = device_power(replace(load_device("h100"), name="new", tdp_w=500.0, idle_w=None))
    assert (power.idle_w, power.memory_w, power.compute_w, power.limit_w) == (40.0, 405.0, 180.0, 500.0)
    assert pooled(500.0, 60.0).standby_w == 60.0
    with pytest.raises(SimjaxError, match=r"nothing is known of tpu_v6e: give power.file, or tdp_w"):
        device_power(load_device("tpu_v6e"))


def test_a_file_of_ones_own_and_values_on_top(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    source = PowerSource(file=path, values=(("idle_w", 20.0),), factor=1.5)
    power = source.of_device(load_device("h100"))
    assert (power.idle_w, power.standby_w, power.memory_w, power.footprint_w) == (20.0, 40.0, 135.0, 15.0)
    three = PowerSource(model="three_state", file=path, values=(("active_w", 150.0),)).of_device(load_device("h100"))
    assert (three.footprint_w, three.memory_w, three.compute_w) == (110.0, 0.0, 0.0)
    assert PowerSource(node=False).of_node(load_device("h100")) == NodePower()


@pytest.mark.parametrize(
    "text, words",
    [
        ("idle_w: 30\n", r"mine.yaml: standby_w is missing"),
        (MINE + "idel_w: 3\n", r"there is no idel_w; did you mean idle_w"),
        (MINE.replace("idle_w: 30", "idle_w: thirty"), r"idle_w must be a number, got 'thirty'"),
        (MINE.replace("idle_w: 30", "idle_w: 50"), r"standby_w=40 is below idle_w=50"),
        (MINE.replace("limit_w: 200", "limit_w: 40"), r"limit_w=40 leaves nothing above standby_w=40"),
        ("- 3\n", r"must hold a mapping"),
    ],
)
def test_wrong_files_get_one_line(tmp_path: Path, text: str, words: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SimjaxError, match=words):
        device_power(load_device("h100"), path)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"model": "utilisation"}, r"power.model=utilisation: there is no such model; did you mean utilization"),
        ({"share": "half"}, r"power.node_share=half"),
        ({"pue": 0.9}, r"power.pue=0.9: it must be at least 1"),
        ({"factor": 0.0}, r"power.factor=0"),
        ({"values": (("idel_w", 3.0),)}, r"power.values: there is no idel_w"),
    ],
)
def test_wrong_sources_get_one_line(options: dict, words: str):
    with pytest.raises(SimjaxError, match=words):
        PowerSource(**options)


def test_active_power_is_of_three_states():
    with pytest.raises(SimjaxError, match=r"active_w: only with power.model=three_state"):
        PowerSource(values=(("active_w", 300.0),)).of_device(load_device("h100"))


def test_work_is_that_of_the_data_sheet():
    device, model = load_device("h100"), load_model("llama-3.1-8b")
    whole, half = (step_work(Deployment(model, device, Parallelism(tensor=n))) for n in (1, 2))
    embedding = model.vocab_size * model.hidden_size * model.dtype_bytes
    assert whole.weights_s * device.memory_bandwidth_bytes_per_s == pytest.approx(weight_bytes(model) - embedding, rel=1e-3)
    assert half.weights_s == pytest.approx(whole.weights_s / 2, rel=1e-3)
    flops = (whole.token_compute_s + whole.sequence_compute_s) * device.peak("bfloat16")
    assert flops == pytest.approx(2 * (weight_bytes(model) - embedding) / 2, rel=1e-3)
    assert whole.kv_s * device.memory_bandwidth_bytes_per_s == 2 * 32 * 8 * 128 * 2 and whole.experts_s == 0
    mixture = step_work(Deployment(load_model("mixtral-8x7b"), device))
    assert mixture.expert_share == 0.25 and mixture.experts_s > 5 * mixture.weights_s


def test_specs_refuse_what_cannot_be():
    with pytest.raises(SimjaxError, match=r"memory_w=-1"):
        DevicePower(10.0, 20.0, 0.0, memory_w=-1)
    with pytest.raises(SimjaxError, match=r"supply_efficiency=1.5"):
        NodePower(supply_efficiency=1.5)


def test_the_artifact_s_power_block_read_unchanged(tmp_path: Path):
    path = data_path("ispass26/figure_6/config/power_config_tp1.json")
    found = file_power(path)
    assert found is not None
    devices, server = found
    assert devices == {"rtx_a6000": DevicePower(33.0, 89.0, 211.0, standby_s=18.0)}
    expected = {"base": 219.0, "cpu": 10 + 175 * 0.5, "dram": 16.0, "nic": 11.2, "storage": 5.9, "link": 5.0}
    assert dict(server.constants) == pytest.approx(expected) and server.cpu_active_w == pytest.approx(35.0)
    assert server.link_j_per_byte == pytest.approx(32e-12)
    source = power_source(PowerConfig(model="three_state"), str(path))
    assert source is not None and source.share == "whole"
    assert source.of_device(load_device("rtx_a6000")).footprint_w == 211.0 and source.of_node(load_device("rtx_a6000")) == server
    text = path.read_text()
    for old, new, words in (
        ('"idle_power": 33,', "", r"power of node 0: 'idle_power' is missing"),
        ('"standby_power": 89', '"standby_power": 9', r"power of node 0: power: standby_w=9 is below idle_w=33"),
        ('"dimm_size": 32', '"dimm_size": "x"', r"power of node 0: a value of the wrong type"),
    ):
        wrong = tmp_path / "wrong.json"
        wrong.write_text(text.replace(old, new))
        with pytest.raises(SimjaxError, match=words):
            file_power(wrong)
    plain = tmp_path / "plain.json"
    plain.write_text('{"nodes": [{"instances": []}]}')
    assert file_power(plain) is None
