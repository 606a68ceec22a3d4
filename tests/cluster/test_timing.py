"""Step times of a cluster: each distinct deployment once, host times, tables and profiles."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from simjax.cluster import timing as timing_module
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.timing import cluster_timing
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.step_time import decode_steps, row
from simjax.model import load_model
from tests.data import data_path

H100, L40S = (InstanceSpec(load_model("llama-3.1-8b"), load_device(name)) for name in ("h100", "l40s"))


def step_s(timing, instance: int) -> float:
    with jax.enable_x64(True):
        return float(decode_steps(row(timing.step_time, int(timing.row[instance])), 8, 8000, 1000)[0])


def test_equal_instances_share_a_step_time_model():
    limited = InstanceSpec(H100.model, H100.device, limits=InstanceLimits(max_num_seqs=8))
    timing = cluster_timing((H100, L40S, limited, L40S), LatencySource())
    assert timing.row.tolist() == [0, 1, 0, 1]
    assert timing.step_time.tokens_s.shape[0] == 2
    assert step_s(timing, 1) > 2 * step_s(timing, 0)  # 0.86 TB/s against 3.35


def test_joining_changes_no_step_time():
    together, alone = cluster_timing((H100, L40S), LatencySource()), cluster_timing((L40S,), LatencySource())
    assert step_s(together, 1) == step_s(alone, 0)


def test_host_times_replace_those_of_the_profile():
    base = cluster_timing((H100,), LatencySource())
    given = cluster_timing((H100,), LatencySource(step_s=1e-3, api_pre_s=0.5, api_post_s=0.25))
    assert step_s(given, 0) == pytest.approx(step_s(base, 0) + 1e-3, rel=1e-12)
    assert (given.api_pre_s.tolist(), given.api_post_s.tolist()) == ([0.5], [0.25])
    assert base.api_pre_s[0] > 0  # the generic profiles know of an HTTP server


def test_leaving_the_measured_range_is_a_warning():
    (warning, *_) = cluster_timing((H100,), LatencySource()).warnings
    assert "not measured for meta-llama/Llama-3.1-8B" in warning


def test_devices_of_one_name_but_other_bandwidth_have_their_own_step_times():
    slow = replace(H100, device=replace(H100.device, memory_bandwidth_bytes_per_s=H100.device.memory_bandwidth_bytes_per_s / 2))
    small = replace(H100, device=replace(H100.device, memory_bytes=2**36))
    timing = cluster_timing((H100, slow, small), LatencySource())
    assert timing.row.tolist() == [0, 1, 0]  # the size of the memory changes no step time
    assert step_s(timing, 1) > 1.7 * step_s(timing, 0)
    assert step_s(timing, 1) == step_s(cluster_timing((slow,), LatencySource()), 0)


def test_an_fp8_cache_is_timed_as_it_is_read():
    fp8 = replace(H100, limits=InstanceLimits(kv_cache_dtype="fp8"))
    same = replace(H100, limits=InstanceLimits(kv_cache_dtype="bfloat16"))
    timing = cluster_timing((H100, fp8, same), LatencySource())
    assert timing.row.tolist() == [0, 1, 0]
    read_s = 8000 * 131072 / (H100.device.memory_bandwidth_bytes_per_s * 0.86)  # 8 decodes of 1,000 tokens; profiles/latency/h100
    assert step_s(timing, 0) - step_s(timing, 1) == pytest.approx(read_s / 2, rel=0.05)
    assert not any("kv_cache_dtype" in line for line in timing.warnings)


def test_fitted_attention_knows_neither_fp8_nor_another_bandwidth():
    pro = InstanceSpec(H100.model, load_device("rtx_pro_6000"), limits=InstanceLimits(max_num_batched_tokens=2048))
    assert cluster_timing((pro,), LatencySource()).warnings == ()
    fp8 = replace(pro, limits=replace(pro.limits, kv_cache_dtype="fp8"))
    (line,) = cluster_timing((fp8,), LatencySource()).warnings
    assert "kv_cache_dtype=fp8 changes the capacity of the KV cache only; its reads are timed as measured (16-bit)" in line
    slow = replace(pro, device=replace(pro.device, memory_bandwidth_bytes_per_s=1e12))
    (line,) = cluster_timing((slow,), LatencySource()).warnings
    assert line.endswith("attention is timed as measured, whatever the 1000 GB/s of memory bandwidth instead of rtx_pro_6000's 1597 GB/s")


def test_every_instance_of_a_deployment_is_held_to_the_measured_range():
    pro = InstanceSpec(H100.model, load_device("rtx_pro_6000"), limits=InstanceLimits(max_num_batched_tokens=2048))
    wide = replace(pro, limits=InstanceLimits(max_num_batched_tokens=2048, max_num_seqs=512))
    timing = cluster_timing((pro, wide), LatencySource())
    assert timing.row.tolist() == [0, 0]
    (line,) = timing.warnings
    assert "max_num_seqs=512 exceeds the measured 256" in line


def test_mistakes_are_named(tmp_path):
    with pytest.raises(SimjaxError, match=r"profile.file and profile.bundle_root are both set"):
        LatencySource(profile=tmp_path, bundle_root=tmp_path)
    with pytest.raises(SimjaxError, match=r"profile.step_s=-1"):
        LatencySource(step_s=-1)


def test_tables_of_two_devices_in_one_cluster():
    root = data_path("llmservingsim/profiles")
    specs = tuple(InstanceSpec(H100.model, load_device(name)) for name in ("rtx_pro_6000", "rtx_4090"))
    timing = cluster_timing(specs, LatencySource(bundle_root=root))
    single = [cluster_timing((spec,), LatencySource(bundle_root=root)) for spec in specs]
    np.testing.assert_allclose([step_s(timing, i) for i in range(2)], [step_s(one, 0) for one in single], rtol=1e-13)
    assert (timing.api_pre_s == 0).all()  # kernel tables know nothing of a server


def test_leaving_the_range_of_tables_is_a_warning():
    root, device = data_path("llmservingsim/profiles"), load_device("rtx_pro_6000")
    inside = InstanceSpec(H100.model, device, limits=InstanceLimits(max_num_batched_tokens=2048))
    timing = cluster_timing((inside,), LatencySource(bundle_root=root))
    assert timing.warnings == ()
    assert timing.measured == (("RTXPRO6000/meta-llama/Llama-3.1-8B/bf16/tp1", 16384),)
    beyond = InstanceSpec(H100.model, device, limits=InstanceLimits(max_num_batched_tokens=4096, max_num_seqs=512, kv_cache_dtype="fp8"))
    said = "\n".join(cluster_timing((beyond,), LatencySource(bundle_root=root)).warnings)
    for part in ("max_num_batched_tokens=4096 exceeds the measured 2048", "max_num_seqs=512 exceeds", "kv_cache_dtype=fp8"):
        assert part in said


def test_compiled_tables_are_kept_until_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMJAX_CACHE", str(tmp_path / "kept"))
    folder, root = "RTXPRO6000/meta-llama/Llama-3.1-8B/bf16", tmp_path / "profiles"
    shutil.copytree(data_path("llmservingsim/profiles") / folder, root / folder)
    instance = InstanceSpec(H100.model, load_device("rtx_pro_6000"))

    def step_time():
        return cluster_timing((instance,), LatencySource(bundle_root=root)).step_time

    first = step_time()
    (entry,) = (tmp_path / "kept").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(timing_module, "read_bundle", None)  # nothing is read again
        jax.tree.map(np.testing.assert_array_equal, step_time(), first)
    file = root / folder / "tp1" / "per_sequence.csv"
    file.write_text(re.sub(r"^(sampler,\d+,)", r"\g<1>9", file.read_text(), flags=re.MULTILINE))
    assert (step_time().sequences_s[:, 1:] > first.sequences_s[:, 1:]).all()
    assert len(list(entry.parent.iterdir())) == 2
