"""Prefix caching in the reference, worked out by hand.

Token ids are letters; blocks have 2 tokens and a step takes 1 s unless a test says otherwise. A prompt of 2 n + 1 tokens with one output
token fills n blocks and opens another. Free lists are written head first.
"""

import pytest

from tests.reference.pool import BlockPool, chain_names, count_known
from tests.reference.simulator import RefRequest, simulate
from tests.reference.toy import batches, cached, caching, instance, preemptions, said, scheduled, tokens


def names(text: str):
    return chain_names(tuple(text), 2)


def fill(pool: BlockPool, request: int, text: str, hits=()) -> bool:
    """Allocate blocks for `text` to `request`, which shares `hits`, and name its full blocks."""
    if not pool.grow(request, -(-len(text) // 2), hits):
        return False
    for position, name in list(enumerate(names(text)))[len(hits) :]:
        pool.name(request, position, name)
    pool.check()
    return True


# ---- names


def test_names_chain_the_token_ids_of_full_blocks():
    first, second = chain_names((1, 2, 3, 4, 5), 2)
    assert (first.parent, first.token_ids, second.parent, second.token_ids) == (None, (1, 2), first, (3, 4))
    assert [first, second] == chain_names((1, 2, 3, 4), 2) and second not in chain_names((3, 4, 3, 4), 2)
    assert chain_names((1, 2), 3) == []


def test_known_names_are_counted_up_to_the_first_gap():
    aa, bb, cc = names("aabbcc")
    assert count_known([aa, bb, cc], {aa, cc}) == 1
    assert count_known([aa, bb, cc], {bb, cc}) == 0


# ---- the pool


def test_the_tail_of_a_sequence_is_evicted_first():
    # Request 1 has blocks 0 (aa), 1 (bb) and 2 (one token, no name); it gives back 2, 1, 0, behind 3, which was never used.
    # Request 2 pops 3 and 2: no name is lost. Request 3 pops 1, which takes bb's name; aa can still be hit.
    pool = BlockPool(4)
    assert fill(pool, 1, "aabbc")
    pool.release(1)
    assert list(pool.free) == [3, 2, 1, 0]
    assert pool.lookup(names("aabb")) == [0, 1]
    assert fill(pool, 2, "xxx") and (pool.held[2], pool.evictions) == ([3, 2], 0)
    assert fill(pool, 3, "y") and (pool.held[3], pool.evictions) == ([1], 1)
    assert pool.lookup(names("aabb")) == [0]


def test_touched_blocks_leave_the_free_list_and_are_shared():
    # As above, the free list is 3, 2, 1, 0. Request 2 touches 0 and 1, and pops 3. Request 3 shares 0 and 1, and pops 2: nothing is free.
    # Request 2 lets go: only 3 comes back. Then request 3: 2, 1, 0.
    pool = BlockPool(4)
    assert fill(pool, 1, "aabbc")
    pool.release(1)
    assert fill(pool, 2, "aabbd", hits=[0, 1]) and pool.held[2] == [0, 1, 3] and list(pool.free) == [2]
    assert fill(pool, 3, "aabbe", hits=[0, 1]) and pool.held[3] == [0, 1, 2] and list(pool.free) == []
    assert pool.refs == [2, 2, 1, 1]
    assert (pool.num_distinct([2, 3]), pool.num_distinct([3]), pool.evictions) == (4, 3, 0)
    pool.release(2)
    assert list(pool.free) == [3] and pool.refs == [1, 1, 1, 0]
    pool.release(3)
    assert list(pool.free) == [3, 2, 1, 0]


def test_a_free_hit_uses_up_a_free_block_and_a_held_one_does_not():
    # Five blocks. Free: 3, 4, 2, 1, 0 with aa in 0 and bb in 1. Request 2 takes 3 and 4, so three are free: "aabbd" needs 3 - 2 + 2 = 3.
    # Request 3 takes another: two are free, and 3 are too many; nothing changes. Were aa and bb held, as by request 4, 3 - 2 = 1 would do.
    pool = BlockPool(5)
    assert fill(pool, 1, "aabbc")
    pool.release(1)
    assert fill(pool, 2, "xxyy") and pool.has_room(9, 3, hits=[0, 1])
    assert fill(pool, 3, "z") and not pool.has_room(9, 3, hits=[0, 1])
    assert not fill(pool, 9, "aabbd", hits=[0, 1]) and list(pool.free) == [1, 0] and pool.refs == [0, 0, 1, 1, 1]
    pool.release(3)
    assert list(pool.free) == [1, 0, 2]
    assert fill(pool, 4, "aabb", hits=[0, 1]) and list(pool.free) == [2]
    assert pool.has_room(9, 3, hits=[0, 1]) and not pool.has_room(9, 4, hits=[0, 1])


def test_a_copy_of_a_free_block_has_the_name_too():
    # (a) aa is in block 0, bb in 1, both free: 2, 3, 1, 0. Request 2 hits aa only and fills bb again, in block 2; 1 stays in its place,
    # with its name, and is found before 2. Request 3 pops 3 and 1, which loses its name: bb is found in 2.
    pool = BlockPool(4)
    assert fill(pool, 1, "aabb")
    pool.release(1)
    assert list(pool.free) == [2, 3, 1, 0]
    assert fill(pool, 2, "aabb", hits=[0])
    assert list(pool.free) == [3, 1] and pool.lookup(names("aabb")) == [0, 1] and pool.copies == 1
    assert fill(pool, 3, "xxyy") and pool.evictions == 1
    assert pool.lookup(names("aabb")) == [0, 2]


def test_a_copy_of_a_held_block_has_the_name_too():
    # (b) Request 1 holds aa in 0 and bb in 1; request 2 shares aa, fills bb in 2 and continues with cc in 3. Request 1 lets go of 1, which
    # is found first until request 3 pops it: then bb is found in 2, and cc after it. Popped and filled again, block 1 is the younger copy.
    pool = BlockPool(4)
    assert fill(pool, 1, "aabb") and fill(pool, 2, "aabb", hits=[0])
    assert pool.lookup(names("aabb")) == [0, 1] and pool.copies == 1
    pool.release(1)
    assert list(pool.free) == [3, 1]
    assert pool.grow(2, 3) and pool.held[2] == [0, 2, 3]
    pool.name(2, 2, names("aabbcc")[2])
    assert pool.lookup(names("aabbcc")) == [0, 1, 3]
    assert fill(pool, 3, "xx") and pool.evictions == 1
    assert pool.lookup(names("aabbcc")) == [0, 2, 3]
    pool.release(3)
    assert fill(pool, 4, "aabb", hits=[0]) and pool.held[4] == [0, 1] and pool.evictions == 2
    assert pool.lookup(names("aabb")) == [0, 2] and list(pool.named[names("aabb")[1]]) == [2, 1]


def test_nameless_blocks_are_used_again_first_if_the_release_has_it_so():
    # Request 1 has 0 (aa), 1 (bb) and 2 (one token); request 2 has 3 (a token). Given back, the nameless 2 goes to the head and 1 and 0 to
    # the tail, behind 4 and 5; then 3 goes before 2. Of two nameless blocks the later one of the sequence is used first.
    pool = BlockPool(6, nameless_first=True)
    assert fill(pool, 1, "aabbc") and fill(pool, 2, "x")
    pool.release(1)
    assert list(pool.free) == [2, 4, 5, 1, 0]
    pool.release(2)
    assert list(pool.free) == [3, 2, 4, 5, 1, 0]
    assert pool.grow(3, 2) and pool.held[3] == [3, 2]
    pool.release(3)
    assert list(pool.free) == [2, 3, 4, 5, 1, 0] and pool.evictions == 0


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda pool: pool.free.popitem(), "lost"),
        (lambda pool: pool.free.setdefault(0), "free and held"),
        (lambda pool: pool.refs.__setitem__(0, 2), "numbers of holders"),
        (lambda pool: pool.held.pop(1), "numbers of holders"),
        (lambda pool: pool.names.__setitem__(1, None), "does not map"),
        (lambda pool: pool.named.__setitem__(names("zz")[0], {3: None}), "does not map"),
        (lambda pool: pool.named.__setitem__(names("zz")[0], {}), "without blocks"),
        (lambda pool: pool._forget(0), "follows one without a name"),
        (lambda pool: (pool.release(1), pool.free.move_to_end(1)), "evicted before"),
    ],
)
def test_the_pool_notices_damage(damage, complaint):
    pool = BlockPool(4)
    assert fill(pool, 1, "aabbc")
    damage(pool)
    with pytest.raises(AssertionError, match=complaint):
        pool.check()


# ---- hits


def test_equal_prompts_admitted_in_one_formation_share():
    # r0 takes 5 tokens and names aa and bb; r1, looked at next, finds them: 1 token after 4. Together 3 + 1 blocks. Both end at 1.
    seen = []

    def cost(batch):
        seen.append(batch)
        return 1.0

    result = simulate([caching(step_time=cost)], [said(0, "aabbc", "x"), said(0, "aabbd", "x")])
    assert seen == [[(5, 0), (1, 4)]]
    assert cached(result) == [0, 4]
    assert [(step.blocks, step.prefill_tokens, step.decodes) for step in result.steps] == [(4, 5, 1)]
    assert tokens(result) == [(1.0,), (1.0,)] and result.evictions == [0]


def test_nothing_is_shared_without_prefix_caching_or_when_the_content_is_private():
    trace = [said(0, "aabbc", "x"), said(0, "aabbc", "x")]
    result = simulate([caching(enable_prefix_caching=False)], trace)
    assert batches(result) == [((0, 1), (5, 5))] and cached(result) == [0, 0] and result.steps[0].blocks == 6
    result = simulate([caching()], [RefRequest(0.0, 5, 1), RefRequest(0.0, 5, 1)])
    assert batches(result) == [((0, 1), (5, 5))] and cached(result) == [0, 0]


@pytest.mark.parametrize(
    ("prompt", "hit_tokens"),
    [
        ("a", 0),
        ("aa", 0),  # (2 - 1) // 2 = 0 blocks: the last token is always computed
        ("aab", 2),
        ("aabb", 2),  # (4 - 1) // 2 = 1
        ("aabbc", 4),
        ("aabbcc", 4),  # r0 filled no third block
        ("aabxx", 2),  # bx differs from bb
        ("bbaax", 0),  # bb is cached after aa only
        ("xxbbx", 0),
    ],
)
def test_hits_are_full_blocks_of_the_same_beginning_but_for_the_last_token(prompt, hit_tokens):
    result = simulate([caching()], [said(0, "aabbc", "x"), said(5, prompt, "x")])
    assert cached(result) == [0, hit_tokens]
    assert batches(result)[1] == ((1,), (len(prompt) - hit_tokens,))


def test_generated_tokens_are_cached_but_for_the_last():
    # r0 computes aab and then b, c: five tokens, blocks aa and bb. Its last token, c, is never computed, so cc is not cached.
    result = simulate([caching()], [said(0, "aab", "bcc"), said(9, "aabbccd", "x")])
    assert cached(result) == [0, 4]
    # One output token more, and cc is full.
    result = simulate([caching()], [said(0, "aab", "bccd"), said(9, "aabbccd", "x")])
    assert cached(result) == [0, 6]


def test_chunks_start_after_the_hits_and_are_cached_as_they_come():
    # Budget 3. r0 takes 3 of 7 tokens at 0 (aa), 3 at 1 (bb, cc), 1 at 2. r1 comes at 0.5: no budget is left for it at 1; at 2 it hits
    # six tokens and takes the seventh beside r0's. r2 comes at 2.5 and hits aa, bb: chunks of 3 and 2.
    seen = []

    def cost(batch):
        seen.append(batch)
        return 1.0

    trace = [said(0, "aabbccd", "x"), said(0.5, "aabbccd", "x"), said(2.5, "aabbxxyyz", "x")]
    result = simulate([caching(max_num_batched_tokens=3, step_time=cost)], trace)
    assert seen == [[(3, 0)], [(3, 3)], [(1, 6), (1, 6)], [(3, 4)], [(2, 7)]]
    assert cached(result) == [0, 6, 4]
    assert [step.blocks for step in result.steps] == [2, 3, 5, 4, 5]


def test_hits_make_a_prompt_fit_the_budget_without_chunked_prefill():
    # Budget 4. r1 has seven tokens, of which four are cached; r2's seven have two in the cache, the other five never fit.
    limits = {"max_num_batched_tokens": 4, "enable_chunked_prefill": False}
    result = simulate([caching(**limits)], [said(0, "aabb", "x"), said(2, "aabbccd", "x"), said(4, "aaxxyyz", "x")])
    assert batches(result) == [((0,), (4,)), ((1,), (3,))]
    assert [request.status for request in result.requests] == ["finished", "finished", "unfinished"]


def test_the_threshold_clips_what_is_left_after_the_hits():
    result = simulate([caching(long_prefill_token_threshold=3)], [said(0, "aab", "x"), said(2, "aabbccd", "x")])
    assert batches(result) == [((0,), (3,)), ((1,), (3,)), ((1,), (2,))]


def test_a_waiting_request_looks_at_every_formation():
    # One seat. r1 comes first to the queue but is looked up when the seat is free, at 2: by then r0 has filled aa and bb.
    result = simulate([caching(max_num_seqs=1)], [said(0, "aab", "bc"), said(0, "aabbc", "x")])
    assert scheduled(result) == [0.0, 2.0] and cached(result) == [0, 4]


# ---- eviction


def test_eviction_shortens_later_hits():
    # Four blocks. r0: 0 (aa), 1 (bb), 2; then free is 3, 2, 1, 0. r1 pops 3 (xx), 2 (yy) and 1, which evicts bb; then free is 0, 1, 2, 3.
    # r2 hits aa: it touches 0 and pops 1 (bb) and 2, which evicts yy.
    trace = [said(0, "aabbc", "z"), said(2, "xxyyz", "z"), said(4, "aabbc", "z")]
    result = simulate([caching(num_blocks=4)], trace)
    assert cached(result) == [0, 0, 2] and result.evictions == [2]


def test_a_hit_moves_blocks_to_the_tail():
    # Four blocks. r0: 0 (aa), 1; free 2, 3, 1, 0. r1: 2 (bb), 3; free 1, 0, 3, 2. r2 hits aa: touches 0, pops 1; free 3, 2, 1, 0.
    # r3 pops 3 (cc) and 2, which evicts bb, the least recently used; free 1, 0, 2, 3. r4 hits aa: touches 0, pops 1; free 2, 3, 1, 0.
    # r5 finds no bb: it pops 2 (bb) and 3, which evicts cc.
    prompts = ["aaz", "bbz", "aaz", "ccz", "aaz", "bbz"]
    result = simulate([caching(num_blocks=4)], [said(2 * index, prompt, "z") for index, prompt in enumerate(prompts)])
    assert cached(result) == [0, 0, 2, 0, 2, 0] and result.evictions == [2]


def test_a_recomputed_last_block_is_a_copy():
    # (a) Four blocks. r0: 0 (aa), 1 (bb); free 2, 3, 1, 0. r1 hits aa only and fills bb in 2 too; free 3, 1, 2, 0.
    # r2 pops 3 (xx) and 1 (yy), which evicts the older bb; free 2, 0, 1, 3. r3 hits 0 and 2 and pops 1, which evicts yy.
    trace = [said(0, "aabb", "z"), said(2, "aabb", "z"), said(4, "xxyy", "z"), said(6, "aabbz", "z")]
    result = simulate([caching(num_blocks=4)], trace)
    assert cached(result) == [0, 2, 0, 4] and result.evictions == [2]


def test_a_copy_of_a_running_request_costs_a_block():
    # (b) Five blocks. r0 holds 0 (aa) and 1 (bb), from 1 on 2 as well (token 5; at 2 token 6: cc). At 1 r1 shares aa and fills bb in 3,
    # a copy; free 4, 3. r2 (at 2.5) pops 4 (xx) and 3 (yy) at 3, which evicts the copy; r0 is over.
    trace = [said(0, "aabb", "ccz"), said(0.5, "aabb", "z"), said(2.5, "xxyy", "z"), said(9, "aabbccz", "z")]
    result = simulate([caching(num_blocks=5)], trace)
    assert [step.blocks for step in result.steps[:4]] == [2, 4, 3, 2]
    # At 9 free is 2, 1, 0, 3, 4 (r0 came back at 3, r2 at 4): r3 touches 0, 1, 2 and pops 3, which evicts yy.
    assert cached(result) == [0, 2, 0, 6] and result.evictions == [2]


def test_evictions_are_counted_by_instance():
    # In turn: r0 and r2 on 0, whose two blocks r2 needs, though only one has a name; r1 on 1.
    result = simulate([caching(num_blocks=2), caching()], [said(0, "aab", "z"), said(0, "aab", "z"), said(2, "ccdd", "z")])
    assert result.evictions == [1, 0]


# ---- admission


def test_free_hits_count_when_a_request_is_admitted():
    # Four blocks. r0: 0 (aa), 1 (bb), 2; free 3, 2, 1, 0. At 2 r1 pops 3 and 2; free 1, 0. At 3 r2 needs 3 - 2 + 2 = 3 blocks: it waits.
    # At 4 r1's fifth token pops 1, which evicts bb. r1 is over at 5; free 0, 1, 2, 3. r2 hits aa, pops 1, and 2 (r1's second xx, evicted).
    result = simulate([caching(num_blocks=4)], [said(0, "aabbc", "z"), said(2, "xxx", "xyz"), said(2.5, "aabbc", "z")])
    assert scheduled(result) == [0.0, 2.0, 5.0]
    assert cached(result) == [0, 0, 2] and result.evictions == [2]


@pytest.mark.parametrize(("enable_prefix_caching", "scheduled_s"), [(True, 1.0), (False, 3.0)])
def test_held_hits_need_no_blocks(enable_prefix_caching, scheduled_s):
    # Four blocks. r0 holds three until 3. r1 shares aa and bb and needs 3 - 2 = 1 block at 1; without caching it needs three.
    limits = {"num_blocks": 4, "enable_prefix_caching": enable_prefix_caching}
    result = simulate([caching(**limits)], [said(0, "aabbc", "cdz"), said(0.5, "aabbe", "z")])
    assert scheduled(result) == [0.0, scheduled_s]


@pytest.mark.parametrize(("reserve_full_isl", "scheduled_s"), [(True, 4.0), (False, 3.0)])
def test_full_isl_reservation_with_hits(reserve_full_isl, scheduled_s):
    # Four blocks, budget 3. r0: 0 (aa), 1; free 2, 3, 1, 0. r1 takes 2 at 2, until 4; free 3, 1, 0. r2's eight tokens need 4 - 1 + 1 = 4
    # blocks. Reserved: they are there at 4: chunks of 3 and 3. Not: at 3 its first chunk (r1's decode leaves 2 tokens) needs
    # 2 - 1 + 1 = 2: chunks of 2, 3 and 1. Either way its token comes at 6.
    limits = {"num_blocks": 4, "max_num_batched_tokens": 3, "reserve_full_isl": reserve_full_isl}
    result = simulate([caching(**limits)], [said(0, "aab", "z"), said(2, "x", "yz"), said(2.5, "aabbccdd", "z")])
    assert scheduled(result) == [0.0, 2.0, scheduled_s]
    assert tokens(result)[2] == (6.0,) and cached(result) == [0, 0, 2]


# ---- preemption


def test_a_preempted_request_finds_the_blocks_that_are_left():
    # Four blocks. At 0 r0 takes block 0 and r1 block 1, at 1 (third token) 2 and 3; all four are full at 2. At 3 r0 needs a third block:
    # r1 gives back 3 and 1, and r0 pops 3 (eviction). r0 is over at 4. r1 has 5 tokens to go through and hits block 1: three are new.
    result = simulate([caching(num_blocks=4)], [said(0, "aa", "aaaa"), said(0, "bb", "bbbb")])
    assert batches(result)[3:] == [((0,), (1,)), ((1,), (3,))]
    assert tokens(result) == [(1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 5.0)]
    assert preemptions(result) == [0, 1]
    assert cached(result) == [0, 0]  # of the first admission only
    # r1 touched 1; free was 1, 3, 2, 0, so it pops 3 and 2 (r0's second block; 3 held r0's fifth token, no name): evictions 1 + 1.
    assert result.evictions == [2]


def test_a_request_that_preempted_itself_finds_all_its_blocks():
    # Five blocks: at 3 r0 takes the last one, and r1, the tail, finds none for its own fifth token. At 4 both its blocks are there.
    # Its content is its own: still equal to itself.
    result = simulate([caching(num_blocks=5)], [RefRequest(0.0, 2, 4), RefRequest(0.0, 2, 4)])
    assert batches(result)[3:] == [((0,), (1,)), ((1,), (1,))]
    assert preemptions(result) == [0, 1]


def test_a_victim_lets_go_of_shared_blocks_without_freeing_them():
    # Five blocks. r0: 0 (aa), 1 (bb), 2 (c); r1 shares 0 and 1, and has 3; at 1 both third blocks fill up. At 2 r0 pops 4 for its seventh
    # token, r1 finds none and gives back 3 alone. At 3 (r0 over at 3: its blocks are free, with names) it hits aa, bb and its own 3.
    result = simulate([caching(num_blocks=5)], [said(0, "aabbc", "cdz"), said(0, "aabbe", "edz")])
    assert batches(result) == [((0, 1), (5, 1)), ((0, 1), (1, 1)), ((0,), (1,)), ((1,), (1,))]
    assert preemptions(result) == [0, 1] and cached(result) == [0, 4]
    assert [step.blocks for step in result.steps] == [4, 4, 4, 4]


# ---- asynchronous scheduling


def test_async_a_finished_request_holds_its_blocks_for_one_formation_and_is_shared_then():
    # Three blocks. r0 is over at 1 but holds its blocks in the formation that starts then; r1 (queued at 0, and kept out then by the budget
    # of 5) shares aa and bb, which are held, but needs a third block, which is not free. The instance is idle, r0 goes, and r1 starts at 1.
    limits = {"num_blocks": 3, "max_num_batched_tokens": 5, "async_scheduling": True}
    result = simulate([caching(**limits)], [said(0, "aabbc", "z"), said(0, "aabbd", "z")])
    assert scheduled(result) == [0.0, 1.0] and cached(result) == [0, 4]
    assert [step.horizon_s for step in result.steps] == [0.0, 1.0]
    # With a fourth block r1 enters in the formation that still holds r0.
    result = simulate([caching(**{**limits, "num_blocks": 4})], [said(0, "aabbc", "z"), said(0, "aabbd", "z")])
    assert scheduled(result) == [0.0, 1.0] and cached(result) == [0, 4]
    assert [(step.horizon_s, step.blocks) for step in result.steps] == [(0.0, 3), (0.0, 3)]


# ---- counts


def test_step_blocks_leave_out_what_only_finished_requests_hold():
    # r1 runs beside r0, shares aa, and is over at 1; r0 decodes on. Asynchronous, r1 still holds its second block in the second formation.
    for async_scheduling in (False, True):
        result = simulate([caching(async_scheduling=async_scheduling)], [said(0, "aab", "xx"), said(0, "aac", "x")])
        assert [step.blocks for step in result.steps] == [3, 2]


def test_without_the_flag_a_pool_counts_no_evictions():
    result = simulate([instance(block_size=2, num_blocks=3)], [said(0, "aabbc", "z"), said(2, "aabbc", "z")])
    assert result.evictions == [0] and cached(result) == [0, 0]
