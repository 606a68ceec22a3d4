"""Hand-overs from prefill to decode instances: parts of TTFT, use of links, and where they appear."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.deployment import Role
from simjax.engine.host.result import NEVER, HandoverLog, Result, Status
from simjax.metrics.files import requests_frame, write_results
from simjax.metrics.handover.links import LinkUse
from simjax.metrics.handover.parts import PARTS, ttft_parts
from simjax.metrics.handover.report import links_frame
from simjax.metrics.latency import latencies
from simjax.metrics.rows import METRICS, result_row, result_rows
from simjax.metrics.steady.window import Window
from simjax.metrics.summary import summarize
from simjax.metrics.timeseries import timeline
from tests.metrics.factory import handed_over, make_result, pools, request_log, tiny, without_leaps
from tests.metrics.test_table import rendered

WHOLE = Window(0.0, 0.0)


def test_parts_add_up_to_the_time_to_first_token() -> None:
    result = handed_over()
    parts = ttft_parts(result.requests, result.handovers)
    assert {name: part[:2].tolist() for name, part in parts.items()} == {
        "queue": [0.5, 0.5],
        "prefill": [1.0, 1.0],
        "handover": [0.5, 0.5],
        "transfer": [2.0, 3.0],
        "first_decode": [0.5, 0.5],
    }
    assert all(part[2] == NEVER for part in parts.values()), "the third stayed on its instance"
    np.testing.assert_array_equal(sum(parts.values())[:2], latencies(result.requests).ttft_s[:2])


def test_use_of_links_by_hand() -> None:
    use = LinkUse.of([handed_over()])
    assert use.moved_bytes.tolist() == [400.0, 100.0, 300.0, 0.0]
    # A is on the way from 2 to 3.5 s at 100 / 1.5 bytes/s, B from 3 to 5.5 s at 120; the last half second of either is set-up.
    assert use.most_transfers.tolist() == [2, 1, 1, 0]
    link, place, moved = use.in_bins(2.0, 1.0)
    table = np.zeros((4, 4))
    table[link, place] = moved
    np.testing.assert_allclose(table[0], [100 / 1.5, 50 / 1.5 + 120, 120, 60])
    np.testing.assert_allclose(table[1], [100 / 1.5, 50 / 1.5, 0, 0])
    np.testing.assert_allclose(use.peak_bytes_per_s, [50 / 1.5 + 120, 100 / 1.5, 120, 0])


def test_metrics_by_hand() -> None:
    row = result_row(handed_over(), None, 3, window=WHOLE)
    assert (row["gpus_prefill"], row["gpus_decode"], row["kv_transfers"], row["kv_bytes_moved"]) == (1, 2, 2, 400.0)
    assert [row[f"ttft_{part}_mean_s"] for part in PARTS] == [0.5, 1.0, 0.5, 2.5, 0.5]
    assert row["ttft_transfer_p99_s"] == pytest.approx(2.99) and row["ttft_transfer_fraction"] == 0.5
    assert row["link_use_fraction"] == 400 / 100 / 8 and row["link_peak_transfers"] == 2
    assert row["link_peak_use_fraction"] == pytest.approx((50 / 1.5 + 120) / 100)


def test_the_summary_has_a_section() -> None:
    summary = summarize(handed_over(), window=WHOLE)
    section = summary["disaggregation"]
    assert section["gpus"] == {"prefill": 1, "decode": 2} and section["transfers"] == 2 and section["local_requests"] == 1
    assert section["ttft_share"] == {"queue": 0.1, "prefill": 0.2, "handover": 0.1, "transfer": 0.5, "first_decode": 0.1}
    assert [(x["link"], x["bytes"], x["peak_transfers"]) for x in section["links"]] == [
        ("wire 0", 400.0, 2),
        ("wire 1", 100.0, 1),
        ("wire 2", 300.0, 1),
    ]
    about = [(x["role"], x["requests"], x["prompt_tokens"], x["output_tokens"], x["prefix_hit_fraction"]) for x in summary["instances"]]
    assert about == [("prefill", 2, 32, 0, 2 / 32), ("decode", 1, 0, 3, None), ("decode", 2, 4, 4, 0.0)]
    assert "disaggregation" not in summarize(tiny()) and "role" not in summarize(tiny())["instances"][0]


def test_files_of_a_run(tmp_path) -> None:
    write_results(handed_over(), tmp_path, interval_s=1.0)
    assert json.loads((tmp_path / "summary.json").read_text())["disaggregation"]["kv_bytes_moved"] == 400.0
    table = pd.read_csv(tmp_path / "requests.csv")
    assert table["prefill_instance"].tolist() == [0, 0, -1] and table["transfer_bytes"].tolist() == [100, 300, 0]
    assert table["transfer_end_s"].tolist()[:2] == [4.0, 6.0] and table["decode_scheduled_s"].isna().tolist() == [False, False, True]
    assert table["decode_cached_tokens"].tolist() == [0, 4, 0]
    links = pd.read_csv(tmp_path / "links.csv")
    assert links["t_s"].tolist() == list(range(8)) * 3
    assert links.groupby("link")["bytes_per_s"].sum().to_dict() == pytest.approx({"wire 0": 400.0, "wire 1": 100.0, "wire 2": 300.0})
    assert links["use_fraction"].max() == pytest.approx((50 / 1.5 + 120) / 100)
    write_results(tiny(), tmp_path / "plain")
    assert not (tmp_path / "plain" / "links.csv").exists()
    assert "prefill_instance" not in requests_frame(tiny().requests)


def test_bins_are_those_of_the_timeline() -> None:
    frame = links_frame(handed_over(), np.linspace(0.0, 8.0, 17))
    np.testing.assert_allclose(frame.groupby("link")["bytes_per_s"].sum() * 0.5, [400.0, 100.0, 300.0])


def test_requests_wait_on_both_of_their_instances() -> None:
    frame = timeline(handed_over(), 1.0)
    waiting = {i: rows["waiting"].sum() for i, rows in frame.groupby("instance")}
    # on 0 from arrival to the first step; on 1 and 2 from the end of the prefill to the first step there
    assert waiting == pytest.approx({0: 0.5 + 0.5, 1: 4.25 - 1.5, 2: 6.0 - 2.5})
    hits = frame[frame["instance"] == 0]["prefix_hit_fraction"]
    assert hits.dropna().tolist() == [2 / 8, 0.0]


def test_lines_of_the_table() -> None:
    text = rendered(summarize(handed_over(), window=WHOLE), width=160)
    assert "instances   prefill: 1, requests 2 to 2, busy 25.0 % to 25.0 %; decode: 2, requests 1 to 2" in text
    parts = "queue 500.0, prefill 1,000.0, hand-over 500.0, transfer 2,500.0, first decode step 500.0 ms (10 + 20 + 10 + 50 + 10 %)"
    assert f"TTFT parts  {parts}" in text
    line = "transfers   2 of 200 bytes each, 400 bytes in all, 1 requests stayed on one instance; busiest link 50.0 % used, 153.3 %"
    assert line in text
    assert "TTFT parts" not in rendered(summarize(tiny()))


def drawn(rng: np.random.Generator, prompt: np.ndarray, cut: bool) -> Result:
    """A run of these requests on two prefill and two decode instances with times in order; some stay on one instance."""
    count = len(prompt)
    arrival = np.sort(rng.uniform(0.0, 3.0, count)) + 100.0
    times = arrival + np.cumsum(rng.exponential(0.1, (6, count)), axis=0)
    local, late = rng.random(count) < 0.2, (rng.random(count) < 0.2) & cut
    rows = [
        dict(
            instance=2 + int(rng.integers(2)), prompt_tokens=int(prompt[i]), output_tokens=1 + int(rng.integers(9)), arrival_s=arrival[i],
            scheduled_s=times[0, i], first_token_s=NEVER if late[i] else times[4, i], finish_s=NEVER if late[i] else times[5, i],
        )
        for i in range(count)
    ]  # fmt: skip
    never = lambda values, hidden: np.where(hidden, NEVER, values)
    log = HandoverLog(
        prefill_instance=np.where(local, -1, rng.integers(0, 2, count)).astype(np.int32),
        prefill_scheduled_s=never(times[0], local),
        prefill_finish_s=never(times[1], local),
        transfer_start_s=never(times[2], local | late),
        transfer_end_s=never(times[3], local | late),
        transfer_bytes=np.where(local, 0.0, prompt * 1000.0),
        prefill_cached_tokens=np.zeros(count, np.int32),
        decode_scheduled_s=never(times[3], local | late),
        decode_cached_tokens=np.zeros(count, np.int32),
    )
    path = np.full((4, 4, 4), 4)
    path[:2, 2:, 0], path[:2, 2:, 1] = [[0], [1]], [2, 3]
    roles = (Role.PREFILL, Role.PREFILL, Role.DECODE, Role.DECODE)
    made = make_result(request_log(*rows), None, (9,) * 4, Status.TICK_LIMIT if cut else Status.FINISHED)
    return dataclasses.replace(made, handovers=log, pools=pools(roles, tuple(rng.uniform(1e5, 1e7, 4)), path))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.tuples(st.sampled_from([1, 3, 130]), st.booleans(), st.booleans()), max_size=9))
def test_rows_together_are_the_rows_one_by_one_bit_for_bit(seed: int, sizes: list[tuple[int, bool, bool]]) -> None:
    """Runs with and without hand-overs, finished or cut, side by side in one call."""
    rng = np.random.default_rng(seed)
    results = []
    for count, cut, plain in sizes:
        result = drawn(rng, rng.integers(1, 900, count), cut)
        results.append(dataclasses.replace(result, handovers=None, pools=None) if plain else result)
    found = result_rows(results, [None] * len(results), [4] * len(results))
    assert found == [result_row(result, None, 4) for result in results]
    for row, result in zip(found, results, strict=True):
        assert tuple(row) == METRICS
        section = summarize(without_leaps(result)).get("disaggregation")
        assert (section is None) == (result.handovers is None) == (row["kv_transfers"] is None)
        if section is not None:
            assert (section["transfers"], section["kv_bytes_moved"]) == (row["kv_transfers"], row["kv_bytes_moved"])
            assert section["ttft_s"]["transfer"]["mean"] == row["ttft_transfer_mean_s"]
            assert sum(link["bytes"] for link in section["links"]) == pytest.approx(2 * row["kv_bytes_moved"])
            assert max((x["peak_transfers"] for x in section["links"]), default=0) == row["link_peak_transfers"]


def test_blocks_are_kept_while_an_instance_has_no_step() -> None:
    """Of 10 blocks of 4 tokens: on 0 two for A from 1.5 to 4 s and six for B from 2.5 to 6 s, on 1 two for A from 2 s until its step."""
    used = {i: rows["kv_used_fraction"].to_numpy() * 10 for i, rows in timeline(handed_over(), 0.25).groupby("instance")}
    at = lambda instance, second: used[instance][int(second * 4)]
    assert [at(0, t) for t in (0.25, 0.75, 1.75, 2.75, 4.25, 6.25)] == pytest.approx([0, 2, 8, 8, 6, 0])
    assert [at(1, t) for t in (1.75, 2.25, 3.75, 4.0, 4.25, 4.5)] == pytest.approx([0, 2, 2, 0, 3, 0])
    assert [at(2, t) for t in (2.5, 3.25, 5.75, 6.25)] == pytest.approx([1, 6, 6, 7])
