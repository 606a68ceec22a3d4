"""Hits of a prefix cache without timing, against a cache that moves block by block."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.errors import SimjaxError
from simjax.workload.contents import tree
from simjax.workload.contents.radix import from_blocks
from simjax.workload.contents.reuse import feeding_order, prefix_reuse
from simjax.workload.formats import read_trace
from simjax.workload.sessions import from_waits
from simjax.workload.workload import Workload
from tests.data import data_path


def block_by_block(contents, prompts, block_size, outputs, partial_blocks, capacity):
    """Blocks found per request by a plain LRU cache of whole contents; `capacity` None: without limit."""
    cache: OrderedDict[tuple, None] = OrderedDict()
    hits = []
    for content, prompt in zip(contents, prompts, strict=True):
        used = content[:-1] if outputs else content[:prompt]
        blocks = [tuple(used[: end + block_size]) for end in range(0, len(used) - block_size + 1, block_size)]
        if partial_blocks and len(used) % block_size:
            blocks.append(("partial", *used))
        looked_up = len(blocks) if partial_blocks else (prompt - 1) // block_size
        found = 0
        while found < looked_up and blocks[found] in cache:
            found += 1
        hits.append(found)
        for block in reversed(blocks):
            cache[block] = None
            cache.move_to_end(block)
            if capacity is not None and len(cache) > capacity:
                cache.popitem(last=False)
    return hits


@st.composite
def workloads(draw):
    """Requests with few different tokens, so that they share much; unknown tokens are replaced by a token unique to the request."""
    n = draw(st.integers(1, 10))
    contents, known = [], []
    for r in range(n):
        tokens = draw(st.lists(st.integers(0, 1), min_size=2, max_size=14))
        known.append(draw(st.integers(0, len(tokens))))
        contents.append([*tokens[: known[-1]], *(100 + r for _ in tokens[known[-1] :])])
    prompt = np.array([draw(st.integers(1, len(content) - 1)) for content in contents], np.int32)
    total = np.array([len(content) for content in contents])
    prefixes = tree.finish(from_blocks([np.array(c) for c in contents], 1, np.array(known), total), prompt, None)
    return contents, Workload(np.arange(n, dtype=float), prompt, (total - prompt).astype(np.int32), prefixes=prefixes).validate()


@settings(deadline=None, max_examples=300)
@given(workloads(), st.integers(1, 4), st.sampled_from([(True, False), (False, False), (False, True)]))
def test_hits_of_every_cache_size_are_those_of_a_cache_of_blocks(drawn, block_size, mode):
    contents, workload = drawn
    outputs, partial_blocks = mode
    reuse = prefix_reuse(workload, block_size, outputs, partial_blocks)
    for capacity in (1, 2, 3, 5, 8, 13, 1000, None):
        hits = block_by_block(contents, workload.prompt_tokens, block_size, outputs, partial_blocks, capacity)
        assert reuse.hit_blocks(capacity) == sum(hits)
    assert reuse.hit_requests == sum(hit > 0 for hit in hits)
    assert reuse.hit_blocks(reuse.distinct_blocks) == reuse.hit_blocks()
    assert reuse.token_hit_fraction() == sum(hits) * block_size / workload.prompt_tokens.sum()


def test_a_prompt_is_never_found_as_a_whole():
    """Two equal prompts of two blocks: the last block is computed again because its last token is needed."""
    prompt = np.array([8, 8], np.int32)
    prefixes = tree.finish(from_blocks([np.arange(8)] * 2, 1, np.array([8, 8]), np.array([9, 9])), prompt, None)
    workload = Workload(np.zeros(2), prompt, np.ones(2, np.int32), prefixes=prefixes)
    assert prefix_reuse(workload, 4).hit_blocks() == 1
    assert prefix_reuse(workload, 4, partial_blocks=True).hit_blocks() == 2


def test_calls_of_sessions_are_fed_by_the_time_they_would_come():
    session, turn = np.array([0, 1, 0, 0, 1]), np.array([0, 0, 1, 2, 1])
    before, after, delay_s = np.array([0, 2, 0, 1]), np.array([2, 3, 3, 4]), np.array([5.0, 5.0, 20.0, 7.0])
    sessions = from_waits(session, ("a", "b"), turn, before, after, delay_s)
    ones = np.ones(5, np.int32)
    workload = Workload(np.array([0.0, 1.0, np.inf, np.inf, np.inf]), ones, ones, sessions=sessions).validate()
    assert feeding_order(workload).tolist() == [0, 1, 2, 4, 3]  # at 0, 1, 5, 8 and 20 s


def test_reuse_needs_to_know_what_is_shared():
    ones = np.ones(1, np.int32)
    workload = Workload(np.zeros(1), ones, ones, source="mine")
    with pytest.raises(SimjaxError, match=r"^mine: nothing is known about what its requests share"):
        prefix_reuse(workload)
    with pytest.raises(SimjaxError, match="block_size=0; it must be at least 1"):
        prefix_reuse(replace(workload, prefixes=tree.private(np.array([2]))), 0)


# Computed block by block when the data were collected, from the prompts' blocks alone: (trace, block size, whether a partial last block
# counts), blocks, distinct blocks, the fraction that is not new, and the fractions found in LRU caches of 1,000, 5,000, 10,000, 30,000 and
# 50,000 blocks.
KNOWN = [
    ("traces/mooncake/conversation_trace.jsonl", 512, True, 288_500, 182_790, 0.366, (0.045, 0.112, 0.212, 0.326, 0.355)),
    ("traces/mooncake/synthetic_trace.jsonl", 512, True, 121_877, 43_924, 0.640, (0.084, 0.279, 0.424, 0.624, 0.640)),
    ("llmservingsim/workloads/sharegpt-llama-3.1-8b-300-sps10.jsonl", 16, False, 15_942, 14_722, 0.077, None),
    ("llmservingsim/workloads/sharegpt-qwen3-32b-300-sps10.jsonl", 16, False, 16_034, 14_756, 0.080, None),
    ("ispass26/datasets/sharegpt_pulse_req50_n6_delay15_pc.jsonl", 16, False, 5_022, 3_693, 0.265, None),
    ("traces/kvcache_tester/traces", 64, False, 2_498_961, 180_968, 0.928, None),
]


@pytest.mark.parametrize(
    ("name", "block_size", "partial", "blocks", "distinct", "ideal", "lru"), KNOWN, ids=[known[0].split("/")[-1] for known in KNOWN]
)
def test_hits_of_real_traces(name, block_size, partial, blocks, distinct, ideal, lru):
    workload = read_trace(data_path(name)).workload
    reuse = prefix_reuse(workload, block_size, outputs=False, partial_blocks=partial)
    of_prompts = -(-workload.prompt_tokens // block_size) if partial else workload.prompt_tokens // block_size
    assert (of_prompts.sum(), reuse.distinct_blocks) == (blocks, distinct)
    assert 1 - distinct / blocks == pytest.approx(ideal, abs=5e-4)
    # Found are those that are not new, but for whole blocks at the very end of a prompt, which are computed again.
    assert 0 <= blocks - distinct - reuse.hit_blocks() <= np.sum(of_prompts * block_size == workload.prompt_tokens)
    if lru is not None:
        found = [reuse.block_hit_fraction(size) for size in (1_000, 5_000, 10_000, 30_000, 50_000)]
        np.testing.assert_allclose(found, lru, rtol=0, atol=5e-4)
        assert reuse.block_hit_fraction() == pytest.approx(ideal, abs=5e-4)
