"""Sizes of the shipped models against what their cards and reports say, as quoted in their files."""

import pytest

from simjax.model.published import COUNTED, Published, published

ROWS = published()
COUNTS = [row for row in ROWS if row.of != "kv_bytes_per_token"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name} {row.of} {row.count:g}")
def test_a_published_number_is_met(row):
    assert row.met, f"{row.computed:,} is {row.error_percent:+.2f} % off {row.count:,}"
    assert row.source


def test_enough_numbers_are_met_to_half_a_percent():
    near = [row for row in COUNTS if abs(row.error_percent) <= 0.5]
    assert len(near) >= 58 and len({row.name for row in near}) >= 35
    assert sum(row.of.startswith("active") for row in COUNTS) >= 20
    assert len(ROWS) - len(COUNTS) >= 19 and {row.of for row in ROWS} == set(COUNTED)


def test_what_counts_as_met():
    assert Published("llama-3.1-8b", "parameters", 8_030_261_248).met
    assert not Published("llama-3.1-8b", "parameters", 8_030_261_249).met
    assert Published("llama-3.1-8b", "parameters", 8.0e9, rounded_to=1e8).met
    assert not Published("llama-3.1-8b", "parameters", 8.1e9, rounded_to=1e8).met
    assert Published("llama-3.1-8b", "parameters", 8.1e9, rounded_to=1e8, within_percent=1).met
    assert not Published("llama-3.1-8b", "parameters", 8.2e9, rounded_to=1e8, within_percent=1).met
