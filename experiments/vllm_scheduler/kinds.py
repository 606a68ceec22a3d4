"""Scenarios of one engine that share contents: small ones of many kinds, long prompts, sessions, and a loaded server of ordinary size.

A scenario is drawn from its kind, a number and a seed, and is the same whatever else is drawn. Odd numbers schedule asynchronously.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from tests.engine.pipelined import Pipelined
from tests.engine.prioritized import Prioritized
from tests.engine.scenario import Limits, Scenario, Timing
from tests.engine.speculating import MOST_DRAFTS, Speculating

TOKENS, SEATS, REQUESTS = 8192, 64, 30
"""Sizes of the tables of step times, and of scenarios; a loaded server has more requests."""
SMALL_SEATS = 16
FRESH = 10_000  # token ids below are those of common beginnings


@dataclass(frozen=True)
class Kind:
    """What the scenarios of a kind have in common.

    Attributes:
        caching: a prefix cache, and prompts with common beginnings.
        tight: a KV cache that hardly holds the longest request.
        reserve: whether the whole sequence must fit at admission; None: in some.
        chunked: whether prompts may be split.
        threshold: a `long_prefill_token_threshold`.
        edges: many requests of one token, and of the longest that the model takes.
        equal: many equal prompts.
        outputs: prompts that go on where an earlier request's output ends.
        long: prompts of up to 4,000 tokens.
        as_: priorities, pp stages or drafts in addition.
    """

    caching: bool = False
    tight: bool = False
    reserve: bool | None = None
    chunked: bool = True
    threshold: bool = False
    edges: bool = False
    equal: bool = False
    outputs: bool = False
    long: bool = False
    as_: str = ""


KINDS = {
    "roomy": Kind(),
    "tight": Kind(tight=True),
    "no_isl_reservation": Kind(tight=True, reserve=False),
    "no_chunks": Kind(tight=True, chunked=False),
    "threshold": Kind(tight=True, threshold=True),
    "edges": Kind(tight=True, edges=True),
    "long": Kind(tight=True, long=True),
    "cache": Kind(caching=True),
    "cache_tight": Kind(caching=True, tight=True),
    "cache_equal": Kind(caching=True, equal=True),
    "cache_outputs": Kind(caching=True, tight=True, outputs=True),
    "cache_threshold": Kind(caching=True, tight=True, threshold=True),
    "long_cache": Kind(caching=True, tight=True, outputs=True, long=True),
    "cache_priority": Kind(caching=True, tight=True, outputs=True, as_="priority"),
    "cache_pipeline": Kind(caching=True, tight=True, outputs=True, as_="pipeline"),
    "cache_speculation": Kind(caching=True, tight=True, outputs=True, as_="speculation"),
}
SERVERS = ("sessions", "saturated", "replayed")
"""Conversations: a few small ones, and those on a loaded server, whose calls wait for each other or come by the clock as in a trace."""
SIXTEEN = (*(name for name, kind in KINDS.items() if not kind.as_), *SERVERS)
"""The kinds without priorities, pp stages and drafts."""


def drawn(name: str, number: int, seed: int) -> Scenario:
    """The scenario of a kind that has this number."""
    if name == "sessions":
        return _sessions(np.random.default_rng([seed, 98, number]), number)
    if name in SERVERS:
        return _server(np.random.default_rng([seed, 99, number]), number, by_clock=name == "replayed")
    rng = np.random.default_rng([seed, list(KINDS).index(name), number])
    return _with_more(rng, _requests(rng, KINDS[name], number), KINDS[name])


def _requests(rng: np.random.Generator, kind: Kind, number: int) -> Scenario:
    """Requests that wait for nobody."""
    count = int(rng.integers(2, 12 if kind.long else REQUESTS + 1))
    block = int(rng.choice([16, 32, 64] if kind.long else [1, 2, 3, 4, 7, 16]))
    longest = int(rng.integers(1000, 4001) if kind.long else rng.integers(4, 61))
    prompt = rng.integers(1, longest, count)
    output = rng.integers(1, int(rng.choice([2, 12, 40, 300] if kind.long else [2, 12, 40])), count)
    if kind.equal:
        prompt = rng.choice(prompt[: max(1, count // 4)], count)
    if kind.edges:
        output = np.where(rng.random(count) < 0.3, 1, output)
        prompt = np.where(rng.random(count) < 0.2, 1, prompt)
    contents = _contents(rng, kind, prompt, output) if kind.caching else None
    limits = _limits(rng, kind, number, int((prompt + output).max()), longest, block)
    gap_s = float(rng.choice([0.0, 0.003, 0.03, 0.3]))
    arrival_s = np.cumsum(rng.exponential(gap_s, count) * rng.integers(0, 2, count)) if gap_s else np.zeros(count)
    timing = _timing(rng, 1 / 30 if kind.long else 1.0)
    return Scenario((limits,), arrival_s, prompt, output, timing=timing, contents=contents)


def _limits(rng: np.random.Generator, kind: Kind, number: int, total: int, longest: int, block: int) -> Limits:
    least, seats = -(-(total - 1) // block), int(rng.integers(1, SMALL_SEATS + 1))
    budget = int(rng.integers(64, 2049) if kind.long else rng.integers(1, 65)) if kind.chunked else total
    model_len = total if kind.edges or not kind.chunked else int(rng.choice([total, total + 7, 8000]))
    return Limits(
        num_blocks=max(1, int(least * rng.choice([1.0, 1.2, 2.0] if kind.tight else [3.0, 8.0])) + int(rng.integers(0, 3))),
        block_size=block,
        max_num_seqs=seats,
        max_num_batched_tokens=max(seats, budget),
        long_prefill_token_threshold=int(rng.integers(1, max(2, longest // 2))) if kind.threshold else 0,
        max_model_len=max(2, model_len),
        enable_chunked_prefill=kind.chunked,
        reserve_full_isl=bool(rng.random() < 0.8) if kind.reserve is None else kind.reserve,
        async_scheduling=bool(number % 2),
        enable_prefix_caching=kind.caching,
    )


def _timing(rng: np.random.Generator, scale: float) -> Timing:
    """Irregular numbers, so that two different schedules never take the same time."""
    a, b, c, d, e, f = rng.uniform(0.5, 1.5, 6).tolist()
    tables = (1.1e-3 * scale * a * np.arange(TOKENS + 1), 3.1e-4 * b * np.arange(SEATS + 1))
    return Timing(*tables, (3e-3 * c, 2e-4 * d, 1.3e-5 * e), (5e-3 * f, 4e-5 * e))


def _contents(rng: np.random.Generator, kind: Kind, prompt: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, ...]:
    """Prompts that begin as one of a few trunks, which fork from each other, or as a prompt with its output."""
    longest = int(prompt.max())
    trunks = [rng.integers(0, 9, longest)]
    for _ in range(int(rng.integers(0, 4))):
        of, fork = trunks[rng.integers(len(trunks))], rng.integers(longest + 1)
        trunks.append(np.concatenate([of[:fork], rng.integers(0, 9, longest - fork)]))
    contents: list[np.ndarray] = []
    for before, after in zip(prompt.tolist(), output.tolist(), strict=True):
        own = np.arange(before + after) + FRESH * (len(contents) + 1)
        common = before if rng.random() < (0.9 if kind.equal else 0.4) else int(rng.integers(before + 1))
        own[:common] = trunks[rng.integers(len(trunks))][:common]
        if kind.outputs and contents and rng.random() < 0.6:
            earlier = contents[rng.integers(len(contents))][:before]
            own[: len(earlier)] = earlier
        contents.append(own)
    return tuple(contents)


def _with_more(rng: np.random.Generator, scenario: Scenario, kind: Kind) -> Scenario:
    """The scenario with priorities, pp stages or drafts."""
    fields = {x.name: getattr(scenario, x.name) for x in dataclasses.fields(scenario)}
    if kind.as_ == "priority":
        levels = int(rng.choice([1, 2, 3, len(scenario.prompt)]))
        return Prioritized(**fields, priority=rng.integers(0, levels, len(scenario.prompt)))
    if kind.as_ == "pipeline":
        stages = int(rng.integers(1, 4))
        more = {"send_s": (0.0, 0.0) if rng.random() < 0.5 else (7e-4, 3e-5), "empty_pass_s": float(rng.choice([0.0, 1e-3, 7e-3]))}
        own = tuple(_timing(rng, 1.0) for _ in range(stages))
        return Pipelined(**fields, stages=(stages,), broadcast_s=float(rng.choice([0.0, 4e-4])), own=own, **more)
    if kind.as_ == "speculation":
        drafts, rates = int(rng.integers(0, MOST_DRAFTS + 1)), np.sort(rng.choice([0.0, 0.2, 0.5, 0.8, 1.0], MOST_DRAFTS))[::-1]
        lookahead = int(rng.choice([0, drafts]))
        more = {"rates": tuple(rates.tolist()), "seed": int(rng.integers(2**16))}
        return _with_room(Speculating(**fields, drafts=(drafts,), lookahead=(lookahead,), **more))
    return scenario


def _with_room(scenario: Speculating) -> Speculating:
    """The scenario with blocks for the drafts of its longest request."""
    (limits,), (instance,) = scenario.limits, scenario.reference_instances()
    assert instance.speculation is not None
    each = zip(scenario.prompt.tolist(), scenario.output.tolist(), strict=True)
    most = max(instance.speculation.most_slots(prompt, output, limits.async_scheduling) for prompt, output in each)
    num_blocks = max(limits.num_blocks, instance.blocks(min(most, limits.max_model_len)))
    return dataclasses.replace(scenario, limits=(dataclasses.replace(limits, num_blocks=num_blocks),))


@dataclass(frozen=True)
class _Call:
    """A call of a conversation: its content goes on with that of the call before."""

    turn: int
    arrival_s: float
    content: np.ndarray
    prompt: int
    session: int


def _server(rng: np.random.Generator, number: int, by_clock: bool) -> Scenario:
    """60 conversations of up to 5 calls with a few system prompts, on an engine whose KV cache is too small for its batch."""
    seats, systems = SEATS, [rng.integers(0, 9, 250) for _ in range(4)]
    starts_s = np.cumsum(rng.exponential(float(rng.choice([0.05, 0.1, 0.2])), 60)).tolist()
    pause_s = float(rng.choice([0.1, 1.0]))
    calls: list[_Call] = []
    for session, start_s in enumerate(starts_s):
        content = systems[rng.integers(4)]
        for turn in range(int(rng.integers(1, 6))):
            fresh, after = int(np.clip(rng.lognormal(4.5, 0.8), 5, 800)), int(np.clip(rng.lognormal(4.2, 0.8), 1, 600))
            before = len(content) + fresh
            content = np.concatenate([content, np.arange(fresh + after) + FRESH * (len(calls) + 1)])
            calls.append(_Call(turn, start_s + turn * pause_s * by_clock, content, before, session))
    scenario = _by_clock(calls) if by_clock else _in_turns(rng, calls, pause_s)
    total = int((scenario.prompt + scenario.output).max())
    limits = Limits(
        num_blocks=int(-(-total // 16) * rng.choice([3.0, 5.0, 8.0])),
        block_size=16,
        max_num_seqs=seats,
        max_num_batched_tokens=2048,
        max_model_len=total,
        async_scheduling=bool(number % 2),
        enable_prefix_caching=True,
    )
    tables = (3.7e-5 * np.arange(TOKENS + 1), 2.1e-5 * np.arange(seats + 1))
    return dataclasses.replace(scenario, limits=(limits,), timing=Timing(*tables, (7.3e-3, 1.3e-5, 4.9e-8), (9.1e-3, 5.3e-8)))


def _sessions(rng: np.random.Generator, number: int) -> Scenario:
    """Few small conversations on an engine with little room."""
    like = _requests(rng, KINDS["cache_tight"], number)
    assert like.contents is not None
    calls: list[_Call] = []
    for session in range(int(rng.integers(2, 9))):
        content, start_s = like.contents[session % len(like.contents)][: int(rng.integers(1, 9))], float(rng.uniform(0, 0.2))
        for turn in range(int(rng.integers(1, 4))):
            fresh, after = int(rng.integers(1, 15)), int(rng.integers(1, 20))
            before = len(content) + fresh
            content = np.concatenate([content, np.arange(fresh + after) + FRESH * (len(calls) + 100)])
            calls.append(_Call(turn, start_s, content, before, session))
    scenario = _in_turns(rng, calls, 0.05)
    (limits,), total = like.limits, int((scenario.prompt + scenario.output).max())
    num_blocks = max(1, int(-(-(total - 1) // limits.block_size) * rng.choice([1.0, 1.3, 2.0, 4.0])))
    return dataclasses.replace(
        scenario, limits=(dataclasses.replace(limits, num_blocks=num_blocks, max_model_len=total),), timing=like.timing
    )


def _by_clock(calls: list[_Call]) -> Scenario:
    return _as_scenario(sorted(calls, key=lambda call: call.arrival_s))


def _in_turns(rng: np.random.Generator, calls: list[_Call], pause_s: float) -> Scenario:
    """First those that wait for nobody, in order of arrival, then the others."""
    order = sorted(range(len(calls)), key=lambda k: (calls[k].turn > 0, calls[k].arrival_s, calls[k].turn))
    place = {old: new for new, old in enumerate(order)}
    waits = tuple(((place[old - 1], float(rng.uniform(0.2, 1.8) * pause_s)),) if calls[old].turn else () for old in order)
    session = np.array([calls[old].session for old in order], np.int32)
    return dataclasses.replace(_as_scenario([calls[old] for old in order]), waits=waits, session=session)


def _as_scenario(calls: list[_Call]) -> Scenario:
    prompt, total = np.array([call.prompt for call in calls]), np.array([len(call.content) for call in calls])
    arrival_s = np.array([call.arrival_s for call in calls])
    return Scenario((), arrival_s, prompt, total - prompt, contents=tuple(call.content for call in calls))
