"""Short hands for toy traces: roomy instances whose step takes a second, and views of a result."""

from tests.reference.instance import RefInstance
from tests.reference.simulator import RefRequest, RefResult


def second(batch):
    return 1.0


def instance(**limits) -> RefInstance:
    """Roomy and synchronous, unless told otherwise."""
    roomy = {"num_blocks": 100, "block_size": 1, "max_num_seqs": 10, "max_num_batched_tokens": 100, "async_scheduling": False}
    return RefInstance(**{**roomy, "step_time": second, **limits})


def requests(*rows) -> list[RefRequest]:
    """Rows of (arrival_s, prompt_tokens, output_tokens[, uniform])."""
    return [RefRequest(*row) for row in rows]


def tokens(result: RefResult) -> list[tuple[float, ...]]:
    return [request.token_times_s for request in result.requests]


def scheduled(result: RefResult) -> list[float | None]:
    return [request.scheduled_s for request in result.requests]


def preemptions(result: RefResult) -> list[int]:
    return [request.preemptions for request in result.requests]


def routes(result: RefResult) -> list[int]:
    return [request.instance for request in result.requests]


def batches(result: RefResult) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(step.requests, step.new_tokens) for step in result.steps]
