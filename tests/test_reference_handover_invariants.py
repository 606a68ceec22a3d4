"""Invariants of the reference on any cluster with prefill and decode ranks. Ranks, pools and links check themselves after every event."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.handover import CONNECTORS, RefHandover
from tests.reference.headroom import Headroom
from tests.reference.routing import POLICIES
from tests.reference.simulator import RefRequest, simulate
from tests.reference.toy import instance
from tests.test_reference_invariants import Cost, contents

PASS_S = 2.0**-6
GRID = st.sampled_from([0.0, 0.25, 1.0])


@st.composite
def ranks(draw, role):
    """Tight, so that holds, loads and preemptions get into each other's way."""
    return instance(
        role=role,
        num_blocks=draw(st.integers(3, 14)),
        block_size=draw(st.sampled_from([1, 2, 4])),
        max_num_seqs=draw(st.integers(1, 5)),
        max_num_batched_tokens=draw(st.integers(1, 12)),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 3])),
        reserve_full_isl=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
        long_prefill_alone=draw(st.booleans()),
        reserve_kv_loads=draw(st.booleans()),
        watermark_blocks=draw(st.sampled_from([0, 0, 2])),
        api_pre_s=draw(GRID),
        api_post_s=draw(GRID),
        enable_prefix_caching=draw(st.booleans()),
        step_time=Cost(),
    )


@st.composite
def handovers(draw, n):
    rules = CONNECTORS[draw(st.sampled_from(sorted(CONNECTORS)))]
    if "headroom" in rules:
        rules = rules | {"headroom": Headroom(draw(st.sampled_from([0, 2, 5])), draw(st.sampled_from([4096, 2])))}

    def table(values):
        return [[draw(values) for _ in range(n)] for _ in range(n)]

    bandwidth = st.sampled_from([1.0, 3.0, 7.0, float("inf")])
    return RefHandover(
        bytes_per_token=table(st.sampled_from([1.0, 2.0])),
        setup_s=table(st.sampled_from([0.0, 0.3])),
        per_block_s=table(st.sampled_from([0.0, 0.01])),
        path=[[(source, n + target, 2 * n, 2 * n + 1) for target in range(n)] for source in range(n)],
        capacity=[draw(bandwidth) for _ in range(2 * n + 1)] + [float("inf")],
        layers=[draw(st.sampled_from([1.0, 4.0])) for _ in range(n)],
        handover_s=draw(GRID),
        empty_pass_s=PASS_S,
        fifo=draw(st.booleans()),
        decode_first=draw(st.booleans()),
        local_prefill_tokens=draw(st.sampled_from([0, 0, 3, 6])),
        local_prefill_ratio=draw(st.sampled_from([0.5, 1e9])),
        decode_policy=draw(st.sampled_from(POLICIES)),
        **rules,
    )


@st.composite
def clusters(draw):
    roles = ["prefill", "decode", *draw(st.lists(st.sampled_from(["prefill", "decode", "both"]), max_size=3))]
    instances = [draw(ranks(role)) for role in draw(st.permutations(roles))]
    rows = draw(st.lists(st.tuples(st.integers(0, 24), st.integers(1, 9), st.integers(1, 7), st.floats(0, 0.99)), min_size=1, max_size=12))
    trace = [RefRequest(quarters / 4, *rest) for quarters, *rest in sorted(rows)]
    trace = [replace(asked, content=contents(draw, index, asked.prompt_tokens + asked.output_tokens)) for index, asked in enumerate(trace)]
    router = {"policy": draw(st.sampled_from(POLICIES)), "router_staleness_s": draw(st.sampled_from([0.0, 0.0, 1.0]))}
    return instances, trace, draw(st.none() | st.integers(1, 4)), router, draw(handovers(len(instances)))


def run(cluster):
    instances, trace, concurrency, router, rules = cluster
    return simulate(instances, trace, concurrency=concurrency, think_s=0.25, handover=rules, **router)


def check_two_legs(instances, rules, asked, got):
    """Check a request with two legs: the order of its phases, which add up to its time to first token, and the bytes that moved."""
    p, d = instances[got.prefill_instance], instances[got.instance]
    assert (p.role, d.role) == ("prefill", "decode")
    stamps = [got.arrival_s, got.scheduled_s, got.prefill_finish_s, got.transfer_start_s, got.transfer_end_s, got.first_token_s]
    assert stamps == sorted(stamps)
    assert sum(late - early for early, late in pairwise(stamps)) == pytest.approx(got.first_token_s - got.arrival_s)
    assert (got.prefill_scheduled_s, got.prefill_cached_tokens) == (got.scheduled_s, got.cached_tokens)
    assert got.scheduled_s >= got.arrival_s + p.api_pre_s
    if rules.reserve == "after":
        assert got.transfer_start_s >= got.prefill_finish_s + p.api_post_s + rules.handover_s + d.api_pre_s
    moved = d.blocks(asked.prompt_tokens) * d.block_size - got.decode_cached_tokens
    assert moved > 0 and got.transfer_bytes == moved * rules.bytes_per_token[got.prefill_instance][got.instance]
    if asked.output_tokens > 1 or not rules.carried:
        assert got.decode_scheduled_s > got.transfer_end_s


def keeps_headroom(rules, limits, asked):
    room = limits.num_blocks * limits.block_size
    return rules.headroom is None or rules.headroom.fits(asked.prompt_tokens, asked.output_tokens, room)


def check_requests(cluster, result):
    instances, trace, _, _, rules = cluster
    for asked, got in zip(trace, result.requests, strict=True):
        whole = [limits for limits in instances if limits.serves(asked.prompt_tokens, asked.output_tokens)]
        decode = any(limits.role == "decode" and keeps_headroom(rules, limits, asked) for limits in whole)
        prefill = any(limits.role == "prefill" and limits.prefills(asked.prompt_tokens) for limits in instances)
        both = any(limits.role == "both" for limits in whole) and rules.reserve != "before"
        if got.status == "rejected":
            assert not both and not (decode and prefill)
            continue
        assert got.status == "finished"  # with chunked prefill nothing starves, and the decode side never fails
        assert both or (decode and (prefill or rules.local_prefill_tokens > 0))
        assert len(got.token_times_s) == asked.output_tokens and list(got.token_times_s) == sorted(got.token_times_s)
        if got.prefill_instance >= 0:
            check_two_legs(instances, rules, asked, got)
        else:
            assert instances[got.instance].role != "prefill"
            assert (got.transfer_start_s, got.transfer_bytes, got.decode_scheduled_s) == (None, None, None)


def check_steps(cluster, result):
    """Check that each rank has one step at a time, within its limits, and computes what is its part only."""
    instances, trace = cluster[:2]
    two_legs = {index for index, got in enumerate(result.requests) if got.prefill_instance >= 0}
    for i, limits in enumerate(instances):
        steps = [step for step in result.steps if step.instance == i]
        assert all(before.end_s <= after.start_s for before, after in pairwise(steps))
        first = {}
        for step in steps:
            assert len(step.requests) <= limits.max_num_seqs and sum(step.new_tokens) <= limits.max_num_batched_tokens
            for request, new in zip(step.requests, step.new_tokens, strict=True):
                first.setdefault(request, new)
        if limits.role == "decode":
            assert all(new == 1 for request, new in first.items() if request in two_legs)
        for request in first.keys() & two_legs:
            expected = result.requests[request].prefill_instance if limits.role == "prefill" else result.requests[request].instance
            assert i == expected
        work = {}
        for step in steps:
            for request, new in zip(step.requests, step.new_tokens, strict=True):
                work[request] = work.get(request, 0) + new
        if limits.role == "prefill":
            assert all(work[request] >= trace[request].prompt_tokens - result.requests[request].cached_tokens for request in work)


def check_fcfs(cluster, result):
    """Check that on every rank nobody starts before those who came before, but for loads and what they let pass."""
    instances, rules = cluster[0], cluster[4]
    for i, limits in enumerate(instances):
        mine = [(index, got) for index, got in enumerate(result.requests) if got.status == "finished"]
        if limits.role == "prefill" and rules.reserve != "before":
            here = [(got.arrival_s, index, got.scheduled_s) for index, got in mine if got.prefill_instance == i]
        elif limits.role == "decode" and rules.reserve == "after" and not rules.fifo:
            two = [(index, got) for index, got in mine if got.instance == i and got.prefill_instance >= 0]
            here = [(got.prefill_finish_s + instances[got.prefill_instance].api_post_s, index, got.transfer_start_s) for index, got in two]
        else:
            here = [(got.arrival_s, index, got.scheduled_s) for index, got in mine if got.instance == i and limits.role == "both"]
        starts = [start_s for _, _, start_s in sorted(here)]
        assert starts == sorted(starts)


@given(clusters())
@settings(max_examples=150, deadline=None)
def test_any_cluster_with_roles(cluster):
    result = run(cluster)
    check_requests(cluster, result)
    check_steps(cluster, result)
    check_fcfs(cluster, result)


@given(clusters(), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_a_run_that_is_cut_has_the_beginning_of_the_whole_one(cluster, max_steps):
    instances, trace, concurrency, router, rules = cluster
    whole = run(cluster)
    cut = simulate(instances, trace, concurrency=concurrency, think_s=0.25, handover=rules, max_steps=max_steps, **router)
    for part, full in zip(cut.requests, whole.requests, strict=True):
        assert part.token_times_s == full.token_times_s[: len(part.token_times_s)]
        for name in ("scheduled_s", "prefill_finish_s", "transfer_start_s", "decode_scheduled_s", "finish_s"):
            assert getattr(part, name) in (None, getattr(full, name))
