"""Prefill and decode ranks of the reference: vLLM's own schedules, the hand-solved examples D0 to D4, and invariants."""

import json
from dataclasses import astuple

import pytest

from tests.data import data_path
from tests.reference.alone import play

CASES = ["D1 {} a=10.3 X=2.5", "D1 {} a=10.0 X=0.2", "D1 {} a=10.9 X=7", "D1 {} a=10.5 X=0.5", "idle {}"]
CASES += ["D0 {} at=4.5", "D0 {} at=5.5", "D0 {} at=6.5", "SEATS {}", "HOLD {}", "HOLDbusy {}"]
NAMES = [case.format(f"async={mode}") for mode in (False, True) for case in CASES]


# ---- one rank, as vLLM's own scheduler


def recorded(name):
    (row,) = (row for row in json.loads(data_path("vllm_oracle/pd.json").read_text()) if row["name"] == name)
    return row


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_and_time_is_that_of_vllm(name):
    row = recorded(name)
    played, rank = play(row["scenario"])
    for got, wanted in zip(played, row["requests"], strict=True):
        assert astuple(got) == pytest.approx(tuple(wanted[name] for name in got.__dataclass_fields__), rel=0, abs=1e-9)
    for got, (formed_s, start_s, end_s, tokens, *rest) in zip(rank.passes, row["steps"], strict=True):
        assert (got.formed_s, got.start_s, got.end_s) == pytest.approx((formed_s, start_s, end_s), rel=0, abs=1e-9)
        assert {str(request): new for request, new in got.tokens.items()} == tokens
        assert [got.preempted, got.arrived, got.read, got.free_blocks] == rest
