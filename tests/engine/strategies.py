"""Hypothesis strategies for scenarios in which everything happens: chunks, queues, preemption, idle times, ties."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from simjax.cluster.routers import ROUTERS
from tests.engine.scenario import MAX_SEQUENCES, MAX_TOKENS, Limits, RouterPolicy, Scenario, Timing


@dataclass(frozen=True)
class Sizes:
    """The largest of everything that is drawn, and the scenarios whose program holds it."""

    scenario: type[Scenario] = Scenario
    tokens: int = MAX_TOKENS
    sequences: int = MAX_SEQUENCES
    blocks: tuple[int, ...] = (60,)
    requests: int = 30
    prompt: int = 60
    outputs: tuple[int, ...] = (2, 12, 40)
    clients: int = 8


SMALL = Sizes()


@st.composite
def limits(draw: st.DrawFn, sizes: Sizes = SMALL) -> Limits:
    chunked = draw(st.booleans()) or draw(st.booleans())
    return Limits(
        num_blocks=draw(st.sampled_from(sizes.blocks).flatmap(lambda most: st.integers(12, most))),
        block_size=draw(st.sampled_from([1, 2, 3, 4, 7, 16])),
        max_num_seqs=draw(st.integers(1, sizes.sequences)),
        max_num_batched_tokens=draw(st.integers(1, sizes.tokens)) if chunked else sizes.tokens,
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 1, 3, 9])),
        max_model_len=draw(st.sampled_from([10_000, 10_000, 30])) if chunked else sizes.tokens,  # what cannot be split must fit a step
        enable_chunked_prefill=chunked,
        reserve_full_isl=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
        long_prefill_alone=draw(st.booleans()),
        reserve_kv_loads=draw(st.booleans()),
        watermark_blocks=draw(st.sampled_from([0, 0, 1, 5])),
        api_pre_s=draw(st.sampled_from([0.0, 0.0, 0.013])),
        api_post_s=draw(st.sampled_from([0.0, 0.007])),
    )


@st.composite
def scenarios(draw: st.DrawFn, instances: int = 1, closed: bool = False, sizes: Sizes = SMALL, capped: bool = False) -> Scenario:
    cluster = tuple(draw(limits(sizes)) for _ in range(instances))
    # Every request fits some engine, not every engine: the last token needs no place in the cache.
    capacity = max(min(x.num_blocks * x.block_size + 1, x.max_model_len) for x in cluster)
    count = draw(st.integers(1, sizes.requests))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    longest = draw(st.integers(2, min(capacity, sizes.prompt)))
    prompt = rng.integers(1, longest, count)
    output = np.minimum(rng.integers(1, draw(st.sampled_from(sizes.outputs)), count), capacity - prompt)
    gap_s = draw(st.sampled_from([0.0, 0.003, 0.03, 0.3]))
    arrival_s = np.cumsum(rng.exponential(gap_s, count) * rng.integers(0, 2, count)) if gap_s else np.zeros(count)
    concurrency = draw(st.integers(1, min(sizes.clients, count))) if closed else 0
    # Routers with books of their own are another program: not for clients as well.
    routers = [policy for policy in RouterPolicy if not ((closed or capped) and ROUTERS[policy.name.lower()].compares)]
    if closed and draw(st.booleans()):
        arrival_s = np.zeros(count)
    return sizes.scenario(
        limits=cluster,
        arrival_s=arrival_s,
        prompt=prompt,
        output=output,
        router=draw(st.sampled_from(routers)) if instances > 1 else RouterPolicy.ROUND_ROBIN,
        concurrency=concurrency,
        think_s=draw(st.sampled_from([0.0, 0.021])) if closed else 0.0,
        max_concurrency=draw(st.integers(1, min(sizes.clients, count))) if capped else 0,
        ramp_s=draw(st.sampled_from([0.0, 0.0, 0.17])) if capped else 0.0,
        timing=Timing.drawn(draw(st.integers(0, 2**16)), sizes.tokens, sizes.sequences),
    )


@st.composite
def sharing(draw: st.DrawFn, instances: int = 1, sessions: bool = False, sizes: Sizes = SMALL) -> Scenario:
    """Scenarios with prefix caches: prompts with common beginnings, some of them equal, and calls of sessions that continue others.

    Prompts may hold the outputs of requests that still run, and, with `long_prefill_token_threshold`, requests may compute the same blocks
    at the same time.
    """
    drawn = draw(scenarios(instances=instances, sizes=sizes))
    flags = [True, *(draw(st.booleans()) for _ in drawn.limits[1:])]
    cluster = tuple(
        replace(x, enable_prefix_caching=flag, reuse_nameless_first=draw(st.booleans()))
        for x, flag in zip(drawn.limits, flags, strict=True)
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, longest = len(drawn.prompt), int(drawn.prompt.max())
    # Each trunk leaves another one somewhere.
    trunks = [rng.integers(0, 9, longest)]
    for _ in range(draw(st.integers(0, 3))):
        of, fork = trunks[rng.integers(len(trunks))], rng.integers(longest + 1)
        trunks.append(np.concatenate([of[:fork], rng.integers(0, 9, longest - fork)]))
    prompt = drawn.prompt.copy()
    if draw(st.booleans()):
        prompt[rng.random(n) < 0.4] = rng.choice(prompt)  # equal prompts, wherever they come from the same trunk
    output = np.minimum(drawn.output, int((drawn.prompt + drawn.output).max()) - prompt)
    output = np.maximum(output, 1)
    prompt = np.minimum(prompt, int((drawn.prompt + drawn.output).max()) - output)
    contents, waits, session = [], [], rng.integers(0, 4, n)
    for r in range(n):
        own = np.arange(prompt[r] + output[r]) + 1000 * (r + 1)
        common = prompt[r] if rng.random() < 0.4 else rng.integers(prompt[r] + 1)
        own[:common] = trunks[rng.integers(len(trunks))][:common]
        earlier = np.flatnonzero(session[:r] == session[r])
        few = min(len(earlier), rng.integers(1, 3)) if sessions and rng.random() < 0.7 else 0
        before = rng.choice(earlier, few, replace=False) if few else earlier[:0]
        if not len(before) and r and rng.random() < 0.3:  # the content of one that may still run, or the beginning of it
            other = contents[rng.integers(r)][: prompt[r]]
            own[: len(other)] = other
        if len(before):  # its prompt is what it waited for, or the beginning of it, and then its own
            shared = min(len(contents[before[0]]), prompt[r])
            own[:shared] = contents[before[0]][:shared]
        contents.append(own)
        waits.append(tuple((int(q), float(rng.choice([0.0, 0.021, 0.3]))) for q in before))
    recorded_s = rng.uniform(0.0, 1.5 * float(drawn.arrival_s.max()) + 0.5, n) * (rng.random(n) < 0.3)
    order = np.array(sorted(range(n), key=lambda r: len(waits[r]) > 0))  # those that wait come last
    place = np.argsort(order).tolist()
    return replace(
        drawn,
        limits=cluster,
        arrival_s=drawn.arrival_s[order],
        prompt=prompt[order],
        output=output[order],
        contents=tuple(contents[r] for r in order),
        waits=tuple(tuple((place[q], delay_s) for q, delay_s in waits[r]) for r in order) if sessions else None,
        session=session[order] if sessions else None,
        not_before_s=recorded_s[order] if sessions else None,
        weights=draw(st.sampled_from([(1.0, 1.0, 1.0), (2.0, 0.5, 0.0)])),
        staleness_s=draw(st.sampled_from([0.0, 0.0, 0.1])),
    )


@st.composite
def of_models(draw: st.DrawFn, instances: int = 3, sizes: Sizes = SMALL) -> Scenario:
    """Scenarios in which engines serve one of two models and requests name one of them or none; those that no engine of theirs can hold
    name none."""
    drawn = draw(scenarios(instances=instances, sizes=sizes) if draw(st.booleans()) else sharing(instances=instances, sizes=sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    of_engines = np.concatenate([[0, 1], rng.integers(0, 2, instances - 2)])
    named = rng.integers(-1, 2, len(drawn.prompt))
    for r, (prompt, output) in enumerate(zip(drawn.prompt.tolist(), drawn.output.tolist(), strict=True)):
        held = [prompt + output <= min(x.num_blocks * x.block_size + 1, x.max_model_len) for x in drawn.limits]
        if named[r] not in of_engines[held]:
            named[r] = -1
    return replace(drawn, models=(of_engines, named))
