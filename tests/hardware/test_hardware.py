"""Device files: every one loads, states its sources, and a wrong one is told in one line."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError
from simjax.hardware import device_names, load_device, load_node
from simjax.hardware.nodes import node_names
from simjax.latency.profiles.file import find_profile, generic_profile, save_profile
from simjax.model import load_model

REQUIRED = {"a100", "b300", "gb200", "gb300", "h100", "h200", "b200", "l40s", "rtx_a6000", "rtx_pro_6000", "rtx_4090", "tpu_v6e"}


def test_the_devices_people_ask_for_are_shipped():
    assert set(device_names()) >= REQUIRED


@pytest.mark.parametrize("name", device_names())
def test_every_fact_has_a_source(name):
    device = load_device(name)
    facts = {"memory_bytes", "memory_bandwidth_bytes_per_s", "peak_flops", "multiprocessors"}
    facts |= {"tdp_w"} if device.tdp_w is not None else set()
    facts |= {"idle_w"} if device.idle_w is not None else set()
    assert set(device.sources) == facts


@pytest.mark.parametrize("name", device_names())
def test_figures_are_in_si_units(name):
    device = load_device(name)
    assert 8e9 < device.memory_bytes < 1e12
    assert 1e11 < device.memory_bandwidth_bytes_per_s < 2e13
    assert 1e14 < device.peak("bfloat16") < 1e16


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("RTXPRO6000", "rtx_pro_6000"),
        ("H100", "h100"),
        ("NVIDIA GeForce RTX 4090", "rtx_4090"),
        ("A6000", "rtx_a6000"),
        ("TPU-v6e-1", "tpu_v6e"),
    ],
)
def test_aliases(alias, name):
    assert load_device(alias).name == name


def test_unknown_device_and_dtype():
    with pytest.raises(SimjaxError, match="unknown device 'h10'; did you mean h100"):
        load_device("h10")
    with pytest.raises(SimjaxError, match="device a100 states no peak_flops for fp8; it has bfloat16, float16, int8"):
        load_device("a100").peak("fp8")


def raw_h100():
    """A device file with all fields of its node in it."""
    raw = yaml.safe_load((PROFILES / "hardware" / "h100.yaml").read_text())
    node = yaml.safe_load((PROFILES / "nodes" / f"{raw['node']}.yaml").read_text())
    return raw | {"node": {name: value for name, value in node.items() if name != "sources"}}


def test_a_device_file_of_the_users(tmp_path):
    raw = raw_h100()
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw | {"memory_bytes": 12 * 10**9}))
    assert load_device(path).memory_bytes == 12 * 10**9
    path.write_text(yaml.safe_dump(raw | {"memory_bytes": "much"}))
    with pytest.raises(SimjaxError, match=r"mine.yaml: memory_bytes must be a number that is not negative, got 'much'"):
        load_device(path)
    raw.pop("memory_bytes")
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(SimjaxError, match=r"mine.yaml: field 'memory_bytes' is missing"):
        load_device(path)
    raw.pop("peak_flops")
    raw["node"].pop("inter_link")
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(SimjaxError, match=r"fields 'memory_bytes', 'peak_flops', 'node\.inter_link' are missing; profiles/hardware"):
        load_device(path)


def test_memory_bandwidth_and_peak_make_a_device(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("memory_bytes: 40.0e+9\nmemory_bandwidth_bytes_per_s: 1.5e+12\npeak_flops: 3.0e+14\n")
    device = load_device(path)
    assert (device.memory_bytes, device.peak("float16"), device.multiprocessors) == (40 * 10**9, 3e14, 40)
    assert device.node == load_node("pcie_l40s")
    assert device.assumed == ("multiprocessors (40, by its peak)", "its node and links (pcie_l40s)")
    path.write_text(path.read_text() + "multiprocessors: 60\nnode: hgx_a100\n")
    assert load_device(path).assumed == () and load_device(path).multiprocessors == 60


def test_devices_nodes_and_profiles_of_the_users_folders(tmp_path, monkeypatch):
    with pytest.raises(SimjaxError, match="unknown device 'mine'"):
        load_device("mine")
    for folder in ("hardware", "nodes", "latency/mine"):
        (tmp_path / "own" / folder).mkdir(parents=True)
    (tmp_path / "own/hardware/mine.yaml").write_text(
        "memory_bytes: 40.0e+9\nmemory_bandwidth_bytes_per_s: 1.5e+12\npeak_flops: 3.0e+14\nnode: my_box\n"
    )
    link = "{bandwidth_bytes_per_s: 1.0e+11, latency_s: 3.0e-6}"
    (tmp_path / "own/nodes/my_box.yaml").write_text(f"devices_per_node: 3\nintra_link: {link}\ninter_link: {link}\n")
    save_profile(replace(generic_profile(load_device("h100")), device="mine"), tmp_path / "own/latency/mine/generic.yaml")
    monkeypatch.setenv("SIMJAX_CONFIG_DIR", f"{tmp_path}{os.pathsep}{tmp_path / 'own'}")
    device = load_device("Mine")
    assert (device.node.devices_per_node, "mine" in device_names(), "my_box" in node_names()) == (3, True, True)
    assert find_profile(device, load_model("qwen3-8b")).source.endswith("own/latency/mine/generic.yaml")


@pytest.mark.parametrize(
    ("field", "value", "unit"),
    [
        ("memory_bytes", 80, "bytes \\(not GB\\)"),
        ("memory_bandwidth_bytes_per_s", 8000, "bytes/s \\(not GB/s\\)"),
        ("memory_bandwidth_bytes_per_s", float("nan"), "bytes/s"),
        ("peak_flops.bfloat16", 989, "FLOP/s \\(not TFLOP/s\\)"),
        ("tdp_w", 7e5, "watts"),
        ("node.intra_link.bandwidth_bytes_per_s", 450, "bytes/s \\(not GB/s\\)"),
        ("node.inter_link.latency_s", 10, "seconds \\(not microseconds\\)"),
        ("node.cpu_memory_bytes", 512, "bytes \\(not GB\\)"),
        ("node.devices_per_node", 0.5, "devices of a server"),
    ],
)
def test_a_number_in_another_unit_is_refused(tmp_path, field, value, unit):
    raw = raw_h100()
    *parents, name = field.split(".")
    found = raw
    for parent in parents:
        found = found[parent]
    assert name in found
    found[name] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(SimjaxError, match=rf"mine\.yaml: .*{name}={value:g} cannot be meant: it is in {unit}"):
        load_device(path)


def test_the_node_of_a_device_file_is_a_name_a_file_or_its_fields(tmp_path):
    raw, h100 = raw_h100(), load_device("h100")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    assert load_device(path).node == h100.node and load_device(path).node.name == "mine's node"
    path.write_text(yaml.safe_dump(raw | {"node": "HGX B200"}))
    assert load_device(path).node is load_node("hgx_b200")
    (tmp_path / "box.yaml").write_text(Path(PROFILES / "nodes" / "pcie_l40s.yaml").read_text())
    path.write_text(yaml.safe_dump(raw | {"node": "box.yaml"}))  # beside the device file
    assert load_device(path).node == load_node("pcie_l40s")
    path.write_text(yaml.safe_dump(raw | {"node": "hgx_h10"}))
    with pytest.raises(SimjaxError, match=r"^device file .*mine\.yaml: unknown type of node 'hgx_h10'; did you mean hgx_h100"):
        load_device(path)
