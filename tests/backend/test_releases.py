"""Releases of vLLM: what the table says, and what follows from it for a run and for a measured one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

import simjax
from simjax.backend.releases import DEFAULT, DRAFTING, GONE, KNOWN, NOT_SIMULATED, RULES, defaults_of, minor_of, release_of
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.disaggregation import CONNECTORS
from simjax.cluster.instance import InstanceLimits
from simjax.config.explain import group_options
from simjax.config.scheduler import MeasuredBackendConfig
from simjax.config.schema import ValidateConfig
from simjax.disk.paths import CONF
from simjax.errors import SimjaxError
from simjax.explore.options import Options
from simjax.validate.measured import read_measured
from simjax.validate.replay import measured_cluster
from tests.validate import samples


def test_todays_limits_are_those_of_the_default_release() -> None:
    assert InstanceLimits(**defaults_of(DEFAULT)) == InstanceLimits()
    assert simjax.compose().backend.release == DEFAULT
    assert configured_cluster(simjax.compose()).instances[0].limits == InstanceLimits()


def test_the_table_is_in_order_and_names_what_there_is() -> None:
    for rule in (*RULES, *DRAFTING, *NOT_SIMULATED):
        since = [release for release, _ in rule.values]
        assert since == sorted(set(since)) and since[0] == (0, 0)
        values = [value for _, value in rule.values]
        assert all(before != after for before, after in pairwise(values))
    assert {rule.name for rule in RULES} <= set(vars(InstanceLimits()))
    assert set(GONE) <= set(CONNECTORS)
    assert group_options("backend") == sorted(KNOWN)
    assert [simjax.compose([f"backend={name}"]).backend.release for name in KNOWN] == list(KNOWN)


def test_the_guide_has_the_table() -> None:
    lines = (CONF / "README.md").read_text().splitlines()
    head = lines.index("| option | " + " | ".join(f"`{name}`" for name in KNOWN) + " |")
    cells = [line.strip("| ").split(" | ") for line in lines[head + 2 : head + 2 + len(RULES)]]
    shown = {name.strip("`").removeprefix("scheduler."): values for name, *values in cells}
    text = lambda value: str(value).lower() if isinstance(value, bool) else str(value)
    assert shown == {rule.name: [text(defaults_of(name)[rule.name]) for name in KNOWN] for rule in RULES}


@pytest.mark.parametrize(
    "release, reserved, alone",
    [("vllm-0.22", False, False), ("vllm-0.23", True, False), ("vllm-0.28", True, False), ("vllm-0.33", True, True)],
)
def test_a_release_sets_rules_that_have_no_flag(release: str, reserved: bool, alone: bool) -> None:
    words = [f"backend.release={release}", "cluster=disaggregated"]
    limits = [x.limits for x in configured_cluster(simjax.compose([*words, "cluster.decode.long_prefill_alone=true"])).instances]
    assert [x.reserve_kv_loads for x in limits] == [reserved] * 4
    assert [x.long_prefill_alone for x in limits] == [alone, alone, True, True]
    assert {x.watermark for x in limits} == {0.0}
    assert {x.reuse_nameless_first for x in limits} == {release >= "vllm-0.28"}


@pytest.mark.parametrize(
    "release, memory, asynchronous, reserved",
    [
        ("vllm-0.13", 0.9, False, False),
        ("vllm-0.15", 0.9, True, False),
        ("vllm-0.19", 0.9, True, True),
        ("vllm-0.20", 0.92, True, True),
        ("vllm-0.33", 0.92, True, True),
    ],
)
def test_a_release_sets_the_defaults_of_flags(release: str, memory: float, asynchronous: bool, reserved: bool) -> None:
    limits = configured_cluster(simjax.compose([f"backend.release={release}"])).instances[0].limits
    assert (limits.gpu_memory_utilization, limits.async_scheduling, limits.reserve_full_isl) == (memory, asynchronous, reserved)
    mine = ["scheduler.gpu_memory_utilization=0.8", "cluster.groups=[{async_scheduling: false},{}]"]
    first, second = configured_cluster(simjax.compose([f"backend.release={release}", *mine])).instances
    assert first.limits.gpu_memory_utilization == 0.8 and not first.limits.async_scheduling
    assert second.limits.async_scheduling is asynchronous


def test_releases_are_an_axis_of_a_sweep() -> None:
    options = Options([], ["backend", "workload.rate"])
    used = [configured_cluster(options.config({"backend": name})).instances[0].limits.gpu_memory_utilization for name in KNOWN]
    assert used == [0.9, 0.9, 0.92, 0.92, 0.92]


@pytest.mark.parametrize(
    "words, line",
    [
        (["backend.release=vllm-x"], r"^backend\.release=vllm-x: there is no such release; did you mean vllm-"),
        (["backend.release=sglang"], r"^backend\.release=sglang: there is no such release; known: vllm-0\.15, "),
        (
            ["backend=vllm-0.28", "cluster=disaggregated", "disaggregation.connector=p2p_nccl"],
            r"^disaggregation\.connector=p2p_nccl: vllm-0\.28 has no such connector any more \(gone in 0\.28 at the latest\)$",
        ),
    ],
)
def test_mistakes_get_one_line(words: list[str], line: str) -> None:
    with pytest.raises(SimjaxError, match=line):
        configured_cluster(simjax.compose(words))


def test_an_older_release_has_the_connector() -> None:
    words = ["backend=vllm-0.23", "cluster=disaggregated", "disaggregation.connector=p2p_nccl"]
    assert configured_cluster(simjax.compose(words)).disaggregation.connector == "p2p_nccl"


@pytest.mark.parametrize(
    "version, release",
    [("0.19.0", "vllm-0.19"), ("v0.15.1", "vllm-0.15"), ("0.23.0rc1", "vllm-0.23"), ("vllm-0.33", "vllm-0.33"), ("main", DEFAULT)],
)
def test_a_recorded_version_names_its_release(version: str, release: str) -> None:
    assert release_of(version) == release
    assert minor_of(release) == tuple(map(int, release.removeprefix("vllm-").split(".")))


def test_a_measured_run_is_replayed_with_the_defaults_of_its_release(tmp_path: Path) -> None:
    """Of flags that it does not record; an option wins."""
    meta = {**samples.META, "vllm_version": "0.23.0"}
    run = read_measured(samples.llmservingsim(tmp_path / "run", meta=meta, cluster=None), "H100")
    limits = lambda **given: measured_cluster(run, ValidateConfig(model="llama-3.1-8b", device="h100", **given)).instances[0].limits
    assert run.engine.gpu_memory_utilization is None
    assert limits().gpu_memory_utilization == 0.92
    assert limits(backend=MeasuredBackendConfig("vllm-0.19")).gpu_memory_utilization == 0.9
