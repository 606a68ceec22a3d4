"""Recorded schedules of vLLM's own scheduler, replayed: the reference takes the very same steps, and the engine the same time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.engine.prioritized import RULES, Prioritized
from tests.engine.test_against_reference import RTOL, assert_same
from tests.engine.vllm_schedules import Recorded, recorded

RECORDED = recorded()
KINDS = sorted({(one.kind, one.vllm) for one in RECORDED})


def test_every_kind_was_recorded():
    assert {kind for kind, _ in KINDS} == {"plain", "priority", "speculation", "pipeline"}
    assert {vllm for kind, vllm in KINDS if kind == "priority"} == {"vllm-0.23", "vllm-0.28", "vllm-0.33"}
    assert all(sum(one.preemptions) > 0 for one in RECORDED if one.kind != "priority")


def test_what_releases_differ_in_is_among_them():
    """With the rules of another release some recorded schedule would be another one."""
    for vllm, others in (("vllm-0.33", "0.28"), ("vllm-0.28", "0.33"), ("vllm-0.28", "0.19"), ("vllm-0.23", "0.28")):
        mine = [one for one in RECORDED if one.vllm == vllm and isinstance(one.scenario, Prioritized)]
        changed = [dataclasses.replace(one.scenario, rules=(RULES[others],)).run_reference() for one in mine]
        assert any([x.finish_s for x in theirs.requests] != one.finish_s for one, theirs in zip(mine, changed, strict=True)), (vllm, others)


@pytest.mark.parametrize("kind, vllm", KINDS)
def test_the_schedules_are_those_of_vllm(kind: str, vllm: str):
    mine: list[Recorded] = [one for one in RECORDED if (one.kind, one.vllm) == (kind, vllm)]
    for one in mine:
        theirs = one.scenario.run_reference()
        assert [dict(zip(step.requests, step.new_tokens, strict=True)) for step in theirs.steps] == one.steps
        np.testing.assert_allclose([x.first_token_s for x in theirs.requests], one.first_token_s, rtol=RTOL)
        np.testing.assert_allclose([x.finish_s for x in theirs.requests], one.finish_s, rtol=RTOL)
        assert [x.preemptions for x in theirs.requests] == one.preemptions
        assert_same(one.scenario.run(), theirs)
