"""Attention of any model from efficiencies: their inverse, and what they mean."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from simjax.deployment import Deployment
from simjax.hardware import load_device
from simjax.latency.attention.coefficients import TILE, AttentionCoefficients, scaled
from simjax.latency.attention.roofline import attention_coefficients, attention_efficiency
from simjax.latency.profiles.profile import ANY_DEGREE
from simjax.latency.roofline import Achieved, roofline_profile
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism

DEVICE = load_device("rtx_pro_6000")
EFFICIENCY = roofline_profile(DEVICE).ranks[ANY_DEGREE].attention


@pytest.mark.parametrize(("name", "tp"), [("llama-3.1-8b", 1), ("qwen3-32b", 2)])
def test_efficiencies_and_coefficients_are_inverse(name, tp):
    model = load_model(name)
    deployment = Deployment(model, DEVICE, Parallelism(tp))
    stack = attention_coefficients(EFFICIENCY, deployment)
    back = attention_efficiency(scaled(stack, 1 / model.num_hidden_layers), deployment)
    for field, value in asdict(back).items():
        assert value == pytest.approx(getattr(EFFICIENCY, field), rel=1e-12), field


def test_units():
    model = load_model("llama-3.1-8b")
    ideal = replace(EFFICIENCY, decode_bandwidth_efficiency=1.0, prefill_compute_efficiency=1.0)
    a = attention_coefficients(ideal, Deployment(model, DEVICE))
    assert isinstance(a, AttentionCoefficients)
    # A KV token of Llama-3.1-8B has 131,072 bytes; a tile and a key are 64 pairs of 4 x 32 heads x 128 FLOPs in 32 layers.
    assert a.decode_kv_s == pytest.approx(131_072 / 1.597e12)
    assert a.chunk_kv_s == pytest.approx(TILE * 4 * 32 * 128 * 32 / 4.68e14)


def test_a_mixed_step_reads_the_keys_of_its_decodes_at_least():
    model = load_model("llama-3.1-8b")
    packed = roofline_profile(DEVICE, Achieved(packed_decodes=True)).ranks[ANY_DEGREE].attention
    a = attention_coefficients(packed, Deployment(model, DEVICE))
    assert a.mixed_kv_s == pytest.approx(a.decode_kv_s)
    alone = attention_coefficients(EFFICIENCY, Deployment(model, DEVICE))
    assert alone.mixed_kv_s == pytest.approx(1.1 * alone.chunk_kv_s) and alone.mixed_kv_s > alone.decode_kv_s
    assert np.isfinite(list(asdict(a).values())).all()


def test_an_fp8_cache_is_read_in_half_the_time():
    model = load_model("llama-3.1-8b")
    own, fp8 = (attention_coefficients(EFFICIENCY, Deployment(model, DEVICE, kv_cache_dtype=x)) for x in ("auto", "fp8"))
    assert fp8.decode_kv_s == pytest.approx(own.decode_kv_s / 2, rel=1e-12)
    assert replace(fp8, decode_kv_s=own.decode_kv_s) == own  # nothing else reads the cache (a prefill is bound by its arithmetic)
