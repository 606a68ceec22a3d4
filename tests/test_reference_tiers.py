"""The reference's KV tiers, by schedules that are solved by hand."""

from math import inf

import pytest

from tests.reference.instance import RefInstance
from tests.reference.pool import chain_names
from tests.reference.simulator import RefRequest, simulate
from tests.reference.tiered import TieredLeg, TieredRank, play
from tests.reference.tiered_schedules import recorded, replayed
from tests.reference.tiers import ChunkPool, RefTier, Use
from tests.reference.toy import instance

UNIT = {"load_bytes_per_s": 1.0, "store_bytes_per_s": 1.0, "block_bytes": 1.0}


def leg(index: int, queue_s: float, prompt: str, output: int, first: int = 0, block_size: int = 16) -> TieredLeg:
    """A request whose prompt is `first` tokens of its own and blocks that are named by letters."""
    ids = (*((-1, index, k) for k in range(first)), *((letter, k) for letter in prompt for k in range(block_size)))
    names = chain_names((*ids, *((index, k) for k in range(output))), block_size)
    return TieredLeg(index, len(ids), output, queue_s, names)


def rank(tier: RefTier, **limits) -> TieredRank:
    defaults = {"block_size": 16, "enable_prefix_caching": True, "num_blocks": 5, "max_num_batched_tokens": 64}
    config: RefInstance = instance(**{**defaults, **limits})
    return TieredRank(0, config, tier, 2.0**-10)


@pytest.mark.parametrize(("load_after_step", "first_token_s"), [(False, 10.0), (True, 11.0)])
def test_e1_stores_and_loads_a_step_late(load_after_step: bool, first_token_s: float) -> None:
    """Unit steps, copies of a block a unit; a decode in the background keeps steps going.

    A runs [0, 1); its blocks are copied over [1, 4), found at 4 and known at 5. At 2 the device forgets what its blocks hold, as by vLLM's
    `reset_prefix_cache`. B, which begins like A, comes at 2.5: at 3 and at 4 it waits for the copy; at 5 it loads 3 blocks over [5, 8) (or,
    after the step, [6, 9)).
    """
    one = rank(RefTier(9, load_after_step=load_after_step, **UNIT), num_blocks=20)
    background, a, b = leg(0, 0.0, "", 15, first=1), leg(1, 0.0, "abc", 1), leg(2, 2.5, "abcd", 1)
    for request in (background, a, b):
        one.enqueue(request)
    while (now := one.next_event_s()) < inf:
        if now == 2.0:
            for block in [block for block, name in enumerate(one.pool.names) if name is not None]:
                one.pool._forget(block)
        one.advance(now)
    assert a.token_times_s == [1.0]
    assert b.token_times_s == [first_token_s]
    assert (b.tier_hit_tokens, b.load_start_s, b.load_end_s) == (48, 5.0 + load_after_step, 8.0 + load_after_step)


def test_a_step_waits_for_the_copy_of_blocks_that_it_overwrites() -> None:
    """A ends at 1 and its blocks are copied over [1, 4); at 2 C needs them, so that its step is [4, 5) instead of [2, 3)."""
    one = rank(RefTier(9, **UNIT), num_blocks=7, max_num_batched_tokens=200)
    background, a, c = leg(0, 0.0, "", 15, first=1), leg(1, 0.0, "abc", 1), leg(2, 1.5, "mnopqr", 1)
    play(one, [background, a, c])
    assert c.token_times_s == [5.0] and one.flush_s == 2.0


def test_a_load_is_one_pass_of_an_idle_rank() -> None:
    """Alone, A is stored over [1, 4). B comes at 10 and finds all but its last block on the device; it loads that over [10, 11), in sleep.

    It is known at the first look after 11, and its last token is computed again: vLLM leaves one to compute on the device only.
    """
    one = rank(RefTier(9, **UNIT), num_blocks=20)
    a, b = leg(0, 0.0, "abc", 1), leg(1, 10.0, "abc", 1)
    play(one, [a, b])
    assert (b.hit, b.loaded, b.load_start_s, b.load_end_s) == (32, 16, 10.0, 11.0)
    (end_s,) = b.token_times_s
    assert 12.0 < end_s <= 12.0 + 2 * 2.0**-10


@pytest.mark.parametrize(("load", "end_s"), [("sync", 11 + 2.0 + 1.0), ("layerwise", 11 + 2.0 + 2.0 / 4)])
def test_a_step_waits_for_its_loads(load: str, end_s: float) -> None:
    """A took all blocks of the device but one; B's two are loaded over [11, 13), and its step of 1 s follows, or goes beside that."""
    one = rank(RefTier(9, load=load, layers=4, **UNIT), num_blocks=4)
    b, a, again = leg(0, 0.0, "ab", 1), leg(1, 5.0, "wxyz", 1), leg(2, 11.0, "abc", 1)
    play(one, [b, a, again])
    assert (again.hit, again.loaded) == (0, 32)
    assert again.token_times_s == [end_s]


def test_recency_is_of_requests_and_tails_go_first() -> None:
    pool = ChunkPool(4)
    a, b = Use(), Use()
    names = chain_names(tuple(range(6)), 1)
    assert pool.offer(a, names[:2], [1, 2]) == names[:2] and pool.offer(b, names[2:4], [1, 2]) == names[2:4]
    pool.written(names[:4])
    pool.leave(a)  # used after B began
    assert pool.offer(Use(), names[4:5], [1]) == names[4:5]
    assert set(pool.chunks) == {*names[:3], names[4]}, "the tail of what B, still there, has used"
    assert pool.offer(Use(), names[:2] + names[3:4] + names[5:6], [1, 2, 3, 4]) is None, "what is offered and what is written stays"
    assert pool.failed == 1 and set(pool.chunks) == {*names[:3], names[4]}


@pytest.mark.parametrize("row", recorded(), ids=lambda row: row["kind"])
def test_schedules_of_vllm(row: dict) -> None:
    """vLLM 0.33's own scheduler with OffloadingConnector: the same times, preemptions, hits and evictions."""
    ours, vllm = replayed(row["scenario"]), row["vllm"]
    assert any(request["loaded"] for request in vllm["requests"])
    for own, theirs in zip(ours["requests"], vllm["requests"], strict=True):
        assert own["tokens_s"] == pytest.approx(theirs["tokens_s"], rel=0, abs=1e-9)
        assert all(own[name] == theirs[name] for name in ("preemptions", "cached_tokens", "loaded"))
    assert (ours["evictions"], ours["tier"]) == (vllm["evictions"], vllm["tier"])


@pytest.mark.parametrize(("pool", "loaded"), [(None, 0), (7, 32)])
def test_ranks_find_what_others_stored_in_a_shared_tier(pool: int | None, loaded: int) -> None:
    """Round robin: B goes to another rank than A, which stored what B begins with."""
    limits = {"block_size": 16, "enable_prefix_caching": True, "max_num_batched_tokens": 64, "tier": RefTier(9, pool=pool, **UNIT)}
    a, b = (tuple(range(32)), tuple(range(33)))
    requests = [RefRequest(when, len(ids), 1, content=(*ids, 99 + when)) for when, ids in ((0, a), (20, b))]
    result = simulate([instance(**limits)] * 2, requests)
    assert [request.instance for request in result.requests] == [0, 1]
    assert [request.tier_hit_tokens for request in result.requests] == [0, loaded]
    assert result.requests[1].token_times_s[0] == pytest.approx(23.0 if loaded else 21.0, abs=5e-3)
