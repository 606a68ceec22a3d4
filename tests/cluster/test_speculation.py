"""Speculative decoding of a cluster: its options, what its drafters take of step and memory, and what goes with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import simjax
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.engine.host.lower import lower
from simjax.engine.params import SpeculationParams
from simjax.errors import SimjaxError
from simjax.latency.step_time import StepTime
from simjax.model import load_model, weight_bytes
from simjax.speculation.methods import MTP_RATES, Speculation
from simjax.workload.workload import Workload

RATES = (0.7, 0.5, 0.3)
DRAFT = dataclasses.replace(load_model("llama-3.1-8b"), num_hidden_layers=8)


def cluster(*overrides: str) -> ClusterSpec:
    return configured_cluster(simjax.compose(list(overrides)))


def with_method(method: str, drafts: int = 3) -> ClusterSpec:
    base = cluster()
    made = Speculation(method, drafts, RATES, DRAFT if method == "draft_model" else None)
    return dataclasses.replace(base, instances=(dataclasses.replace(base.instances[0], speculation=made),))


def tables(spec: ClusterSpec) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Seconds by tokens and by sequences, and attention of the only instance."""
    times = cluster_timing(spec.instances, LatencySource()).step_time
    return times.tokens_s[0], times.sequences_s[0], {k: float(v[0]) for k, v in vars(times.attention).items()}


def test_options_make_the_record():
    (instance,) = cluster("speculation=mtp", "speculation.num_speculative_tokens=2", "speculation.seed=5").instances
    assert instance.speculation == Speculation("mtp", 2, MTP_RATES, seed=5)
    assert instance.speculation.num_lookahead_tokens == 2 and instance.speculation.acceptance_length == 1 + 0.762 + 0.616
    assert cluster().instances[0].speculation is None
    (ngram,) = cluster("speculation=ngram", "speculation.synthetic_acceptance_rates=[0.5,0.25,0.1]").instances
    assert ngram.speculation is not None and ngram.speculation.num_lookahead_tokens == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["speculation.method=medusa"], "speculation.method=medusa: there is no such method"),
        (["speculation=eagle"], "speculation.method=eagle: give speculation.synthetic_acceptance_rates"),
        (["speculation=mtp", "speculation.num_speculative_tokens=9"], "9 drafts need as many rates; it has 8"),
        (["speculation=mtp", "speculation.num_speculative_tokens=0"], "speculation.num_speculative_tokens=0: it must be 1 to 16"),
        (["speculation=mtp", "speculation.synthetic_acceptance_rates=[0.4,0.5]"], "they must not rise"),
        (["speculation=mtp", "speculation.synthetic_acceptance_rates=[1.4]"], r"rates must lie in \[0, 1\]"),
        (["speculation=mtp", "speculation.seed=-1"], "speculation.seed=-1: it must be 0 to"),
        (["speculation.num_speculative_tokens=3"], "without speculation.method|without method"),
        (["speculation.method=draft_model", "speculation.synthetic_acceptance_rates=[0.5]"], "needs speculation.model"),
    ],
)
def test_a_wrong_option_gets_one_line(overrides: list[str], message: str):
    with pytest.raises(SimjaxError, match=message) as found:
        cluster(*overrides)
    assert "\n" not in str(found.value)


def test_step_times_have_the_rows_and_passes_of_drafts():
    plain, drafts = tables(cluster()), {name: tables(with_method(name)) for name in ("ngram", "mtp", "draft_model")}
    layers = load_model("llama-3.1-8b").num_hidden_layers
    # The text costs nothing; a decode has 4 rows at the head.
    np.testing.assert_array_equal(drafts["ngram"][0], plain[0])
    np.testing.assert_allclose(drafts["ngram"][1][1:9], plain[1][4:36:4])
    assert drafts["ngram"][2] == plain[2]
    # A layer's pass over all tokens, about one of 32, and three readings of a decode's keys in it.
    assert 1 < drafts["mtp"][0][64] / plain[0][64] < 1 + 1.2 / layers
    assert drafts["mtp"][2]["decode_kv_s"] == pytest.approx(plain[2]["decode_kv_s"] * (1 + 3 / layers))
    assert drafts["mtp"][2]["chunk_kv_s"] == pytest.approx(plain[2]["chunk_kv_s"] * (1 + 1 / layers))
    # Two further passes over the sequences and three heads come with the sequences.
    one_layer_s = drafts["mtp"][0][8] - plain[0][8]
    assert drafts["mtp"][1][8] - drafts["ngram"][1][8] > 2 * one_layer_s
    assert drafts["draft_model"][0][64] > drafts["mtp"][0][64]


def test_drafters_have_weights_and_keys_on_the_device():
    blocks = {name: with_method(name).instances[0].num_gpu_blocks for name in ("ngram", "mtp", "draft_model")}
    assert blocks["ngram"] == cluster().instances[0].num_gpu_blocks > blocks["mtp"] > blocks["draft_model"]
    model = load_model("llama-3.1-8b")
    speculation = Speculation("draft_model", 1, RATES, DRAFT)
    assert speculation.weight_bytes(model, 1) == weight_bytes(DRAFT)
    layer = Speculation("mtp", 1, RATES).weight_bytes(model, 1) - 2 * model.hidden_size**2 * model.dtype_bytes
    without = weight_bytes(model, embedding=False, head=False)
    assert layer == pytest.approx(without / model.num_hidden_layers, rel=1e-6)


def lowered(*overrides: str, workload: Workload | None = None):
    config = simjax.compose(["speculation=mtp", *overrides])
    spec = configured_cluster(config)
    few = Workload(np.zeros(2), np.array([8, 8], np.int32), np.array([4, 4], np.int32), source="few") if workload is None else workload
    return lower(spec, cluster_timing(spec.instances, LatencySource()), few)


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["cluster=disaggregated", "disaggregation.connector=sglang"], "disaggregation.connector=sglang is not simulated yet; another"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], what: str):
    with pytest.raises(SimjaxError, match=f"speculation.method=mtp together with {what}"):
        lowered(*overrides)


def test_drafts_on_pp_stages_need_asynchronous_scheduling():
    stages = "cluster.pipeline_parallel_size=2"
    shape = lowered(stages).shape
    assert shape.speculation > 0 and shape.pipeline_stages == 2
    with pytest.raises(SimjaxError, match=r"pipeline_parallel_size=2 and scheduler.async_scheduling=false: .* use scheduler.async"):
        lowered(stages, "scheduler.async_scheduling=false")


def test_the_last_pp_stage_has_the_drafter():
    def two(name: str) -> tuple[StepTime, InstanceSpec]:
        (instance,) = with_method(name).instances
        staged = dataclasses.replace(instance, parallelism=dataclasses.replace(instance.parallelism, pipeline=2))
        return cluster_timing((staged,), LatencySource()).step_time, staged

    (ngram, plain), (mtp, staged) = two("ngram"), two("mtp")
    layers = load_model("llama-3.1-8b").num_hidden_layers
    np.testing.assert_array_equal(mtp.tokens_s[0], ngram.tokens_s[0])
    np.testing.assert_array_equal(mtp.sequences_s[0], ngram.sequences_s[0])
    assert 1 < mtp.tokens_s[1][64] / ngram.tokens_s[1][64] < 1 + 2.4 / layers
    drafted, model = float(mtp.attention.decode_kv_s[1]), float(ngram.attention.decode_kv_s[1])
    assert drafted == pytest.approx(model * (1 + 3 / (layers // 2)))
    assert plain.num_gpu_blocks > staged.num_gpu_blocks > with_method("mtp").instances[0].num_gpu_blocks
    assert staged.broadcast_s > dataclasses.replace(staged, speculation=None).broadcast_s


@pytest.mark.parametrize(
    ("release", "method", "ahead", "drops", "pads"),
    [
        ("vllm-0.19", "mtp", 0, True, False),
        ("vllm-0.28", "eagle", 0, True, True),
        ("vllm-0.33", "mtp", 1, False, True),
        ("vllm-0.33", "ngram", 0, False, True),
    ],
)
def test_a_release_says_which_cached_blocks_a_drafter_takes(release: str, method: str, ahead: int, drops: bool, pads: bool):
    rates = "speculation.synthetic_acceptance_rates=[0.5]"
    found = lowered(f"backend={release}", f"speculation.method={method}", rates, "scheduler.enable_prefix_caching=true").params
    assert isinstance(found.speculation, SpeculationParams) and found.ranks.names_ahead is not None
    assert found.ranks.names_ahead.tolist() == [ahead]
    assert found.speculation.drops_last.tolist() == [drops] and found.speculation.pads.tolist() == [pads]
    without = lowered(f"backend={release}", f"speculation.method={method}", rates).params
    assert without.ranks.names_ahead is None


def test_a_request_that_fits_but_for_its_drafts_is_refused_by_name():
    long = Workload(np.zeros(1), np.array([37], np.int32), np.array([9], np.int32), source="long")
    limits = ["scheduler.num_gpu_blocks_override=4", "speculation.num_speculative_tokens=4"]
    assert lowered(*limits[:1], workload=long).shape.speculation == 4
    with pytest.raises(SimjaxError, match=r"long: request 0 .* needs 4 KV blocks with its drafts, and .* has 3; fewer speculation"):
        lowered(*limits, workload=long)
