"""Shorthands for toy traces: roomy instances whose steps take a second, and views of a result."""

from math import inf

from tests.reference.handover import RefHandover
from tests.reference.instance import RefInstance
from tests.reference.simulator import RefRequest, RefResult


def second(batch):
    return 1.0


def instance(**limits) -> RefInstance:
    """A roomy, synchronous instance by default."""
    roomy = {"num_blocks": 100, "block_size": 1, "max_num_seqs": 10, "max_num_batched_tokens": 100, "async_scheduling": False}
    return RefInstance(**{**roomy, "step_time": second, **limits})


def caching(**limits) -> RefInstance:
    """The same with prefix caching and blocks of 2 tokens."""
    return instance(**{"block_size": 2, "enable_prefix_caching": True, **limits})


def requests(*rows) -> list[RefRequest]:
    """Requests from rows (arrival_s, prompt_tokens, output_tokens[, uniform])."""
    return [RefRequest(*row) for row in rows]


def said(arrival_s: float, prompt: str, output: str, **more) -> RefRequest:
    """A request whose token ids are letters."""
    return RefRequest(arrival_s, len(prompt), len(output), content=tuple(map(ord, prompt + output)), **more)


def handover(ranks: int, setup_s: float = 0.0, bandwidth: float = inf, **rules) -> RefHandover:
    """Every token is a byte; every rank has a link out (its index) and one in, of `bandwidth`."""
    table = {name: [[value] * ranks] * ranks for name, value in (("bytes_per_token", 1.0), ("setup_s", setup_s), ("per_block_s", 0.0))}
    path = [[(source, ranks + target) for target in range(ranks)] for source in range(ranks)]
    links = {"path": path, "capacity": [bandwidth] * 2 * ranks, "layers": [4.0] * ranks}
    return RefHandover(**{**table, **links, "empty_pass_s": 2.0**-10, **rules})


def tokens(result: RefResult) -> list[tuple[float, ...]]:
    return [request.token_times_s for request in result.requests]


def scheduled(result: RefResult) -> list[float | None]:
    return [request.scheduled_s for request in result.requests]


def cached(result: RefResult) -> list[int]:
    return [request.cached_tokens for request in result.requests]


def arrivals(result: RefResult) -> list[float | None]:
    return [request.arrival_s for request in result.requests]


def preemptions(result: RefResult) -> list[int]:
    return [request.preemptions for request in result.requests]


def routes(result: RefResult) -> list[int]:
    return [request.instance for request in result.requests]


def batches(result: RefResult) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(step.requests, step.new_tokens) for step in result.steps]
