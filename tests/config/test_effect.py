"""Options without effect: every declaration of a condition, and what is done where it does not hold."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from omegaconf import OmegaConf

import simjax
from simjax.cluster.routers import ROUTERS
from simjax.config import cluster as cluster_options
from simjax.config.compose import SCHEMAS, compose_config, typed
from simjax.config.conditional import conditional_options
from simjax.config.schema import RunConfig
from simjax.errors import SimjaxError
from simjax.explore.options import Options
from simjax.job import about_options
from simjax.options.condition import ABSENT
from simjax.options.effect import Conditional, implausible, looking_at, without_effect
from simjax.options.option import Option, options, walk

FULL = (
    "{model: qwen3-8b, device: h200, tensor_parallel_size: 1, data_parallel_size: 2, "
    "max_num_seqs: 4, max_num_batched_tokens: 64, block_size: 16, "
    "long_prefill_token_threshold: 0, enable_chunked_prefill: true, reserve_full_isl: true, async_scheduling: true, "
    "long_prefill_alone: true, reserve_kv_loads: true, reuse_nameless_first: true, scheduling_policy: priority, "
    "preempt_self_goes_on: true, preempt_leaves_out: true, watermark: 0.1, max_model_len: 900, "
    "prefill_schedule_interval: 1, dp_sync_interval: 16, dp_syncs_first: true, "
    "enable_prefix_caching: false, gpu_memory_utilization: 0.9, dtype: auto, kv_cache_dtype: auto, quantization: fp8, "
    "cudagraph_mode: none, enable_expert_parallel: true}"
)
GROUP = FULL.removesuffix("}") + ", pipeline_parallel_size: 2, pipeline_layer_partition: [9, 9]}"
POOL = "{instances: 1, " + FULL.removeprefix("{model: qwen3-8b, ")
CONTEXTS = [
    [],
    ["workload=trace", "workload.file=t.csv"],
    ["workload=closed_loop"],
    ["workload=sessions"],
    ["workload.lengths_file=x.csv"],
    ["cluster.file=x.json"],
    [f"cluster.groups=[{GROUP}]"],
    ["cluster.groups=[{enforce_eager: true, kv_cache_memory_bytes: 99999999}]"],
    ["cluster.groups=[{num_gpu_blocks_override: 99}]"],
    ["scheduler.num_gpu_blocks_override=9"],
    ["scheduler.kv_cache_memory_bytes=99999999"],
    ["scheduler.enforce_eager=true"],
    ["network.instance_nodes=[0]"],
    ["cluster=disaggregated", "disaggregation.connector=mooncake"],
    [f"cluster.prefill={POOL}", f"cluster.decode={POOL}"],
    *(
        [f"cluster.prefill={{instances: 1, {flag}}}", f"cluster.decode={{instances: 1, {flag}}}"]
        for flag in ("enforce_eager: true, kv_cache_memory_bytes: 99999999", "num_gpu_blocks_override: 99")
    ),
]
"""Configurations in one of which every option that can be without effect is."""

SAMPLES = {int: "3", float: "0.7", str: "x", bool: "true", list: "[3]"}
KINDS = {one.key: one for one in options(RunConfig)}
REFUSED = [
    pytest.param(one, id=one.key)
    for one in conditional_options(RunConfig)
    if one.key in KINDS and any(condition.refused for condition in one.conditions)
]


@functools.cache
def configurations() -> list[Any]:
    """Those of `CONTEXTS`; made by the test that needs them, for every worker imports all modules."""
    return [typed(compose_config("run", context)) for context in CONTEXTS]


def looked(key: str, schema: type) -> bool:
    """Whether a schema has the key, as an option or a section."""
    return any(found.key == key for found in walk(schema))


@pytest.mark.parametrize("command", SCHEMAS)
def test_conditions_are_about_options_that_there_are(command: str) -> None:
    """A misspelt key would never hold anything up: every key is one of this command or, where a command has fewer, of `simjax run`."""
    for one in conditional_options(SCHEMAS[command]):
        assert looked(one.key, SCHEMAS[command])
        for key in (key for condition in one.conditions for key in condition.keys):
            assert looked(key, SCHEMAS[command]) or looked(key, RunConfig), f"{one.key} depends on {key}"


@pytest.mark.parametrize("one", REFUSED)
def test_every_option_with_a_condition_is_refused_where_it_does_not_hold(one: Conditional) -> None:
    option = KINDS[one.key]
    assert isinstance(option, Option)
    hindered = [k for k, config in enumerate(configurations()) if one.obstacle(looking_at(config), refused=True)]
    assert hindered, f"add a configuration to CONTEXTS in which {one.key} has no effect"
    word = f"{one.key}={SAMPLES[option.kind]}"
    with pytest.raises(SimjaxError, match=r" has no effect ") as error:
        simjax.compose([*CONTEXTS[hindered[0]], word])
    assert str(error.value).startswith(one.key)


def test_flags_of_a_group_are_checked_among_themselves() -> None:
    with pytest.raises(
        SimjaxError, match=r"^cluster\.groups\[1\]\.gpu_memory_utilization=0\.8 has no effect with num_gpu_blocks_override=9"
    ):
        simjax.compose(["cluster.groups=[{},{gpu_memory_utilization: 0.8, num_gpu_blocks_override: 9}]"])


def test_an_option_of_another_distribution_is_refused() -> None:
    """Whatever the group of lengths and the option, on the command line and in Python; the values of a preset are no mistake."""
    for which, preset in (("prompt", "poisson"), ("output", "closed_loop"), ("turns", "sessions"), ("followup", "sessions")):
        for key, value, wanted in (("tokens", 9, "fixed"), ("low", 2, "uniform"), ("alpha", 1.5, "zipf"), ("file", "t.csv", "trace")):
            full = f"workload.{which}.{key}"
            with pytest.raises(SimjaxError, match=f"{full}={value} has no effect with dist=lognormal, only with {wanted}"):
                simjax.compose([f"workload={preset}", f"{full}={value}"])
    with pytest.raises(SimjaxError, match=r"workload\.prompt\.mean=99\.0 has no effect with dist=fixed, only with lognormal"):
        simjax.compose(["workload.prompt.dist=fixed", "workload.prompt.tokens=9", "workload.prompt.mean=99"])
    prompt = simjax.compose(["workload.prompt.dist=fixed", "workload.prompt.tokens=99"]).workload.prompt
    assert (prompt.dist, prompt.tokens, prompt.mean, prompt.cv, prompt.min) == ("fixed", 99, None, None, 16)


def test_what_a_preset_set_for_another_choice_is_unset_and_shown_so() -> None:
    config = compose_config("run", ["workload=sessions", "workload.kind=poisson", "workload.num_requests=3"])
    assert (config.workload.think_s, config.workload.num_sessions, config.workload.turns.mean) == (None, None, None)
    blocks = typed(compose_config("run", ["scheduler.num_gpu_blocks_override=900"]))
    assert blocks.scheduler.gpu_memory_utilization is None
    again = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.create(OmegaConf.to_yaml(config)))
    assert typed(again) == typed(config)


def test_points_of_a_sweep_are_checked_one_by_one() -> None:
    swept = Options(["workload.prompt.tokens=100"], ["workload.prompt.dist", "workload.rate"])
    assert swept.config({"workload.prompt.dist": "fixed", "workload.rate": 2.0}).workload.prompt.mean is None
    assert swept.config({"workload.rate": 2.0}).workload.rate == 2.0  # a part of a design has its own keys only
    with pytest.raises(SimjaxError, match=r"workload\.prompt\.tokens=100 has no effect with dist=lognormal"):
        swept.config({"workload.prompt.dist": "lognormal", "workload.rate": 2.0})
    lengths = Options([], ["workload.prompt.tokens"])
    with pytest.raises(SimjaxError, match=r"workload\.prompt\.tokens=1024 has no effect with dist=lognormal"):
        lengths.config({"workload.prompt.tokens": 1024})
    with pytest.raises(SimjaxError, match=r"router_kv_weight=2\.0 has no effect with router=round_robin"):
        Options(["cluster.router_kv_weight=2"], ["workload.rate"]).config({"workload.rate": 2.0})


def test_what_sweeps_come_through_is_named_and_not_refused() -> None:
    config = simjax.compose(["cluster.router=least_loaded", "cluster.link_latency_s=1e-5", "slo.ttft_s=500"])
    assert about_options(config) == [
        "cluster.router=least_loaded has no effect with one instance, to which every request goes",
        "cluster.link_latency_s=1e-05 has no effect with tensor_parallel_size=1: one device has no link",
        "slo.ttft_s=500 is implausible: it is in seconds (not ms), usually 0.001 to 120",
    ]
    several = ["cluster.instances=2", "cluster.tensor_parallel_size=2", "cluster.router=least_loaded", "cluster.link_latency_s=1e-5"]
    assert about_options(simjax.compose([*several, "slo.ttft_s=0.5"])) == []
    groups = ["cluster.groups=[{tensor_parallel_size: 2},{}]", "cluster.link_latency_s=1e-5", "cluster.router=random"]
    assert about_options(simjax.compose(groups)) == []


def test_routers_whose_view_can_be_old_are_those_that_look() -> None:
    assert set(cluster_options._LOOKING) == {name for name, rule in ROUTERS.items() if rule.looks}


def test_defaults_are_plausible_and_have_effect() -> None:
    for command, kind in SCHEMAS.items():
        config: Any = typed(compose_config(command, []))
        assert implausible(kind, looking_at(config)) == []
        assert without_effect(conditional_options(kind), looking_at(config)) == []


def test_a_key_that_a_schema_does_not_have_hinders_nothing() -> None:
    assert looking_at(simjax.compose())("cluster.nothing.at_all") is ABSENT
    config = typed(compose_config("validate", ["cluster.link_latency_s=1e-5", "scheduler.gpu_memory_utilization=0.8"]))
    assert config.cluster.link_latency_s == 1e-5
