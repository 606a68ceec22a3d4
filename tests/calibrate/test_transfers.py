"""The fit of a hand-over to transfers: the truth is found again, priors hold where data say nothing, and the measured ones are met."""

import csv

import numpy as np
import pytest

import simjax
from simjax.calibrate.targets.transfers import FITTED, HANDOVER, alone_s, fit_transfers, with_handover
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.from_config import configured_cluster
from simjax.errors import SimjaxError
from tests.data import data_path

WORDS = ["model=qwen3-8b", "cluster=disaggregated", "network.inter_bandwidth_bytes_per_s=25e9"]
WORDS += [f"cluster.{pool}={{instances: 1, tensor_parallel_size: 8}}" for pool in ("prefill", "decode")]
CLUSTER = configured_cluster(simjax.compose(WORDS))
TOKENS = [128, 512, 2048, 8192, 32768]


def test_a_lone_transfer_takes_setup_latency_and_bytes():
    blocks = np.array([8, 9])
    expected = 0.4e-3 + 10e-6 + blocks * 16 * 147_456 / (0.7 * 200e9)
    np.testing.assert_allclose(alone_s(CLUSTER, [128, 129]), expected, rtol=1e-12)
    slow = with_handover(CLUSTER, {"per_descriptor_s": 4e-6})
    np.testing.assert_allclose(alone_s(slow, [128, 129]), expected + blocks * 72 * 4e-6, rtol=1e-12)


@pytest.mark.parametrize("truth", [{"setup_s": 1e-3, "link_efficiency": 0.8}, {"setup_s": 0.2e-3, "link_efficiency": 0.5}])
def test_the_truth_is_found_again(truth):
    found = fit_transfers(CLUSTER, TOKENS, alone_s(with_handover(CLUSTER, truth), TOKENS))
    assert found == {name: pytest.approx(value, rel=1e-2) for name, value in truth.items()}


def test_short_transfers_leave_the_bandwidth_to_its_prior():
    truth = with_handover(CLUSTER, {"setup_s": 5e-3, "link_efficiency": 0.4})
    found = fit_transfers(CLUSTER, [16, 32], alone_s(truth, [16, 32]))
    assert found["link_efficiency"] == pytest.approx(0.70, rel=0.02) and found["setup_s"] == pytest.approx(5e-3, rel=0.02)


def test_priors_are_about_fields_of_the_hand_over_and_the_defaults_are_likely():
    defaults = Disaggregation()
    for name in FITTED:
        parameter = HANDOVER[name]
        assert abs(parameter.transform(getattr(defaults, name)) - parameter.transform(parameter.prior)) < parameter.prior_sd
    assert all(hasattr(defaults, name) for name in HANDOVER)


def test_wrong_measurements_are_refused():
    for seconds in ([], [1.0], [1.0, 0.0]):
        with pytest.raises(SimjaxError, match=r"^a fit of transfers needs prompts and as many times, all of them positive$"):
            fit_transfers(CLUSTER, [16, 32], seconds)
    with pytest.raises(SimjaxError, match=r"^a transfer needs a prefill and a decode instance$"):
        alone_s(configured_cluster(simjax.compose([])), [16])


def test_measured_transfers_are_met_by_the_defaults_and_better_by_the_fit():
    with data_path("power/kv_tiers/pd_transfer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tokens, measured_s = ([scale * float(row[name]) for row in rows] for name, scale in (("prompt_tokens", 1), ("transfer_ms", 1e-3)))
    error = lambda cluster: float(np.mean(np.abs(alone_s(cluster, tokens) / measured_s - 1.0)))
    assert error(CLUSTER) < 0.05
    assert error(with_handover(CLUSTER, fit_transfers(CLUSTER, tokens, measured_s))) < 0.035
