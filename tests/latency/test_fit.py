"""Fits of measured bundles, and the shipped profiles that came from them."""

import functools
from dataclasses import asdict

import numpy as np
import pytest
import yaml

from simjax.deployment import Deployment
from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.fitting.fit import fit_bundle, fit_generic
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.file import load_profile, save_profile
from simjax.model import load_model
from tests.data import data_path

RTX_4090 = "llmservingsim/profiles/RTX4090/meta-llama/Llama-3.1-8B/bf16"
FITTED = ["rtx_4090/llama-3.1-8b", "rtx_pro_6000/llama-3.1-8b", "rtx_pro_6000/qwen3-32b", "rtx_pro_6000/qwen3-30b-a3b"]


@functools.cache
def fitted():
    return fit_bundle(data_path(RTX_4090))


def test_every_matrix_product_is_described_within_a_percent_or_two():
    errors = fitted().provenance["errors"][1]
    for name in ("qkv_proj", "o_proj", "gate_up_proj", "lm_head"):
        assert errors[name]["median_pct"] < 1.0, name
    assert errors["down_proj"]["median_pct"] < 2.5
    assert errors["step_without_attention"]["median_pct"] < 1.0
    assert abs(errors["step_without_attention"]["mean_pct"]) < 0.5


def test_a_saved_profile_comes_back(tmp_path):
    save_profile(fitted(), tmp_path / "p.yaml")
    back = load_profile(tmp_path / "p.yaml")
    assert (back.device, back.model, back.valid, back.host) == ("rtx_4090", "meta-llama/Llama-3.1-8B", fitted().valid, fitted().host)
    assert back.provenance == fitted().provenance
    for name, op in fitted().ranks[1].ops.items():
        for field, value in asdict(op).items():
            np.testing.assert_allclose(asdict(back.ranks[1].ops[name])[field], value, rtol=6e-4, err_msg=f"{name} {field}")
    for field, value in asdict(fitted().ranks[1].attention).items():
        assert asdict(back.ranks[1].attention)[field] == pytest.approx(value, rel=1e-4), field


def test_the_shipped_profile_prices_steps_as_a_fresh_fit_does():
    shipped = load_profile(PROFILES / "latency" / "rtx_4090" / "llama-3.1-8b.yaml")
    model, device = load_model("llama-3.1-8b"), load_device("rtx_4090")
    one, other = (compile_profile(profile, Deployment(model, device)) for profile in (shipped, fitted()))
    np.testing.assert_allclose(one.tokens_s, other.tokens_s, rtol=2e-3)
    np.testing.assert_allclose(one.sequences_s, other.sequences_s, rtol=2e-3)
    np.testing.assert_allclose(one.attention.decode_kv_s, other.attention.decode_kv_s, rtol=2e-3)


def test_a_generic_fit_prices_another_tensor_parallel_degree():
    folder = data_path("llmservingsim/profiles/RTXPRO6000/Qwen/Qwen3-32B/bf16")
    profile = fit_generic([folder])
    assert profile.model is None
    for errors in profile.provenance["errors"].values():
        assert errors["median_pct"] < 4.0


@pytest.mark.parametrize("name", FITTED)
def test_shipped_fits_state_their_errors(name):
    raw = yaml.safe_load((PROFILES / "latency" / f"{name}.yaml").read_text())
    assert raw["provenance"]["vllm_version"] and raw["provenance"]["measured"] and raw["provenance"]["data"]
    for degree, rank in raw["ranks"].items():
        errors = raw["provenance"]["errors"][degree]
        assert set(rank["ops"]) <= set(errors)
        assert errors["step_without_attention"]["median_pct"] < 2.0


def test_a_folder_without_a_bundle(tmp_path):
    with pytest.raises(SimjaxError, match="no tpN folder; give the folder of a bundle"):
        fit_bundle(tmp_path)
