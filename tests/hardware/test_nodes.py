"""Types of node: every file loads, states its sources, and a wrong one is told in one line."""

from dataclasses import replace

import pytest
import yaml

from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError
from simjax.hardware import device_names, load_device, load_node, node_names

REQUIRED = {"hgx_a100", "hgx_h100", "hgx_h200", "hgx_b200", "hgx_b300", "gb200_nvl72", "gb300_nvl72"}
REQUIRED |= {"pcie_l40s", "pcie_rtx_pro_6000", "pcie_rtx_a6000", "pcie_rtx_4090"}


def raw_of(name):
    return yaml.safe_load((PROFILES / "nodes" / f"{name}.yaml").read_text())


def test_the_servers_people_ask_for_are_shipped():
    assert set(node_names()) >= REQUIRED


@pytest.mark.parametrize("name", device_names())
def test_every_device_names_a_shipped_type_of_node(name):
    raw = yaml.safe_load((PROFILES / "hardware" / f"{name}.yaml").read_text())
    assert load_device(name).node is load_node(raw["node"])


@pytest.mark.parametrize("name", node_names())
def test_every_fact_has_a_source(name):
    node, raw = load_node(name), raw_of(name)
    facts = {"devices_per_node", "nics_per_node", "intra_link", "inter_link"}
    facts |= {"cpu_memory"} if node.cpu_memory_bytes is not None else set()
    facts |= {share for link in ("intra_link", "inter_link") for share in ("efficiency", "duplex") if share in raw[link]}
    assert set(node.sources) == facts and all(node.sources.values())


@pytest.mark.parametrize("name", node_names())
def test_figures_are_in_si_units(name):
    node = load_node(name)
    assert 1 <= node.nics_per_node <= node.devices_per_node <= 72
    assert 1e9 < node.inter_link.bandwidth_bytes_per_s < 2e11
    assert 1e9 < node.intra_link.bandwidth_bytes_per_s < 2e12
    assert 0 < node.intra_link.latency_s < node.inter_link.latency_s < 1e-3 or name == "pcie_rtx_pro_6000"  # fitted: 20 us


def test_names_and_misspelt_ones():
    assert load_node("HGX H100") is load_node("hgx-h100") is load_node("hgx_h100")
    with pytest.raises(SimjaxError, match=r"^unknown type of node 'hgx_h20'; did you mean hgx_h200"):
        load_node("hgx_h20")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("devices_per_node", 0.5, "devices of a server"),
        ("nics_per_node", 0.5, "network adapters of a server"),
        ("intra_link.bandwidth_bytes_per_s", 450, r"bytes/s \(not GB/s\)"),
        ("inter_link.latency_s", 10, r"seconds \(not microseconds\)"),
        ("inter_link.duplex", 83, r"a share \(not percent\)"),
        ("intra_link.efficiency", 70, r"a share \(not percent\)"),
        ("cpu_memory_bytes", 512, r"bytes \(not GB\)"),
    ],
)
def test_a_number_in_another_unit_is_refused(tmp_path, field, value, message):
    raw = raw_of("hgx_h100")
    *parents, name = field.split(".")
    found = raw
    for parent in parents:
        found = found[parent]
    found[name] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(SimjaxError, match=rf"^node file .*mine\.yaml: {name}={value:g} cannot be meant: it is in {message}"):
        load_node(path)


def test_a_wrong_file_is_told_in_one_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in raw_of("hgx_h100").items() if key not in ("intra_link", "inter_link")}))
    with pytest.raises(
        SimjaxError, match=r"^node file .*: fields 'intra_link', 'inter_link' are missing; profiles/nodes/hgx_h100.yaml has all"
    ):
        load_node(path)
    path.write_text("- 8\n")
    with pytest.raises(SimjaxError, match=r"must hold a mapping like the files in profiles/nodes"):
        load_node(path)
    path.write_text(yaml.safe_dump(raw_of("hgx_h100") | {"inter_link": 50e9}))
    with pytest.raises(
        SimjaxError, match=r"^node file .*mine\.yaml: inter_link must be a mapping with bandwidth_bytes_per_s and latency_s$"
    ):
        load_node(path)


def test_adapters_are_shared_where_a_node_has_fewer_than_devices():
    node = load_node("hgx_h100")
    assert [node.nics_for(n) for n in (1, 2, 8, 16)] == [1, 2, 8, 16]
    two, sixteen = replace(node, nics_per_node=2), replace(node, nics_per_node=16)
    assert [two.nics_for(n) for n in (1, 2, 8, 16)] == [1, 2, 2, 4]
    assert [sixteen.nics_for(n) for n in (1, 8, 16)] == [2, 16, 32]


def test_ranks_are_spread_evenly_over_as_few_nodes_as_hold_them():
    node = load_node("hgx_h100")
    assert [node.nodes_for(n) for n in (1, 8, 12, 16, 20, 11)] == [1, 1, 2, 2, 4, 11]
