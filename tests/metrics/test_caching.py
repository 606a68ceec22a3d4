import dataclasses

import numpy as np
import pytest

from simjax.metrics.caching import caches, hits, kept_blocks, peak_cached_fraction
from simjax.metrics.summary import summarize
from simjax.metrics.timeseries import timeline
from tests.engine.scenario import Limits, Scenario
from tests.metrics.factory import leap_log, make_result, request_log, tiny, without_leaps
from tests.reference.pool import BlockPool


def cached_run():
    """10 blocks. From 1 to 2 s 2 are held; then none for a second; from 3 to 5 s 4 to 6 beside 2 that are kept; then none until 8 s."""
    leaps = leap_log(
        dict(start_s=1.0, first_step_s=1.0, running=1, kv_blocks=2),
        dict(start_s=3.0, first_step_s=0.0, next_step_s=2.0, steps=2, running=1, kv_blocks=4, kv_blocks_last=6, cached_blocks=2),
    )
    requests = request_log(
        dict(prompt_tokens=10, cached_tokens=0, arrival_s=0.0, scheduled_s=1.0, first_token_s=2.0, finish_s=2.0),
        dict(prompt_tokens=30, cached_tokens=6, arrival_s=3.0, scheduled_s=3.0, first_token_s=5.0, finish_s=5.0),
        dict(prompt_tokens=10, cached_tokens=9, arrival_s=3.0, scheduled_s=3.5, first_token_s=5.0, finish_s=8.0),
        dict(prompt_tokens=99, cached_tokens=0, arrival_s=3.0),
    )
    return make_result(requests, leaps)


def test_blocks_stay_in_the_cache_when_nobody_holds_them():
    frame = timeline(cached_run(), 1.0)
    np.testing.assert_allclose(frame.kv_used_fraction, [0.0, 0.2, 0.0, 0.45, 0.55, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(frame.kv_cached_fraction.astype(float), [0.0, 0.2, 0.2, 0.65, 0.75, 0.8, 0.8, 0.8])
    summary = summarize(cached_run())
    assert summary["kv"]["peak_used_fraction"] == 0.6 and summary["kv"]["peak_cached_fraction"] == 0.8


def test_a_leap_evicts_what_it_needs():
    leaps = leap_log(dict(steps=3, next_step_s=1.0, kv_blocks=4, kv_blocks_last=7, cached_blocks=5, running=1))
    _, first, last = kept_blocks(leaps, 0, 10)
    assert first.tolist() == [9.0, 10.0] and last.tolist() == [10.0, 10.0]


def test_hits_are_of_the_requests_scheduled_in_the_bin():
    frame = timeline(cached_run(), 1.0)
    assert frame.prefix_hit_fraction.isna().tolist() == [False, True, False, False, *[True] * 4]
    assert frame.prefix_hit_fraction[[0, 2, 3]].tolist() == [0.0, 0.2, 0.9]  # a bin holds its right edge
    found, asked = hits(cached_run().requests, np.array([0.0, 10.0]))
    assert found.tolist() == [15] and asked.tolist() == [50]
    assert summarize(cached_run())["kv"]["prefix_hit_fraction"] == 15 / 50
    found, _ = hits(cached_run().requests, np.array([0.0, 10.0]), instance=1)
    assert found.tolist() == [0]


def test_an_instance_that_caches_nothing_keeps_nothing():
    leaps = cached_run().leaps
    both = {f.name: np.tile(getattr(leaps, f.name), 2) for f in dataclasses.fields(leaps)}
    both |= {"instance": np.array([0, 0, 1, 1]), "cached_blocks": np.array([0, 2, 0, 0])}
    result = make_result(cached_run().requests, dataclasses.replace(leaps, **both), num_blocks=(10, 10))
    frame = timeline(result, 1.0)
    other = frame[frame.instance == 1]
    np.testing.assert_array_equal(other.kv_cached_fraction.to_numpy(float), other.kv_used_fraction)


def test_runs_without_a_cache_say_nothing_of_it():
    for result in (tiny(), without_leaps(cached_run())):
        assert not caches(result) and peak_cached_fraction(result) is None
    assert timeline(tiny(), 1.0).kv_cached_fraction.isna().all()


@pytest.mark.parametrize("num_blocks", [300, 40], ids=["roomy", "with evictions"])
def test_what_an_engine_keeps(num_blocks, monkeypatch):
    rng = np.random.default_rng(1)
    prompt, output = rng.integers(1, 40, 24), rng.integers(1, 30, 24)
    heads = [rng.integers(0, 99, 70) for _ in range(3)]
    own = [rng.integers(0, 9999, tokens) for tokens in prompt + output]
    contents = tuple(np.concatenate([heads[rng.integers(3)][: p // 2], rest[p // 2 :]]) for p, rest in zip(prompt, own, strict=True))
    case = Scenario(
        (Limits(num_blocks=num_blocks, enable_prefix_caching=True),), np.sort(rng.uniform(0.0, 3.0, 24)), prompt, output, contents=contents
    )
    result = case.run()
    assert caches(result) and (result.instances.evicted_blocks[0] > 0) == (num_blocks == 40)
    _, first, last = kept_blocks(result.leaps, 0, num_blocks)
    assert (np.diff(np.stack([first, last], axis=1).ravel()) >= 0).all(), "blocks that were in use do not become fresh again"
    assert (first[::2] >= result.leaps.kv_blocks).all() and last.max() <= num_blocks
    used, pop = set(), BlockPool._pop
    monkeypatch.setattr(BlockPool, "_pop", lambda pool, request: (used.add(next(iter(pool.free))), pop(pool, request)))
    case.run_reference()
    assert peak_cached_fraction(result) == len(used) / num_blocks, "the pool of real blocks has had others in use"
