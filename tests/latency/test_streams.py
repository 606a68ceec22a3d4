"""Steps that send the KV cache of their tokens before they end: in closed form, against a walk over the layers, in leaps, and when off."""

import dataclasses
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.deployment import Deployment, Role
from simjax.hardware import LinkSpec, load_device
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.file import generic_profile
from simjax.latency.step_time import StepTime, decode_steps, mixed_step_s, row
from simjax.latency.tables.bundle import find_bundle, op_sequence, read_bundle
from simjax.latency.tables.compile_tables import compile_tables
from simjax.latency.tables.curves import at_sizes
from simjax.latency.terms import stream_s
from simjax.model import kv_bytes_per_token, load_model
from tests.data import data_path
from tests.latency.step_times import example_step_time

SLOTS, MOST = 64, 2048
MIXED, DECODE = jax.jit(mixed_step_s), jax.jit(decode_steps)
LLAMA, H100, PRO = load_model("llama-3.1-8b"), load_device("h100"), load_device("rtx_pro_6000")
SLOW, FAST = LinkSpec(0.5e9, 20e-6), LinkSpec(16 * 2.0**30, 20e-6)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def mixed(step_time: StepTime, new, computed=(0,)) -> float:
    slots = np.zeros((2, SLOTS), np.int32)
    slots[0, : len(new)], slots[1, : len(computed)] = new, computed
    return float(MIXED(row(step_time, 0), *slots))


def of_tables(link: LinkSpec | None) -> StepTime:
    root = data_path("llmservingsim/profiles")
    bundle = read_bundle(find_bundle(root, ("rtx_pro_6000", "RTXPRO6000"), "meta-llama/Llama-3.1-8B", "bf16", 1))
    return compile_tables(bundle, Deployment(LLAMA, PRO, kv_stream=link), MOST, SLOTS)


def walked(compute_s: float, until_kv_s: float, link: LinkSpec, tokens: int) -> float:
    """The end of a step whose layers are equally long, message by message."""
    layers = LLAMA.num_hidden_layers
    message_s = link.latency_s + tokens * kv_bytes_per_token(LLAMA) / layers / link.bandwidth_bytes_per_s
    head_s = 0.7e-3  # longer than a norm and qkv_proj
    layer_s = (compute_s - head_s) / layers
    free_s = 0.0
    for layer in range(layers):
        free_s = max(free_s, until_kv_s + layer * layer_s) + message_s
    return max(compute_s, free_s) + link.latency_s + 4 * tokens / link.bandwidth_bytes_per_s


@pytest.mark.parametrize("link", [SLOW, FAST, LinkSpec(4e9, 1e-6)])
@pytest.mark.parametrize("tokens", [1, 10, 300, MOST])
def test_a_step_lasts_until_its_messages_are_sent(link: LinkSpec, tokens: int):
    root = data_path("llmservingsim/profiles")
    bundle = read_bundle(find_bundle(root, ("rtx_pro_6000", "RTXPRO6000"), "meta-llama/Llama-3.1-8B", "bf16", 1))
    ops = op_sequence(bundle)
    until_kv_s = sum(float(at_sizes(bundle.dense[op], np.array([tokens]))[0]) for op in (*ops.prologue, "layernorm", "qkv_proj"))
    compute_s = mixed(of_tables(None), [tokens])
    assert mixed(of_tables(link), [tokens]) == pytest.approx(walked(compute_s, until_kv_s, link, tokens), rel=1e-9)


def test_the_time_to_first_token_of_llmservingsim():
    """Its first request of 10 tokens takes 10,998,250 ns alone and 11,018,252 ns on a prefill instance with its links (16, 20,000)."""
    assert mixed(of_tables(FAST), [10]) - mixed(of_tables(None), [10]) == pytest.approx(20_002e-9, abs=1e-9)


def test_messages_are_those_of_the_keys_and_values_of_a_rank():
    deployment = Deployment(LLAMA, H100, kv_stream=SLOW)
    layers_s, last_s = stream_s(deployment, 4)
    assert layers_s[3] == pytest.approx(32 * 20e-6 + 4 * 131072 / 0.5e9)
    assert last_s[3] == pytest.approx(20e-6 + 16 / 0.5e9)
    half_s, _ = stream_s(replace(deployment, kv_cache_dtype="fp8"), 4)
    assert half_s[3] == pytest.approx(32 * 20e-6 + 4 * 65536 / 0.5e9)


def test_profiles_have_streams_too():
    profile = generic_profile(H100)
    plain, sending = (compile_profile(profile, Deployment(LLAMA, H100, kv_stream=link), MOST, SLOTS) for link in (None, SLOW))
    sent_s, last_s = (float(x[-1]) for x in stream_s(Deployment(LLAMA, H100, kv_stream=SLOW), MOST))
    step_s = mixed(sending, [MOST])
    assert plain.stream_s is None
    assert mixed(plain, [MOST]) < sent_s, "otherwise the messages are hidden by the computation"
    assert sent_s + last_s < step_s < sent_s + last_s + 1e-3, "the first message waits for an embedding, a norm and qkv_proj"


def test_leaps_are_no_shorter_than_their_messages():
    plain = example_step_time()
    contexts = np.array([400, 500])
    first_s, slope_s, _ = (x.item() for x in DECODE(row(plain, 0), 2, int(contexts.sum()), int(contexts.max())))
    least_s = first_s + 2.5 * slope_s
    sending = dataclasses.replace(plain, stream_s=jnp.full_like(plain.tokens_s, least_s))
    found = tuple(x.item() for x in DECODE(row(sending, 0), 2, int(contexts.sum()), int(contexts.max())))
    assert found == (least_s, 0.0, 3)
    assert mixed(sending, [1, 1], contexts) == least_s
    assert mixed(sending, [0], [5]) == 0.0, "a step of nothing sends nothing"


def test_only_the_prefill_instances_of_the_compatibility_connector_send_within_their_steps():
    instance = InstanceSpec(LLAMA, H100, limits=InstanceLimits(max_num_batched_tokens=512, max_num_seqs=8), link=SLOW)
    instances = (replace(instance, role=Role.PREFILL), replace(instance, role=Role.DECODE))
    for connector, links in (("nixl", [None, None]), ("llmservingsim", [SLOW, None])):
        cluster = ClusterSpec(instances, disaggregation=Disaggregation(connector=connector))
        assert [x.kv_stream for x in cluster.instances] == links
        back = replace(cluster, disaggregation=Disaggregation())
        assert [x.kv_stream for x in back.instances] == [None, None]
    timing = cluster_timing(cluster.instances, LatencySource())
    assert timing.step_time.stream_s is not None
    prefill, decode = timing.row
    assert timing.step_time.stream_s[prefill, 512] > 0.0 == timing.step_time.stream_s[decode].max()
    assert cluster_timing(back.instances, LatencySource()).step_time.stream_s is None
