"""Every latency of every request as a sum of parts, from the columns of requests, the hand-overs and the leap log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.engine.host.ranks import by_rank
from simjax.engine.host.result import Result
from simjax.errors import SimjaxError
from simjax.explain.clock import Clock, clocks_of
from simjax.metrics.handover.parts import handed_over

PARTS = {
    "api": "API",
    "queue": "queue",
    "kv_shortage": "queue, KV cache short",
    "prefill": "prefill",
    "others_prefill": "others' prefill in the same steps",
    "decode": "decode",
    "host": "host",
    "preempted": "preempted",
    "left_out": "left out of steps",
    "handover": "hand-over",
    "transfer": "transfer",
}
"""The parts in order, as tables and figures print them."""
NAMES = tuple(PARTS)


@dataclass(frozen=True)
class Costs:
    """What the ranks' requests and steps take whatever they hold, arrays over the N ranks.

    Attributes:
        api_pre_s, api_post_s: API time of a request before its queue, and of a token on its way back.
        host_s: host time of a step that the device waits for.
        block_size: tokens of a KV block.
    """

    api_pre_s: np.ndarray
    api_post_s: np.ndarray
    host_s: np.ndarray
    block_size: np.ndarray


@dataclass(frozen=True)
class Parts:
    """The parts of the latencies of the M finished requests, in seconds.

    Attributes:
        request: int64[M], their places in the log.
        ttft_s, e2e_s: float64[M, parts], which add up to the latency along the last axis.
        tpot_s: likewise, NaN for requests with one token.
    """

    request: np.ndarray
    ttft_s: np.ndarray
    tpot_s: np.ndarray
    e2e_s: np.ndarray


def parts_of(result: Result, costs: Costs) -> Parts:
    """Divide the latencies of a run.

    What is exact, because it is logged: API, the ends of the queue, of the prefill, of the hand-over and of the transfer. How the steps of
    a request are divided is computed from the leap log:

    - prefill: until its first token, the time of steps with prompts by the share of its own tokens in theirs; the rest of these steps is
      others' prefill;
    - afterwards, others' prefill is what steps with prompts take longer than decode-only ones, and decode is the rest;
    - host: host time of each of its steps, out of the two;
    - KV cache short: steps in which it waited and its prompt's blocks exceeded those that were free;
    - preempted, or left out by the token budget: steps that gave it no token, by their number, for the log does not say which.

    Raises:
        SimjaxError: the run has no leap log, or steps of a rank overlap or give several tokens (pp stages, speculative decoding).
    """
    if result.leaps is None:
        raise SimjaxError("explain: the run has no leap log; simulate it by simjax.run")
    result = by_rank(result)
    requests, handovers = result.requests, result.handovers
    assert result.leaps is not None
    clocks = clocks_of(result.leaps, len(costs.host_s))
    leap_ends = [_Occupied(result, i) for i in range(len(costs.host_s))]
    moved = np.zeros(len(requests.finished), bool) if handovers is None else handed_over(requests, handovers)
    place = np.flatnonzero(requests.finished)
    ttft, later = np.zeros((len(place), len(NAMES))), np.zeros((len(place), len(NAMES)))
    for row, r in enumerate(place):
        two = bool(moved[r])
        rank = int(requests.instance[r])
        first = int(handovers.prefill_instance[r]) if two and handovers is not None else rank
        pre_s, post_s = float(costs.api_pre_s[first]), float(costs.api_post_s[rank])
        scheduled_s, first_s, finish_s = (float(getattr(requests, x)[r]) for x in ("scheduled_s", "first_token_s", "finish_s"))
        queued_s = float(requests.arrival_s[r]) + pre_s
        blocks = -(-int(requests.prompt_tokens[r]) // int(costs.block_size[first]))
        short_s = leap_ends[first].short_s(queued_s, scheduled_s, blocks)
        mine = _row(api=pre_s + post_s, kv_shortage=short_s, queue=scheduled_s - queued_s - short_s)
        own = int(requests.prompt_tokens[r] - requests.cached_tokens[r])
        if two and handovers is not None:
            end_s, begin_s, landed_s = (float(getattr(handovers, x)[r]) for x in ("prefill_finish_s", "transfer_start_s", "transfer_end_s"))
            mine += _of_prefill(clocks[first], scheduled_s, end_s, own, costs.host_s[first])
            mine += _row(handover=begin_s - end_s, transfer=landed_s - begin_s)
            mine += _of_decodes(clocks[rank], landed_s, first_s - post_s, 1, costs.host_s[rank], False)
        else:
            mine += _of_prefill(clocks[rank], scheduled_s, first_s - post_s, own, costs.host_s[rank])
        ttft[row] = mine
        tokens, again = int(requests.output_tokens[r]) - 1, bool(requests.preemptions[r] > 0)
        later[row] = _of_decodes(clocks[rank], first_s - post_s, finish_s - post_s, tokens, costs.host_s[rank], again)
    gaps = (requests.output_tokens[place] - 1).astype(np.float64)[:, None]
    tpot = np.where(gaps > 0, later / np.maximum(gaps, 1.0), np.nan)
    return Parts(place, ttft, tpot, ttft + later)


def _row(**seconds: float) -> np.ndarray:
    return np.array([seconds.get(name, 0.0) for name in NAMES])


def _of_prefill(clock: Clock, start_s: float, end_s: float, own: int, host_s: float) -> np.ndarray:
    """A stretch that ends with a first token."""
    steps, busy_s, mixed_s, _, tokens = clock.between(start_s, end_s)
    span_s = end_s - start_s
    host = min(steps * host_s, mixed_s)
    share = min(own / tokens, 1.0) if tokens else 1.0
    fits = min(1.0, span_s / busy_s) if busy_s > 0 else 0.0
    prefill, others = share * (mixed_s - host) * fits, (1.0 - share) * (mixed_s - host) * fits
    return _row(prefill=prefill, others_prefill=others, host=host * fits, left_out=span_s - (prefill + others + host * fits))


def _of_decodes(clock: Clock, start_s: float, end_s: float, tokens: int, host_s: float, preempted: bool) -> np.ndarray:
    """A stretch in which a request got so many tokens."""
    steps, busy_s, _, prompts_s, _ = clock.between(start_s, end_s)
    span_s = end_s - start_s
    fits = min(1.0, span_s / busy_s) if busy_s > 0 else 0.0
    served = min(1.0, tokens / steps) * fits if steps else 0.0
    host = min(steps * host_s, busy_s - prompts_s)
    others, decode = prompts_s * served, (busy_s - prompts_s - host) * served
    waited = span_s - (others + decode + host * served)
    return _row(others_prefill=others, decode=decode, host=host * served, **{"preempted" if preempted else "left_out": waited})


class _Occupied:
    """The KV blocks of a rank over time."""

    def __init__(self, result: Result, rank: int) -> None:
        leaps = result.leaps
        assert leaps is not None
        mine = leaps.instance == rank
        self._start_s = leaps.start_s[mine]
        self._free = int(result.instances.num_blocks[rank]) - np.maximum(leaps.kv_blocks, leaps.kv_blocks_last)[mine]

    def short_s(self, start_s: float, end_s: float, blocks: int) -> float:
        """Seconds of a stretch in which so many blocks were not free."""
        first, last = np.searchsorted(self._start_s, [start_s, end_s], side="right")
        first = max(int(first) - 1, 0)
        if last <= first:
            return 0.0
        edges = np.clip(np.append(self._start_s[first:last], end_s), start_s, end_s)
        return float(np.sum(np.diff(edges)[self._free[first:last] < blocks]))
