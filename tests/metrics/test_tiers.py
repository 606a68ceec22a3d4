"""Metrics of runs with a KV tier, by hand; their columns of requests.csv, their row of the table, and their figure."""

import io

import numpy as np
from matplotlib.image import imread
from rich.console import Console

from simjax.metrics.caching import sources
from simjax.metrics.files import requests_frame
from simjax.metrics.rows import result_row
from simjax.metrics.summary import summarize
from simjax.metrics.table import summary_table
from simjax.plot.run import plot_run
from tests.metrics.factory import tiered, tiny

BY_HAND = {
    "tier_capacity_bytes": 2500.0,
    "tier_hit_fraction": 3 / 16,
    "kv_hit_fraction": 5 / 16,
    "tier_loaded_tokens": 4,
    "tier_loaded_bytes": 100.0,
    "tier_stored_tokens": 12,
    "tier_stored_bytes": 300.0,
    "tier_evicted_blocks": 1,
    "tier_failed_stores": 1,
    "tier_flush_s": 0.125,
    "tier_load_mean_s": 0.25,
    "tier_load_p99_s": 0.25,
    "tier_wait_mean_s": 0.5,
    "tier_wait_p99_s": 0.5,
}


def test_numbers_by_hand() -> None:
    row = result_row(tiered(), None, 1)
    assert {name: row[name] for name in BY_HAND} == BY_HAND
    assert summarize(tiered())["kv_tier"] == {name.removeprefix("tier_"): value for name, value in BY_HAND.items()}


def test_runs_without_a_tier_have_none_of_them() -> None:
    row, summary = result_row(tiny(), None, 1), summarize(tiny())
    assert all(row[name] is None for name in BY_HAND) and "kv_tier" not in summary


def test_columns_of_requests() -> None:
    names = {"tier_hit_tokens", "tier_load_start_s", "tier_load_end_s"}
    frame = requests_frame(tiered().requests, tiers=True)
    assert frame["tier_hit_tokens"].tolist() == [0, 3, 0] and frame["tier_load_end_s"].isna().tolist() == [True, False, True]
    assert not names & set(requests_frame(tiered().requests))


def test_prompt_tokens_by_source() -> None:
    found = sources(tiered().requests, np.array([0.0, 1.0, 5.0, 30.0]))
    assert {name: values.tolist() for name, values in found.items()} == {"computed": [8, 1, 2], "loaded": [0, 3, 0], "cached": [0, 0, 2]}


def test_table() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(summary_table(summarize(tiered())))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "18.8 % of prompt tokens loaded; 100 bytes loaded, 300 bytes stored; 500.0 ms from load to first step (mean)" in text
    assert "1 blocks evicted; steps waited 0.12 s for stores" in text


def test_figure(tmp_path) -> None:
    paths = plot_run(tiered(), tmp_path)
    assert tmp_path / "kv_tier.png" in paths and imread(tmp_path / "kv_tier.png").std() > 0.05
    assert tmp_path / "kv_tier.png" not in plot_run(tiny(), tmp_path)
