"""The hand-over of a simulated cluster is found again from what its clients, and its instances, could have recorded."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import simjax
from simjax.calibrate.handover.job import CalibratedHandover
from simjax.calibrate.handover.observed import Part
from simjax.calibrate.handover.requests import read_requests
from simjax.calibrate.handover.transfers import alone_s
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.latency_source import LatencySource
from simjax.errors import SimjaxError
from tests.calibrate.handed_over import CLUSTER, STAMPS, TRUTH, fitted, measured, rule_words

OTHERS = rule_words({name: value for name, value in TRUTH.items() if name != "handover_s"})
LENGTHS = ["arrival_s", "prompt_tokens", "output_tokens"]


def clients_saw() -> pd.DataFrame:
    table = measured()
    return table[LENGTHS].assign(ttft_ms=1e3 * (table["first_token_s"] - table["arrival_s"]))


def holds(done: CalibratedHandover, truth: Mapping[str, float]) -> None:
    """The intervals hold the truth, and the data have narrowed them."""
    assert {row["name"] for row in done.rows} == truth.keys()
    for row in done.rows:
        assert row["low"] < truth[row["name"]] < row["high"], row
        assert row["constrained"] > 0.8, row


def test_stamps_of_the_instances_tell_the_hand_over_and_the_transfers(tmp_path: Path) -> None:
    done = fitted(measured(), tmp_path / "m.csv")
    holds(done, TRUTH)
    assert [(score["name"], score["count"]) for score in done.scores] == [("hand-over", 48), ("transfer", 48)]
    for score in done.scores:
        assert abs(score["after"]["mean_error_pct"]) < 3.0 < abs(score["before"]["mean_error_pct"])
        assert score["held_out"]["mape_pct"] < score["before"]["mape_pct"]
    assert done.loss[1] < 0.1 * done.loss[0] and not done.problems


@pytest.mark.slow
def test_first_tokens_alone_tell_the_hand_over_if_the_transfers_are_known(tmp_path: Path) -> None:
    """With 5 % of noise on every one of them."""
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(len(clients_saw())))
    table = clients_saw()
    done = fitted(table.assign(ttft_ms=table["ttft_ms"] * noise), tmp_path / "m.csv", *OTHERS)
    holds(done, {"handover_s": TRUTH["handover_s"]})
    assert done.scores[0]["name"] == "TTFT" and abs(done.scores[0]["after"]["mean_error_pct"]) < 2.0
    assert "no transfer was measured" in (done.not_fitted["setup_s"], done.not_fitted["link_efficiency"])


@pytest.mark.slow
def test_the_end_of_the_prefill_leaves_its_time_out(tmp_path: Path) -> None:
    """A prefill that is slower than simulated goes into the hand-over where first tokens alone are known, not where its end is."""
    late = measured().copy()
    late[["first_token_s", "prefill_finish_s"]] += 0.05
    alone = fitted(late[[*LENGTHS, "first_token_s"]], tmp_path / "m.csv", *OTHERS)
    with_end = fitted(late[[*LENGTHS, "first_token_s", "prefill_finish_s"]], tmp_path / "m.csv", *OTHERS)
    assert with_end.scores[0]["name"] == "prefill to first token"
    holds(with_end, {"handover_s": TRUTH["handover_s"]})
    assert alone.rows[0]["low"] > TRUTH["handover_s"]


@pytest.mark.slow
def test_transfers_and_first_tokens_together(tmp_path: Path) -> None:
    """Each file tells what the other one cannot."""
    tokens = [128, 512, 2048, 8192]
    cluster = configured_cluster(simjax.compose([*CLUSTER, *rule_words(TRUTH)]))
    transfers = tmp_path / "t.csv"
    pd.DataFrame({"prompt_tokens": tokens, "transfer_s": alone_s(cluster, tokens)}).to_csv(transfers, index=False)
    holds(fitted(clients_saw(), tmp_path / "m.csv", f"transfers={transfers}"), TRUTH)


@pytest.mark.slow
def test_what_the_sleep_of_an_idle_engine_does_is_lost_in_the_steps(tmp_path: Path) -> None:
    """Freed, it stays at its prior, and the others are found all the same."""
    done = fitted(measured(), tmp_path / "m.csv", "parameters.empty_pass_s.free=true")
    rows = {row["name"]: row for row in done.rows}
    assert rows["empty_pass_s"]["constrained"] < 0.5
    assert all(rows[name]["low"] < value < rows[name]["high"] for name, value in TRUTH.items())


def test_the_records_kinds_of_times(tmp_path: Path) -> None:
    """The nearest to the hand-over that the record has, and transfers by their stamps or their lengths."""
    table = measured()
    moved = table["transfer_end_s"] - table["transfer_start_s"]
    early = table.assign(transfer_start_s=table["prefill_finish_s"] - 1e-3)  # as connectors that send layer by layer
    cluster = configured_cluster(simjax.compose([*CLUSTER]))

    def kinds(table: pd.DataFrame) -> list[str]:
        path = tmp_path / "m.csv"
        table.to_csv(path, index=False)
        return [part.name for part in read_requests(path, cluster, LatencySource()).parts]

    assert kinds(table) == ["hand-over", "transfer"]
    assert kinds(early) == ["prefill to first token", "transfer"]
    assert kinds(table[[*LENGTHS, *STAMPS[:2]]]) == ["prefill to first token"]
    assert kinds(table[[*LENGTHS, "first_token_s"]]) == ["TTFT"]
    assert kinds(clients_saw().assign(transfer_ms=1e3 * moved)) == ["TTFT", "transfer"]
    some = table.copy()
    some.loc[3, STAMPS[1:]] = np.nan  # a request that its decode instance prefilled
    path = tmp_path / "m.csv"
    some.to_csv(path, index=False)
    found = read_requests(path, cluster, LatencySource())
    assert [len(part.measured_s) for part in found.parts] == [47, 47] and 3 not in found.rows[0]


def test_simulated_times_are_those_of_single_runs(tmp_path: Path) -> None:
    table, path = measured(), tmp_path / "m.csv"
    table.to_csv(path, index=False)
    cluster = configured_cluster(simjax.compose([*CLUSTER]))
    found = read_requests(path, cluster, LatencySource())
    truth = replace(cluster.disaggregation, **TRUTH)
    for part, seconds in zip(found.parts, found.simulated_s([truth] * 32), strict=True):
        np.testing.assert_allclose(seconds[0], part.measured_s, rtol=1e-9)
        assert np.abs(part.residuals(seconds)).max() < 1e-6


def test_requests_that_never_finish_are_far_off_and_count_in_no_mean() -> None:
    part = Part("TTFT", np.array([1.0, 1.0]), 0.1, 100.0)
    off = part.residuals(np.array([np.inf, 1.0]))
    assert off[0] > 10.0 and off[1] == 0.0
    assert part.errors(np.array([np.inf, 1.1]))["mape_pct"] == pytest.approx(10.0)
    assert part.errors(np.array([np.inf, np.inf]))["mape_pct"] is None
    assert Part("TTFT", np.ones(400), 0.1, 100.0).observations == 100.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arrival_s,prompt_tokens,output_tokens,ttft_s\n0,10,5,0\n", r"m\.csv:2: ttft_s=0: the first token comes after the arrival"),
        ("arrival_s,prompt_tokens,output_tokens,first_token_s\n1,10,5,0.5\n", r"m\.csv:2: first_token_s=0\.5: the first token comes after"),
        ("arrival_s,prompt_tokens,output_tokens\n0,10,5\n", r"m\.csv: no column gives the first token: ttft_s or ttft_ms or first_token_s"),
        ("arrival_s,prompt_tokens,output_tokens,ttft_s\n0,0,5,1\n", r"m\.csv:2: prompt_tokens=0: it must be at least 1"),
        ("arrival_s,prompt_tokens,ttft_s\n0,10,1\n", r"m\.csv: the column output_tokens is missing"),
        ("arrival_s,prompt_tokens,output_tokens,ttft_s,transfer_s\n0,10,5,1,0\n", r"m\.csv:2: its transfer lasts 0 s: it must be positive"),
        ("arrival_s,prompt_tokens,output_tokens,ttft_s\n0,99999999,5,1\n", r"request 0"),
    ],
)
def test_wrong_tables(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    cluster = configured_cluster(simjax.compose([*CLUSTER]))
    with pytest.raises(SimjaxError, match=said):
        read_requests(path, cluster, LatencySource()).simulated_s([Disaggregation()])


def test_a_cluster_without_hand_overs_and_a_file_that_is_not_there() -> None:
    with pytest.raises(SimjaxError, match=r"^a hand-over needs a prefill and a decode instance$"):
        read_requests(Path("m.csv"), configured_cluster(simjax.compose([])), LatencySource())
    with pytest.raises(SimjaxError, match=r"^m\.json: no such file of measured requests$"):
        read_requests(Path("m.json"), configured_cluster(simjax.compose([*CLUSTER])), LatencySource())
