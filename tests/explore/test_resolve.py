"""Points become the very simulations that composing each of them gives; what is wrong with one is its reason alone."""

from __future__ import annotations

from dataclasses import fields

import jax
import numpy as np
import pytest

import simjax
from simjax.cluster.configured.cluster import build_cluster
from simjax.cluster.latency_source import latency_source
from simjax.cluster.timing import cluster_timing
from simjax.config.compose import compose_config, typed
from simjax.config.schema import RunConfig
from simjax.engine.host.lower import Lowered, lower
from simjax.errors import SimjaxError
from simjax.explore.axes import axis, zipped
from simjax.explore.options import Options
from simjax.explore.points import Points, grid
from simjax.explore.resolve import CLUSTER, RUN, WORKLOAD, resolve
from simjax.workload import build_workload

BASE = ["workload.num_requests=20"]


def lowered_run(config) -> Lowered:
    """What a single run of the configuration simulates."""
    cluster = build_cluster(config.model, config.device, config.cluster, config.scheduler)
    timings = cluster_timing(cluster.instances, latency_source(config.profile))
    return lower(cluster, timings, build_workload(config.workload), seed=config.workload.seed, log=False)


def same(a, b) -> None:
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def points(**axes) -> Points:
    return grid([axis(key.replace("__", "."), values) for key, values in axes.items()])


def test_options_are_what_hydra_composes():
    """Every kind of value: groups of options, text, integers where numbers are wanted, null, lists, nested keys."""
    swept = grid(
        [
            zipped({"workload": ["poisson", "gamma", "closed_loop"], "scheduler": ["vllm", "vllm_small", "vllm"]}),
            zipped({"model": ["qwen3-32b", "llama-3.1-8b"], "workload.prompt.mean": [100, 250.5]}),
            axis("scheduler.max_model_len", [None, 4096]),
            axis("cluster.groups", [[{"instances": 2, "device": "h100"}, {"device": "l40s", "max_num_seqs": 8}], []]),
            axis("slo.ttft_s", [1, 0.25]),
        ]
    )
    options = Options(BASE, swept.keys)
    for point in range(len(swept)):
        composed = typed(compose_config("run", [*BASE, *swept.overrides(point)]))
        assert options.config(dict(zip(swept.keys, swept.rows[point], strict=True))) == composed


def test_designs_are_lowered_as_single_runs():
    swept = points(device=["h100", "l40s"], cluster__instances=[1, 3], workload__rate=[2.0, 5.0], workload__seed=[0, 7])
    found = resolve(BASE, swept, range(len(swept)))
    assert not found.invalid
    for point, design in found.designs.items():
        config = simjax.compose([*BASE, *swept.overrides(point)])
        single = lowered_run(config)
        assert design.lowered.shape == single.shape
        for mine, padded in zip(*map(jax.tree.leaves, (design.lowered.params.requests, single.params.requests)), strict=True):
            same(mine, padded[:, : mine.shape[1]] if mine.ndim == 2 else padded)
        mine, alone = design.lowered.params, single.params
        for field in ("num_blocks", "max_num_seqs", "slots", "api_pre_s", "api_post_s"):
            same(getattr(mine.ranks, field), getattr(alone.ranks, field))
        row, alone_row = mine.ranks.step_time[0], alone.ranks.step_time[0]
        known = alone.step_time.tokens_s.shape[1]  # the sweep's table may reach further
        same(mine.step_time.tokens_s[row, :known], alone.step_time.tokens_s[alone_row])
        jax.tree.map(lambda a, b, i=row, j=alone_row: same(a[i], b[j]), mine.step_time.attention, alone.step_time.attention)


def test_what_points_share_is_built_once():
    swept = points(scheduler__max_num_seqs=[16, 32], workload__rate=[2.0, 5.0])
    designs = resolve(BASE, swept, range(4)).designs
    assert len({id(design.lowered.params.requests) for design in designs.values()}) == 2
    assert len({id(design.lowered.params.step_time) for design in designs.values()}) == 1


def test_every_group_of_a_run_is_part_of_a_design_or_of_the_sweep():
    """A group that no part reads could not be swept; these say what is written, or are about the sweep as a whole."""
    whole = {"out", "plots", "timeline_interval_s", "objective", "sweep", "uncertainty"}
    assert {x.name for x in fields(RunConfig)} - {*WORKLOAD, *CLUSTER, *RUN} == whole


def test_memories_of_weights_and_attention_are_swept():
    swept = grid([zipped({"weights.memory": [None, "cxl_x8", None], "pim.device": [None, None, "hbm_pim"]})])
    found = resolve(BASE, swept, range(3))
    assert not found.invalid
    blocks = [int(found.designs[point].lowered.params.ranks.num_blocks[0]) for point in range(3)]
    assert blocks[1] > blocks[0] != blocks[2]


@pytest.mark.parametrize(
    "key, bad, reason",
    [
        ("scheduler.max_num_seqs", 0, "scheduler.max_num_seqs=0: it must be an integer of at least 1"),
        ("scheduler.max_num_seqs", "many", "scheduler.max_num_seqs=many: it must be an integer"),
        ("device", "h1000", "unknown device 'h1000'; did you mean"),
        ("model", "llama-3.1-405b", "does not fit"),
        ("workload.rate", -1.0, "rate"),
        ("workload", "steady", "workload=steady: there is no such option"),
        ("cluster.tensor_parallel_size", 3, "3"),
        ("profile.step_s", -1.0, "profile.step_s=-1.0"),
        ("slo.tpot_s", 0.0, "slo.tpot_s=0.0: it must be a positive number of seconds"),
        ("sim.max_ticks", 0, "sim.max_ticks=0: it must be at least 1"),
        ("scheduler.num_gpu_blocks_override", 10, "can never be served"),
    ],
)
def test_a_bad_value_is_the_reason_of_its_points_only(key: str, bad, reason: str):
    good = {"device": "h100", "model": "llama-3.1-8b", "workload": "poisson"}.get(key, 1 if "size" in key else 64)
    if key == "scheduler.num_gpu_blocks_override":
        good = 4000
    swept = grid([axis(key, [good, bad]), axis("workload.seed", [0, 1])])
    found = resolve(BASE, swept, range(4))
    assert sorted(found.designs) == [0, 1] and sorted(found.invalid) == [2, 3]
    assert reason in found.invalid[2] and reason in found.invalid[3]
    with pytest.raises(SimjaxError) as single:  # the reason is what the single run says
        config = simjax.compose([*BASE, *swept.overrides(2)])
        simjax.run(config)
    assert str(single.value) == found.invalid[2]


def test_options_without_effect_are_refused():
    swept = grid([axis("cluster.groups", [[{"instances": 2}], []]), axis("cluster.instances", [1, 2])])
    found = resolve(BASE, swept, range(4))
    assert sorted(found.designs) == [2, 3]
    assert "cluster.instances=1 has no effect with cluster.groups" in found.invalid[0]


def test_the_base_counts_for_options_without_effect():
    """A sweep refuses what the single run refuses."""
    found = resolve(["cluster.instances=2"], points(cluster__groups=[[{"device": "h100"}], []]), range(2))
    assert sorted(found.designs) == [1] and "cluster.instances=2 has no effect with cluster.groups" in found.invalid[0]


@pytest.mark.parametrize(
    "error, reason", [(MemoryError(), "does not fit the memory"), (OverflowError("too\n large"), "OverflowError: too large")]
)
def test_any_error_is_that_of_its_point(monkeypatch, error: Exception, reason: str):
    import simjax.explore.resolve as module

    build = module.build_workload

    def fails(config):
        if config.rate == 2.0:
            raise error
        return build(config)

    monkeypatch.setattr(module, "build_workload", fails)
    found = resolve(BASE, points(workload__rate=[1.0, 2.0]), range(2))
    assert sorted(found.designs) == [0] and reason in found.invalid[1]


def test_lookups_are_no_longer_than_any_step_can_be():
    """A limit nobody can reach does not size the cost tables of all others."""
    base = [*BASE, "scheduler.num_gpu_blocks_override=4000"]
    found = resolve(base, points(scheduler__max_num_seqs=[16, 2**20], scheduler__max_num_batched_tokens=[2**20, 2**22]), range(4))
    step_time = found.designs[3].lowered.params.step_time
    assert step_time.sequences_s.shape[1] == 32 + 1 and step_time.tokens_s.shape[1] <= 2**16 + 1


def test_a_wrong_base_is_no_matter_of_points():
    with pytest.raises(SimjaxError, match=r"unknown option 'scheduler\.max_num_sqs'"):
        resolve(["scheduler.max_num_sqs=3"], points(workload__rate=[1.0, 2.0]), range(2))


def test_traces_are_read_once(tmp_path, monkeypatch):
    import simjax.workload.build as build

    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i},100,5\n" for i in range(9)))
    reads, read = [], build.read_trace
    monkeypatch.setattr(build, "read_trace", lambda *args, **options: (reads.append(args), read(*args, **options))[1])
    found = resolve(["workload=trace", f"workload.file={file}"], points(workload__rate=[1.0, 2.0, 3.0]), range(3))
    assert len(found.designs) == 3 and len(reads) == 1


def test_warnings_come_once_for_many_points(caplog):
    """Lengths cut by a bound are logged by every workload; a sweep passes on the first few."""
    swept = points(workload__seed=list(range(20)))
    found = resolve([*BASE, "workload.prompt.mean=5000"], swept, range(20))
    assert len(found.designs) == 20
    assert len([record for record in caplog.records if "cut" in record.getMessage()]) == 3
    assert "17 more like" in caplog.text
    longest = resolve(BASE, points(device=["h100"], workload__rate=[1.0, 2.0]), range(2)).warnings
    assert len(longest) == len(set(longest))
