"""The fit of a hand-over to transfers: the truth is found again, priors hold where data say nothing, and the measured ones are met."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import simjax
from simjax.calibrate.handover.job import CalibratedHandover, calibrate_handover
from simjax.calibrate.handover.priors import HANDOVER, WHY_NOT
from simjax.calibrate.handover.transfers import alone_s, read_transfers
from simjax.calibrate.posterior import unconstrained
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.spec import ClusterSpec
from simjax.config.compose import compose_config, typed
from simjax.errors import SimjaxError
from tests.data import data_path

WORDS = ["model=qwen3-8b", "cluster=disaggregated", "network.inter_bandwidth_bytes_per_s=25e9"]
WORDS += [f"cluster.{pool}={{instances: 1, tensor_parallel_size: 8}}" for pool in ("prefill", "decode")]
CLUSTER = configured_cluster(simjax.compose(WORDS))
TOKENS = [128, 512, 2048, 8192, 32768]
BLOCK_BYTES = 16 * 147_456


def with_rule(**values: float) -> ClusterSpec:
    return replace(CLUSTER, disaggregation=replace(CLUSTER.disaggregation, **values))


def fit(path: Path, *words: str, **columns: object) -> CalibratedHandover:
    pd.DataFrame(columns).to_csv(path, index=False)
    return calibrate_handover(typed(compose_config("handover", [*WORDS, f"transfers={path}", *words])))


def holds(done: CalibratedHandover, truth: Mapping[str, float], rel: float) -> None:
    """Every fitted value is near the truth, which its interval holds."""
    assert {row["name"] for row in done.rows} == truth.keys()
    for row in done.rows:
        assert row["value"] == pytest.approx(truth[row["name"]], rel=rel)
        assert row["low"] < truth[row["name"]] < row["high"]


def test_a_lone_transfer_takes_setup_latency_and_bytes() -> None:
    blocks = np.array([8, 9])
    expected = 0.4e-3 + 10e-6 + blocks * BLOCK_BYTES / (0.7 * 200e9)
    np.testing.assert_allclose(alone_s(CLUSTER, [128, 129]), expected, rtol=1e-12)
    np.testing.assert_allclose(alone_s(with_rule(per_descriptor_s=4e-6), [128, 129]), expected + blocks * 72 * 4e-6, rtol=1e-12)


@pytest.mark.parametrize("truth", [{"setup_s": 1e-3, "link_efficiency": 0.8}, {"setup_s": 0.2e-3, "link_efficiency": 0.5}])
def test_the_truth_is_found_again(truth: dict[str, float], tmp_path: Path) -> None:
    done = fit(tmp_path / "t.csv", prompt_tokens=TOKENS, transfer_s=alone_s(with_rule(**truth), TOKENS))
    holds(done, truth, rel=1e-2)
    assert {name: getattr(done.rule, name) for name in truth} == {row["name"]: pytest.approx(row["value"], rel=1e-4) for row in done.rows}
    (errors,) = done.scores
    assert errors["after"]["mape_pct"] < 0.5 < errors["before"]["mape_pct"]
    assert errors["held_out"]["mape_pct"] < errors["before"]["mape_pct"]
    assert not done.problems and done.posterior.misfit == 1.0


def test_sizes_and_times_in_other_units_are_the_same(tmp_path: Path) -> None:
    blocks, seconds = np.array(TOKENS) / 16, alone_s(with_rule(setup_s=1e-3), TOKENS)
    found = [
        fit(tmp_path / "t.csv", **columns).rule
        for columns in (
            {"prompt_tokens": TOKENS, "transfer_ms": 1e3 * seconds},
            {"blocks": blocks, "transfer_us": 1e6 * seconds},
            {"bytes": blocks * BLOCK_BYTES, "transfer_s": seconds, "note": "x"},
        )
    ]
    for name in ("setup_s", "link_efficiency"):
        np.testing.assert_allclose([getattr(rule, name) for rule in found], getattr(found[0], name), rtol=1e-4)


def test_short_transfers_leave_the_bandwidth_to_its_prior(tmp_path: Path) -> None:
    truth = with_rule(setup_s=5e-3, link_efficiency=0.4)
    done = fit(tmp_path / "t.csv", prompt_tokens=[16, 32], transfer_s=alone_s(truth, [16, 32]))
    rows = {row["name"]: row for row in done.rows}
    assert rows["link_efficiency"]["value"] == pytest.approx(0.70, rel=0.02) and rows["link_efficiency"]["constrained"] < 0.1
    assert rows["setup_s"]["value"] == pytest.approx(5e-3, rel=0.02) and rows["setup_s"]["constrained"] > 0.9
    (open_direction,) = unconstrained(done.space, done.posterior)
    assert list(open_direction["direction"]) == ["link_efficiency"]
    assert "held_out" not in done.scores[0], "two rows have no halves"


def test_pieces_are_told_from_bytes_by_blocks_of_several_sizes(tmp_path: Path) -> None:
    """A larger block has as many pieces as a small one; with one size they grow with the bytes."""
    truth = {"setup_s": 1e-3, "link_efficiency": 0.8, "per_descriptor_s": 4e-7}
    sizes, blocks = np.repeat([16, 64], 5), np.tile([8, 32, 128, 512, 2048], 2)
    table = {"blocks": blocks, "block_size": sizes}
    path = tmp_path / "t.csv"
    pd.DataFrame({**table, "transfer_s": 1.0}).to_csv(path, index=False)
    (seconds,) = read_transfers(path, CLUSTER).simulated_s([with_rule(**truth).disaggregation])[0]
    holds(fit(path, **table, transfer_s=seconds), truth, rel=0.03)

    one_size = fit(path, **{name: x[:5] for name, x in table.items()}, transfer_s=seconds[:5])
    assert one_size.space.names == ("setup_s", "link_efficiency")
    assert one_size.not_fitted == {name: WHY_NOT[name] for name in ("handover_s", "per_descriptor_s", "empty_pass_s")}
    freed = fit(path, "parameters.per_descriptor_s.free=true", **{name: x[:5] for name, x in table.items()}, transfer_s=seconds[:5])
    assert freed.posterior.correlation[1, 2] > 0.9, "a wider link and slower pieces"


def test_choices_of_the_user(tmp_path: Path) -> None:
    seconds = alone_s(with_rule(setup_s=1e-3, link_efficiency=0.8), TOKENS)
    words = ("parameters.link_efficiency={free: false, prior: 0.8}", "parameters.setup_s={prior: 0.002, sd: 0.001}")
    done = fit(tmp_path / "t.csv", *words, prompt_tokens=TOKENS, transfer_s=seconds)
    assert done.space.names == ("setup_s",) and done.rule.link_efficiency == 0.8
    assert done.rule.setup_s == pytest.approx(2e-3, rel=0.01), "a prior that is nearly certain"


def test_priors_are_about_fields_of_the_hand_over_and_the_defaults_are_likely() -> None:
    defaults = Disaggregation()
    assert all(hasattr(defaults, name) for name in HANDOVER) and HANDOVER.keys() == WHY_NOT.keys()
    for name in ("setup_s", "link_efficiency", "empty_pass_s"):
        parameter = HANDOVER[name]
        assert abs(parameter.transform(getattr(defaults, name)) - parameter.transform(parameter.prior)) < parameter.prior_sd


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt_tokens,transfer_ms\n100,3\n200,-1\n", r"t\.csv:3: transfer_ms=-1: it must be positive"),
        ("prompt_tokens,transfer_ms\n100,soon\n", r"t\.csv:2: transfer_ms=soon is not a number"),
        ("prompt_tokens,transfer_ms\n,3\n", r"t\.csv:2: prompt_tokens is empty"),
        ("tokens,transfer_ms\n100,3\n", r"t\.csv: no column gives the size of a transfer: bytes or blocks or prompt_tokens; it has tokens"),
        (
            "bytes,ms\n100,3\n",
            r"t\.csv: no column gives the time of a transfer: transfer_s or transfer_ms or transfer_us; it has bytes, ms",
        ),
        ("bytes,transfer_s\n", r"t\.csv: the table is empty"),
    ],
)
def test_wrong_tables(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(SimjaxError, match=said):
        read_transfers(path, CLUSTER)


def test_a_cluster_without_transfers() -> None:
    with pytest.raises(SimjaxError, match=r"^a transfer needs a prefill and a decode instance$"):
        alone_s(configured_cluster(simjax.compose([])), [16])


def test_measured_transfers_are_met_by_the_defaults_and_better_by_the_fit() -> None:
    words = [*WORDS, "disaggregation.connector=mooncake", f"transfers={data_path('power/kv_tiers/pd_transfer.csv')}"]
    done = calibrate_handover(typed(compose_config("handover", words)))
    (errors,) = done.scores
    assert errors["count"] == 9 and not done.problems
    assert errors["before"]["mape_pct"] < 5.0 and errors["after"]["mape_pct"] < 3.5 and errors["held_out"]["mape_pct"] < 5.0
    assert done.posterior.misfit > 2.0, "the rows scatter by more than single measurements do"
