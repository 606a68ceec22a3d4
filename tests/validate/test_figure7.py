"""Figure 7 of LLMServingSim 2.0, a measured run with prefix caching, as experiments/validation scores it; skips without the recording."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.data import data_path

FOLDER = Path(__file__).parents[2] / "experiments" / "validation"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    data_path("ispass26/figure_7/raw_SD+PC/kv_metrics_sd.csv")
    data_path("ispass26/datasets/sharegpt_pulse_req50_n6_delay15_pc.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        return importlib.import_module("figure7")


@pytest.fixture(scope="module", params=[False, True], ids=["trace", "as_sent"])
def scored(script: ModuleType, request: pytest.FixtureRequest) -> tuple[bool, Any, Any]:
    """Whether pulses are those that were sent, the log, the simulation."""
    return request.param, script.read_log(), script.simulated(sent=request.param)


def test_counters_end_where_the_server_s_do(scored: tuple[bool, Any, Any]):
    _, log, run = scored
    _, queried, hit = run.admitted
    assert (queried[-1], hit[-1]) == (log.queried[-1], log.hit[-1]) == (82645, 21264)
    assert run.blocks[-1] == round(log.blocks[-1])  # two requests have the same first block, and both copies are kept


def test_hit_rate_and_occupancy_follow_the_log(script: ModuleType, scored: tuple[bool, Any, Any]):
    sent, log, run = scored
    errors = script.errors(log, run, run.offset_s(log))
    assert errors["hit rate, MAE, points"] <= (0.05 if sent else 0.2), errors
    assert errors["KV, WAPE, %"] <= (1.0 if sent else 2.0), errors


def test_counters_are_exact_in_every_pause(script: ModuleType, scored: tuple[bool, Any, Any]):
    """With the pulses that were sent; in the trace the first request of a pulse comes one pause too late."""
    sent, log, run = scored
    shown_s, queried, hit = run.admitted
    idle = np.flatnonzero(np.diff(shown_s) > 5.0) + 1  # requests before each pause
    assert idle.tolist() == [at + sent for at in range(script.PULSE, 300, script.PULSE)]
    seen = set(zip(log.queried.tolist(), log.hit.tolist(), strict=True))
    assert [(queried[at], hit[at]) in seen for at in idle] == [sent] * len(idle)
