"""The configuration: what is shipped, how it is checked, and that its defaults are the engine's."""

import dataclasses

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import simjax
from simjax.cluster.configured.cluster import build_cluster
from simjax.cluster.configured.groups import engine_limits
from simjax.cluster.instance import InstanceLimits
from simjax.config import compose
from simjax.config.cluster import GroupConfig
from simjax.config.compose import GROUPS as COMPOSED_GROUPS
from simjax.config.compose import SCHEMAS, compose_config, group_config, typed
from simjax.config.explain import group_options
from simjax.config.scheduler import SchedulerConfig
from simjax.config.schema import RunConfig, SimConfig
from simjax.disk.paths import CONF
from simjax.engine.simulate import DEFAULT_MAX_TICKS
from simjax.errors import SimjaxError
from simjax.workload import build_workload

GROUPS = [(path.parent.name, path.stem) for path in sorted(CONF.glob("*/*.yaml"))]


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_command_composes_to_its_schema(command: str) -> None:
    config = typed(compose_config(command, []))
    assert type(config) is SCHEMAS[command]


def test_every_file_under_conf_belongs_to_a_command_or_a_group() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == set(SCHEMAS)
    assert {group for group, _ in GROUPS} == set(COMPOSED_GROUPS)


@pytest.mark.parametrize(("group", "name"), GROUPS)
def test_every_choice_of_a_group_composes_and_says_what_it_is(group: str, name: str) -> None:
    config = simjax.compose([f"{group}={name}"])
    assert isinstance(config, RunConfig)
    if group == "workload":
        assert config.workload.kind == {"shared_prefix": "poisson", "classes": "poisson"}.get(name, name)
        if name != "trace":
            assert len(build_workload(config.workload)) > 0
    assert name in group_options(group)
    assert (CONF / group / f"{name}.yaml").read_text().startswith("# ")


def test_defaults_of_the_scheduler_are_the_engines() -> None:
    assert engine_limits(simjax.compose().scheduler) == InstanceLimits()


def test_scheduler_schema_has_the_fields_of_the_engine_limits() -> None:
    assert [f.name for f in dataclasses.fields(SchedulerConfig)] == [f.name for f in dataclasses.fields(InstanceLimits)]


def test_default_tick_limit_is_the_engines() -> None:
    assert SimConfig().max_ticks == DEFAULT_MAX_TICKS


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    before, after = dataclasses.asdict(simjax.compose()), dataclasses.asdict(simjax.compose(["scheduler.max_num_seqs=64", "slo.ttft_s=2"]))
    assert (after["scheduler"]["max_num_seqs"], after["slo"]["ttft_s"]) == (64, 2.0)
    after["scheduler"]["max_num_seqs"], after["slo"]["ttft_s"] = before["scheduler"]["max_num_seqs"], None
    assert after == before


def test_profile_is_short_for_its_file() -> None:
    assert simjax.compose(["profile=a/b.yaml"]).profile.file == "a/b.yaml"


def test_composing_leaves_no_global_state_behind() -> None:
    simjax.compose()
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(SimjaxError):
        simjax.compose(["nothing=1"])
    assert not GlobalHydra.instance().is_initialized()


def test_composing_inside_another_hydra_application_leaves_it_alone() -> None:
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        simjax.compose()
        with pytest.raises(SimjaxError):
            simjax.compose(["nothing=1"])
        assert outer is not None
        assert GlobalHydra.instance().hydra is outer


def test_a_configuration_can_be_read_back_from_its_yaml() -> None:
    config = compose_config("run", ["cluster.groups=[{instances: 2}, {device: l40s}]", "workload=piecewise"])
    again = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.create(OmegaConf.to_yaml(config)))
    assert typed(again) == typed(config)


def test_groups_are_checked_against_their_schema() -> None:
    assert group_config(0, {"instances": 3, "max_num_seqs": 7}) == GroupConfig(instances=3, max_num_seqs=7)
    with pytest.raises(SimjaxError, match=r"^cluster\.groups\[1\]: unknown key 'max_seqs'; did you mean max_num_seqs"):
        group_config(1, {"max_seqs": 7})


def test_what_a_group_does_not_say_comes_from_the_run() -> None:
    config = simjax.compose(
        [
            "model=qwen3-14b",
            "device=h200",
            "cluster.tensor_parallel_size=2",
            "scheduler.max_num_seqs=31",
            "cluster.groups=[{}, {instances: 2, device: l40s, tensor_parallel_size: 4, max_num_seqs: 5}]",
        ]
    )
    built = build_cluster(config.model, config.device, config.cluster, config.scheduler)
    said = [(x.model.name, x.device.name, x.parallelism.tensor, x.limits.max_num_seqs) for x in built.instances]
    assert said == [("Qwen/Qwen3-14B", "h200", 2, 31)] + 2 * [("Qwen/Qwen3-14B", "l40s", 4, 5)]
    assert built.num_devices == 2 + 2 * 4


def test_a_link_replaces_only_what_it_says() -> None:
    config = simjax.compose(["cluster.tensor_parallel_size=2", "cluster.link_latency_s=3e-5"])
    built = build_cluster(config.model, config.device, config.cluster, config.scheduler)
    link, own = built.instances[0].link, built.instances[0].device.node.intra_link
    assert link is not None
    assert (link.latency_s, link.bandwidth_bytes_per_s) == (3e-5, own.bandwidth_bytes_per_s)


def test_a_plus_before_a_known_option():
    with pytest.raises(SimjaxError, match=r"\+workload\.rate: workload\.rate is there already; leave the \+ out"):
        compose_config("run", ["+workload.rate=3"])


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        ("run", ["workload=trace", "workload.file=a/b.csv", "device=h200", "scheduler.max_num_seqs=64"]),
        ("run", ["workload=gamma", "workload.rate=1e3", "plots=False", "cluster.instances=3", "cluster.instances=2"]),
        ("run", ["workload.max_concurrency=null", "sim.max_ticks=1_000", "cluster.router=least_loaded"]),
        ("validate", ["measured=a/b.yaml"]),
    ],
)
def test_values_on_composed_presets_are_what_hydra_composes(command: str, overrides: list[str]) -> None:
    mine, hydras = compose._from_presets(command, overrides), compose._by_hydra(command, overrides)
    assert mine is not None and OmegaConf.is_struct(mine)
    assert OmegaConf.to_yaml(mine) == OmegaConf.to_yaml(hydras)
    assert typed(mine) == typed(hydras)


@pytest.mark.parametrize("override", ["workload.rate=fast", "workload.rat=3", "+extra=1", "workload.file='a b'", "device=a,b", "seed=1"])
def test_mistakes_and_more_than_values_are_left_to_hydra(override: str) -> None:
    assert compose._from_presets("run", [override]) is None
