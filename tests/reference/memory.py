"""Steps with weights outside the devices, and with attention in memory that computes, one event after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def streamed_step_s(
    computes: Sequence[float], copies: Mapping[int, Mapping[int, float]], latencies: Sequence[float], prefetch: int | None
) -> float:
    """When a step ends that computes unit after unit, some of which must have been copied.

    Args:
        computes: seconds of each unit.
        copies: of units that are copied, seconds by store. Each store copies one unit after another, in their order.
        latencies: of each store, before the first byte of a copy that does not follow another one without a pause.
        prefetch: units that are copied ahead of the one that computes; None for as many as there are.
    """
    order = sorted(copies)
    free = list(latencies)  # of each store: when its next byte may come
    done: dict[int, float] = {}
    now = 0.0
    for unit, seconds in enumerate(computes):
        if unit in copies:
            j = order.index(unit)
            buffer = done[order[j - prefetch - 1]] if prefetch is not None and j > prefetch else 0.0
            for store, copy_s in copies[unit].items():
                free[store] = max(free[store], buffer + latencies[store]) + copy_s
            now = max(now, *(free[store] for store in copies[unit]))
        now += seconds
        done[unit] = now
    return now


def missed_experts(popularity: Sequence[float], top_k: int, kept: int, tokens: int) -> float:
    """Experts of a layer that a step must copy, expected: token after token, each expert by itself, of those that the device does not keep.

    Args:
        popularity: share of each expert in the choices of all tokens; they sum to 1.
        top_k: experts that a token chooses.
        kept: experts that the device keeps, the most popular ones.
        tokens: of the step.
    """
    missing = 0.0
    for share in sorted(popularity, reverse=True)[kept:]:
        untouched = 1.0
        for _ in range(tokens):
            untouched *= 1.0 - top_k * share
        missing += 1.0 - untouched
    return missing


def channels_s(contexts: Sequence[int], channels: int, pieces: int, token_s: float, request_s: float) -> float:
    """Decode attention of one layer on channels that work side by side, as LLMServingSim places it.

    Longest context first, every piece of a request goes to the channel with the fewest tokens.

    Args:
        contexts: of the requests, tokens.
        channels: of a rank.
        pieces: of each request.
        token_s, request_s: of a request in one channel: for each token of its context, and whatever it is.
    """
    tokens, busy_s = [0] * channels, [0.0] * channels
    for context in sorted(contexts, reverse=True):
        for _ in range(pieces):
            least = tokens.index(min(tokens))
            tokens[least] += context
            busy_s[least] += (token_s * context + request_s) / pieces
    return max(busy_s)


def halves_s(first_s: float, second_s: float, attention_s: float) -> float:
    """A step of two halves on one device: the second one computes after the first, whose attention has begun in memory by then."""
    device = first_s
    in_memory = device + attention_s
    device += second_s
    return max(device, in_memory)
