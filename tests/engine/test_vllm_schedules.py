"""Recorded schedules of vLLM's own scheduler, replayed: the reference takes the very same steps, and the engine the same time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.engine.prioritized import RULES
from tests.engine.scenario import Limits, Scenario, Timing
from tests.engine.test_against_reference import RTOL, assert_same
from tests.engine.vllm_schedules import Recorded, recorded

RECORDED = recorded()
KINDS = sorted({(one.kind, one.vllm) for one in RECORDED})
CACHED = {"cache", "cache_tight", "cache_equal", "cache_outputs", "cache_threshold", "long_cache", "sessions", "saturated", "replayed"}
TOGETHER = {"cache_priority", "cache_pipeline", "cache_speculation"}
"""Kinds with prefix caches and something else."""


def rows(kind: str, vllm: str) -> list[Recorded]:
    return [one for one in RECORDED if (one.kind, one.vllm) == (kind, vllm)]


def finishes(scenario: Scenario, **changes) -> list[float | None]:
    """Of the requests, with changes of the limits."""
    limits: tuple[Limits, ...] = tuple(dataclasses.replace(x, **changes) for x in scenario.limits)
    return [x.finish_s for x in dataclasses.replace(scenario, limits=limits).run_reference().requests]


def test_every_kind_was_recorded():
    assert {kind for kind, _ in KINDS} == {"plain", "priority", "speculation", "pipeline"} | CACHED | TOGETHER
    assert {vllm for kind, vllm in KINDS if kind == "priority"} == {"vllm-0.23", "vllm-0.28", "vllm-0.33"}
    assert {(kind, vllm) for kind in CACHED for vllm in ("vllm-0.19", "vllm-0.33")} <= set(KINDS)
    assert all(sum(one.preemptions) > 0 for one in RECORDED if one.kind in ("plain", "speculation", "pipeline"))
    assert all(sum(one.cached_tokens) > 0 and one.evictions > 0 for one in RECORDED if one.kind in CACHED | TOGETHER)
    assert all({one.scenario.limits[0].async_scheduling for one in rows(*kind)} == {False, True} for kind in KINDS if kind[0] in CACHED)


def test_what_releases_differ_in_is_among_them():
    """With the rules of another release some recorded schedule would be another one."""
    for vllm, others in (("vllm-0.33", "0.28"), ("vllm-0.28", "0.33"), ("vllm-0.28", "0.19"), ("vllm-0.23", "0.28")):
        mine = [one for one in RECORDED if one.vllm == vllm and one.kind == "priority"]
        changed = [dataclasses.replace(one.scenario, rules=(RULES[others],)).run_reference() for one in mine]
        assert any([x.finish_s for x in theirs.requests] != one.finish_s for one, theirs in zip(mine, changed, strict=True)), (vllm, others)
    for vllm, first in (("vllm-0.19", False), ("vllm-0.33", True)):
        mine = [one for one in RECORDED if one.vllm == vllm and one.kind in CACHED]
        assert all(one.scenario.limits[0].reuse_nameless_first is first for one in mine)
        assert sum(finishes(one.scenario) != finishes(one.scenario, reuse_nameless_first=not first) for one in mine) > 5


@pytest.mark.parametrize("kind, vllm", KINDS)
def test_the_reference_takes_the_same_steps(kind: str, vllm: str):
    for one in rows(kind, vllm):
        theirs = one.scenario.run_reference()
        assert [dict(zip(step.requests, step.new_tokens, strict=True)) for step in theirs.steps] == one.steps
        np.testing.assert_allclose([x.first_token_s for x in theirs.requests], one.first_token_s, rtol=RTOL)
        np.testing.assert_allclose([x.finish_s for x in theirs.requests], one.finish_s, rtol=RTOL)
        assert [x.preemptions for x in theirs.requests] == one.preemptions
        assert [x.cached_tokens for x in theirs.requests] == one.cached_tokens
        assert theirs.evictions == [one.evictions]
        assert [list(dataclasses.astuple(x)) for x in theirs.lookups] == [one.lookups]


@pytest.mark.parametrize("kind, vllm", KINDS)
def test_the_engine_takes_the_same_time(kind: str, vllm: str):
    for one in rows(kind, vllm):
        assert_same(one.scenario.run(), one.scenario.run_reference())


@pytest.mark.parametrize(
    "continued, tokens, cached, evictions", [(None, 0, 0, 77), (0, 10, 0, 89), (1, 10, 1, 88), (2, 30, 30, 79), (3, 10, 8, 81)]
)
def test_each_copy_that_loses_its_name_is_evicted(continued: int | None, tokens: int, cached: int, evictions: int):
    """Three requests that begin with the same block at the same time, and a later one that goes on with one of them; counted by vLLM."""

    def content(number: int, total: int, first: int) -> np.ndarray:
        return np.r_[[first], np.arange(1, total) + 1000 * (number + 1)]

    contents = [content(number, 1 + output, first) for number, (output, first) in enumerate([(31, 9), (12, 2), (70, 2), (31, 2)])]
    contents += [] if continued is None else [np.r_[contents[continued][:tokens], [77, 78, 79]]]
    prompt = np.array([1, 1, 1, 1, tokens + 1])[: len(contents)]
    limits = Limits(
        num_blocks=77, block_size=1, max_num_seqs=12, max_num_batched_tokens=5, async_scheduling=False, enable_prefix_caching=True
    )
    scenario = Scenario(
        (limits,),
        np.array([0.0, 0.001, 0.001, 0.001, 50.0])[: len(contents)],
        prompt,
        np.array([len(x) for x in contents]) - prompt,
        timing=Timing.drawn(3),
        contents=tuple(contents),
    )
    theirs = scenario.run_reference()
    assert theirs.evictions == [evictions] and theirs.requests[-1].cached_tokens == cached
