"""What holds of the reference simulator on any cluster and trace."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.simulator import RefRequest, simulate
from tests.reference.toy import instance


@st.composite
def clusters(draw):
    """Tight instances, so that preemption, blocking and waiting are common, and traces in bursts on a grid of quarter seconds."""

    def cost(batch):
        return 0.25 + 0.125 * sum(new for new, _ in batch) + 0.0625 * sum(before for _, before in batch)

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
            step_time=cost,
        )

    instances = [one() for _ in range(draw(st.integers(1, 3)))]
    rows = draw(st.lists(st.tuples(st.integers(0, 24), st.integers(1, 9), st.integers(1, 7), st.floats(0, 0.99)), min_size=1, max_size=12))
    trace = [RefRequest(quarters / 4, *rest) for quarters, *rest in sorted(rows)]
    policy = draw(st.sampled_from(["round_robin", "random", "least_loaded", "least_kv"]))
    concurrency = draw(st.none() | st.integers(1, 4))
    return instances, trace, policy, concurrency


def check_requests(instances, trace, result):
    for index, (asked, got) in enumerate(zip(trace, result.requests, strict=True)):
        assert (got.status == "rejected") == (not any(limits.serves(asked.prompt_tokens, asked.output_tokens) for limits in instances))
        if got.status == "rejected":
            continue
        assert got.status == "finished"  # with chunked prefill nothing starves
        times = got.token_times_s
        assert len(times) == asked.output_tokens and list(times) == sorted(times)
        assert got.arrival_s + instances[got.instance].api_pre_s <= got.scheduled_s < got.first_token_s == times[0]
        assert got.finish_s == times[-1]
        # Tokens are conserved: what was computed is the sequence without its last token, plus what preemption threw away.
        computed = sum(
            new for step in result.steps for request, new in zip(step.requests, step.new_tokens, strict=True) if request == index
        )
        needed = asked.prompt_tokens + asked.output_tokens - 1
        assert computed == needed if got.preemptions == 0 else computed > needed


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
        ):  # work conservation: the engine idled only because all that had queued was finished, and woke at the next queue arrival
            over = [result.requests[number].finish_s - limits.api_post_s for queue_s, number in mine if queue_s < step.start_s]
            assert all(before is not None and end_s <= before.end_s for end_s in over)
            assert step.start_s == min(queue_s for queue_s, number in mine if number not in started)
        started += fresh
    assert started == [number for _, number in sorted(mine)]  # FCFS, ties in the order of routing


@settings(max_examples=300, deadline=None)
@given(clusters())
def test_invariants(cluster):
    instances, trace, policy, concurrency = cluster
    result = simulate(instances, trace, policy, concurrency, think_s=0.25)
    check_requests(instances, trace, result)
    for index, limits in enumerate(instances):
        check_instance(limits, index, trace, result)
