"""Pricing a cluster: distinct kinds once, host times, tables and profiles."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from simjax.cluster.pricing import CostSource, price_cluster
from simjax.cluster.spec import EngineLimits, InstanceSpec
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.cost import decode_steps, row
from simjax.model import load_model
from tests.data import data_path

H100, L40S = (InstanceSpec(load_model("llama-3.1-8b"), load_device(name)) for name in ("h100", "l40s"))


def step_s(prices, instance: int) -> float:
    with jax.enable_x64(True):
        return float(decode_steps(row(prices.cost, int(prices.row[instance])), 8, 8000, 1000)[0])


def test_equal_engines_share_a_cost_model():
    limited = InstanceSpec(H100.model, H100.device, limits=EngineLimits(max_num_seqs=8))
    prices = price_cluster((H100, L40S, limited, L40S), CostSource())
    assert prices.row.tolist() == [0, 1, 0, 1]
    assert prices.cost.tokens_s.shape[0] == 2
    assert step_s(prices, 1) > 2 * step_s(prices, 0)  # 0.86 TB/s against 3.35


def test_stacking_changes_no_price():
    together, alone = price_cluster((H100, L40S), CostSource()), price_cluster((L40S,), CostSource())
    assert step_s(together, 1) == step_s(alone, 0)


def test_host_times_replace_those_of_the_profile():
    base = price_cluster((H100,), CostSource())
    given = price_cluster((H100,), CostSource(step_s=1e-3, api_pre_s=0.5, api_post_s=0.25))
    assert step_s(given, 0) == pytest.approx(step_s(base, 0) + 1e-3, rel=1e-12)
    assert (given.api_pre_s.tolist(), given.api_post_s.tolist()) == ([0.5], [0.25])
    assert base.api_pre_s[0] > 0  # the generic profiles know of an HTTP server


def test_leaving_the_measured_range_is_said():
    (warning, *_) = price_cluster((H100,), CostSource()).warnings
    assert "not measured for meta-llama/Llama-3.1-8B" in warning


def test_mistakes_are_named(tmp_path):
    with pytest.raises(SimjaxError, match=r"profile.file and profile.bundle_root are both set"):
        CostSource(profile=tmp_path, bundle_root=tmp_path)
    with pytest.raises(SimjaxError, match=r"profile.step_s=-1"):
        CostSource(step_s=-1)


def test_tables_of_two_devices_in_one_cluster():
    root = data_path("llmservingsim/profiles")
    specs = tuple(InstanceSpec(H100.model, load_device(name)) for name in ("rtx_pro_6000", "rtx_4090"))
    prices = price_cluster(specs, CostSource(bundle_root=root))
    single = [price_cluster((spec,), CostSource(bundle_root=root)) for spec in specs]
    np.testing.assert_allclose([step_s(prices, i) for i in range(2)], [step_s(one, 0) for one in single], rtol=1e-13)
    assert (prices.api_pre_s == 0).all()  # kernel tables know nothing of a server
