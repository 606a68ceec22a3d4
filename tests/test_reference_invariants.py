"""Invariants of the reference simulator on any cluster and trace. Instances check themselves after every event, pools at the end."""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.routing import POLICIES
from tests.reference.simulator import RefRequest, simulate
from tests.reference.toy import instance


@dataclass(eq=False)
class Cost:
    """A step time that records the (new, computed) of every request; all times are exact in floating point."""

    batches: list[list[tuple[int, int]]] = field(default_factory=list)

    def __call__(self, batch):
        self.batches.append(batch)
        return 0.25 + 0.125 * sum(new for new, _ in batch) + 0.0625 * sum(before for _, before in batch)


DOCUMENTS = ([index % 2 for index in range(16)], [0, 0, *range(2, 16)])  # the first two differ in their second token


def contents(draw, index, length):
    """None (not shared), or the beginning of a document followed by tokens that no other request has."""
    if draw(st.integers(0, 4)) == 0:
        return None
    shared = draw(st.integers(0, length))
    return (*draw(st.sampled_from(DOCUMENTS))[:shared], *(100 * (index + 1) + place for place in range(shared, length)))


@st.composite
def clusters(draw, prefix_caching=None, sessions=False):
    """Tight instances, so that preemption, blocking and waiting are common, and traces in bursts on a grid of quarter seconds."""

    def one():
        return instance(
            num_blocks=draw(st.integers(3, 12)),
            block_size=draw(st.sampled_from([1, 2, 4])),
            max_num_seqs=draw(st.integers(1, 5)),
            max_num_batched_tokens=draw(st.integers(1, 12)),
            long_prefill_token_threshold=draw(st.sampled_from([0, 0, 1, 3])),
            reserve_full_isl=draw(st.booleans()),
            async_scheduling=draw(st.booleans()),
            api_pre_s=draw(st.sampled_from([0.0, 0.25])),
            api_post_s=draw(st.sampled_from([0.0, 0.5])),
            enable_prefix_caching=draw(st.booleans()) if prefix_caching is None else prefix_caching,
            step_time=Cost(),
        )

    instances = [one() for _ in range(draw(st.integers(1, 3)))]
    rows = draw(st.lists(st.tuples(st.integers(0, 24), st.integers(1, 9), st.integers(1, 7), st.floats(0, 0.99)), min_size=1, max_size=12))
    trace = [RefRequest(quarters / 4, *rest) for quarters, *rest in sorted(rows)]
    trace = [replace(asked, content=contents(draw, index, asked.prompt_tokens + asked.output_tokens)) for index, asked in enumerate(trace)]
    concurrency = None if sessions else draw(st.none() | st.integers(1, 4))
    if sessions:
        for index in range(1, len(trace)):
            before = draw(st.lists(st.tuples(st.integers(0, index - 1), st.sampled_from([0.0, 0.25, 1.0])), max_size=2))
            trace[index] = replace(trace[index], waits_for=tuple(before), session=draw(st.integers(-1, 1)))
    router = {
        "policy": draw(st.sampled_from(POLICIES)),
        "router_staleness_s": draw(st.sampled_from([0.0, 0.0, 1.0, 4.0])),
        **{name: draw(st.sampled_from([0.0, 0.5, 1.0])) for name in ("prefix_weight", "queue_weight", "kv_weight")},
    }
    return instances, trace, concurrency, router


def run(cluster):
    instances, trace, concurrency, router = cluster
    return simulate(instances, trace, concurrency=concurrency, think_s=0.25, **router)


def check_requests(instances, trace, result):
    for asked, got in zip(trace, result.requests, strict=True):
        assert (got.status == "rejected") == (not any(limits.serves(asked.prompt_tokens, asked.output_tokens) for limits in instances))
        if got.status == "rejected":
            continue
        assert got.status == "finished"  # with chunked prefill nothing starves
        times = got.token_times_s
        assert len(times) == asked.output_tokens and list(times) == sorted(times)
        assert got.arrival_s + instances[got.instance].api_pre_s <= got.scheduled_s < got.first_token_s == times[0]
        assert got.finish_s == times[-1]


def check_instance(limits, index, trace, result):
    steps = [step for step in result.steps if step.instance == index]
    mine = [(got.arrival_s + limits.api_pre_s, number) for number, got in enumerate(result.requests) if got.instance == index]
    started: list[int] = []
    for before, step in zip([None, *steps], steps, strict=False):
        assert sum(step.new_tokens) <= limits.max_num_batched_tokens and min(step.new_tokens) >= 1
        assert step.blocks <= limits.num_blocks and step.running <= limits.max_num_seqs
        # Every running request gets tokens: needs never grow while a request runs, so the budget that admitted it is enough.
        assert step.running == len(step.requests) == len(set(step.requests))
        assert before is None or before.end_s <= step.start_s
        busy = before is not None and before.end_s == step.start_s
        horizons = {step.start_s, before.start_s} if before and busy and limits.async_scheduling else {step.start_s}
        assert step.horizon_s in horizons
        fresh = [request for request in step.requests if request not in started]
        assert all(result.requests[request].scheduled_s == step.start_s for request in fresh)
        assert all(result.requests[request].arrival_s + limits.api_pre_s <= step.horizon_s for request in fresh)
        if (
            not busy
        ):  # work conservation: the instance idled only because all that had queued was finished, and woke at the next queue arrival
            over = [result.requests[number].finish_s - limits.api_post_s for queue_s, number in mine if queue_s < step.start_s]
            assert all(before is not None and end_s <= before.end_s for end_s in over)
            assert step.start_s == min(queue_s for queue_s, number in mine if number not in started)
        started += fresh
    # FCFS; ties in the order of routing, which is that of indices, unless a reply without delay sends a request at the instant of a step.
    queue_s = {number: queue_s for queue_s, number in mine}
    assert sorted(started) == sorted(queue_s) and [queue_s[number] for number in started] == sorted(queue_s.values())
    if not any(request.waits_for for request in trace):
        assert started == [number for _, number in sorted(mine)]


def token_ids(trace, index):
    asked = trace[index]
    return asked.content or tuple((index, place) for place in range(asked.prompt_tokens + asked.output_tokens))


def in_common(one, other):
    """Number of leading tokens that two sequences share."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def check_tokens(limits, index, trace, result):
    """Tokens are conserved: each request computes its sequence except the last token, in order, from the start or from the cached part.

    Yields (prompt tokens, hit tokens, ideal hit tokens) of every request at its first admission. The ideal hit is the longest prefix, in
    whole blocks, for which some sequence of this instance has ever been allocated blocks, up to and including the same formation, and whose
    tokens were known then: to the formation of the step that computes them, or once that step has ended.
    """

    def known(request: int, time_s: float) -> int:
        got = result.requests[request]
        return trace[request].prompt_tokens + sum(token_s - limits.api_post_s <= time_s + 1e-12 for token_s in got.token_times_s)

    def ended(request: int, time_s: float) -> int:
        return tokens - 1 if (tokens := known(request, time_s)) > trace[request].prompt_tokens else 0

    bs = limits.block_size
    at: dict[int, int] = {}  # tokens of a request after its last step
    ever: dict[int, int] = {}  # maximum so far, of known tokens
    restarts = dict.fromkeys(range(len(trace)), 0)
    steps = [step for step in result.steps if step.instance == index]
    for step, batch in zip(steps, limits.step_time.batches, strict=True):
        assert step.new_tokens == tuple(new for new, _ in batch)
        for request, (new, before) in zip(step.requests, batch, strict=True):
            if at.get(request) != before:  # an admission
                asked = trace[request]
                mine = token_ids(trace, request)
                alike = [
                    min(in_common(mine, token_ids(trace, other)), max(reached, ended(other, step.horizon_s)))
                    for other, reached in ever.items()
                ]
                first = request not in at
                longest = asked.prompt_tokens - 1 if first else asked.prompt_tokens + asked.output_tokens - 2
                ideal = min(max(alike, default=0), longest) // bs * bs if limits.enable_prefix_caching else 0
                assert before % bs == 0 and before <= ideal
                if first:
                    assert before == result.requests[request].cached_tokens
                    yield asked.prompt_tokens, before, ideal
                else:
                    restarts[request] += 1
            at[request] = before + new
            ever[request] = max(ever.get(request, 0), min(at[request], known(request, step.horizon_s)))
    for request, got in enumerate(result.requests):
        if got.instance == index:
            assert at[request] == trace[request].prompt_tokens + trace[request].output_tokens - 1
            assert restarts[request] <= got.preemptions - got.in_vain
            if not limits.enable_prefix_caching:
                assert restarts[request] == got.preemptions - got.in_vain


def check(cluster):
    instances, trace, _, _ = cluster
    result = run(cluster)
    check_requests(instances, trace, result)
    for index, limits in enumerate(instances):
        check_instance(limits, index, trace, result)
        list(check_tokens(limits, index, trace, result))
        assert limits.enable_prefix_caching or result.evictions[index] == 0
    return result


@settings(max_examples=300, deadline=None)
@given(clusters())
def test_invariants(cluster):
    check(cluster)


@settings(max_examples=200, deadline=None)
@given(clusters(prefix_caching=True, sessions=True))
def test_invariants_of_sessions(cluster):
    trace = cluster[1]
    result = check(cluster)
    answers = [got.finish_s if got.status == "finished" else got.arrival_s for got in result.requests]  # a refusal is one at once
    for asked, got in zip(trace, result.requests, strict=True):
        expected = max((answers[before] + delay_s for before, delay_s in asked.waits_for), default=asked.arrival_s)
        assert got.arrival_s == expected


@settings(max_examples=200, deadline=None)
@given(clusters(prefix_caching=True) | clusters(prefix_caching=True, sessions=True))
def test_a_pool_without_end_hits_all_there_is(cluster):
    instances, trace, concurrency, router = cluster
    instances = [replace(limits, num_blocks=300) for limits in instances]  # 12 requests of at most 15 tokens
    result = check((instances, trace, concurrency, router))
    for index, limits in enumerate(instances):
        assert all(hit == ideal for _, hit, ideal in check_tokens(limits, index, trace, result))
    assert result.evictions == [0] * len(instances)
    assert not any(got.preemptions for got in result.requests)


@settings(max_examples=100, deadline=None)
@given(clusters(prefix_caching=False))
def test_content_means_nothing_without_prefix_caching(cluster):
    instances, trace, concurrency, router = cluster
    bare = [replace(asked, content=None) for asked in trace]
    assert run(cluster) == run((instances, bare, concurrency, router))


@settings(max_examples=100, deadline=None)
@given(clusters(prefix_caching=True))
def test_private_contents_hit_only_when_preempted(cluster):
    # Without preemption the run is that of instances without a cache, but for the evictions. With it, hits may only be a request's own.
    instances, trace, concurrency, router = cluster
    bare = [replace(asked, content=None) for asked in trace]
    cached = run((instances, bare, concurrency, router))
    assert all(got.cached_tokens == 0 for got in cached.requests)
    if not any(got.preemptions for got in cached.requests):
        plain = run(([replace(limits, enable_prefix_caching=False) for limits in instances], bare, concurrency, router))
        assert plain.steps == cached.steps and plain.requests == cached.requests
