"""Hypothesis strategies for scenarios in which everything happens: chunks, queues, preemption, idle times, ties."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from simjax.engine.params import RouterPolicy
from tests.engine.scenario import MAX_SEQUENCES, MAX_TOKENS, Limits, Price, Scenario


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    chunked = draw(st.booleans()) or draw(st.booleans())
    return Limits(
        num_blocks=draw(st.integers(12, 60)),
        block_size=draw(st.sampled_from([1, 2, 3, 4, 7, 16])),
        max_num_seqs=draw(st.integers(1, MAX_SEQUENCES)),
        max_num_batched_tokens=draw(st.integers(1, MAX_TOKENS)) if chunked else MAX_TOKENS,
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 1, 3, 9])),
        max_model_len=draw(st.sampled_from([10_000, 10_000, 30])) if chunked else MAX_TOKENS,  # what cannot be split must fit a step
        enable_chunked_prefill=chunked,
        reserve_full_isl=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
        api_pre_s=draw(st.sampled_from([0.0, 0.0, 0.013])),
        api_post_s=draw(st.sampled_from([0.0, 0.007])),
    )


@st.composite
def scenarios(draw: st.DrawFn, instances: int = 1, closed: bool = False) -> Scenario:
    cluster = tuple(draw(limits()) for _ in range(instances))
    # Every request fits some engine, not every engine: the last token needs no place in the cache.
    capacity = max(min(x.num_blocks * x.block_size + 1, x.max_model_len) for x in cluster)
    count = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    longest = draw(st.integers(2, min(capacity, 60)))
    prompt = rng.integers(1, longest, count)
    output = np.minimum(rng.integers(1, draw(st.sampled_from([2, 12, 40])), count), capacity - prompt)
    gap_s = draw(st.sampled_from([0.0, 0.003, 0.03, 0.3]))
    arrival_s = np.cumsum(rng.exponential(gap_s, count) * rng.integers(0, 2, count)) if gap_s else np.zeros(count)
    concurrency = draw(st.integers(1, min(8, count))) if closed else 0
    if closed and draw(st.booleans()):
        arrival_s = np.zeros(count)
    return Scenario(
        limits=cluster,
        arrival_s=arrival_s,
        prompt=prompt,
        output=output,
        router=draw(st.sampled_from(list(RouterPolicy))) if instances > 1 else RouterPolicy.ROUND_ROBIN,
        concurrency=concurrency,
        think_s=draw(st.sampled_from([0.0, 0.021])) if closed else 0.0,
        price=Price.drawn(draw(st.integers(0, 2**16))),
    )
