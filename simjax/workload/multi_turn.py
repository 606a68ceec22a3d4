"""Synthetic conversations: each prompt is everything said so far plus a new part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.contents import tree
from simjax.workload.contents.radix import from_history
from simjax.workload.sessions import from_waits
from simjax.workload.synthetic.lengths import MAX_TOKENS
from simjax.workload.transform import arrange
from simjax.workload.workload import Workload


@dataclass(frozen=True)
class Conversations:
    """The random draws that define S sessions with N calls in all, listed session by session.

    Attributes:
        start_s: float64[S], time at which each session sends its first call, non-decreasing.
        turns: int[S], number of calls per session.
        first_prompt_tokens: int[S], prompt tokens of the first call of each session.
        followup_tokens: int[N], tokens that a later prompt adds to the content so far; unused for first calls.
        output_tokens: int[N], output tokens of each call.
        think_s: float64[N], pause in seconds between the previous answer and the call; unused for first calls.
        groups: int[S], group of each session: first prompts of the same group start with the same tokens. None: they share nothing.
        group_tokens: number of tokens shared within a group; a shorter prompt is shared as a whole.
    """

    start_s: np.ndarray
    turns: np.ndarray
    first_prompt_tokens: np.ndarray
    followup_tokens: np.ndarray
    output_tokens: np.ndarray
    think_s: np.ndarray
    groups: np.ndarray | None = None
    group_tokens: int = 0


def multi_turn(conversations: Conversations, max_context_tokens: int | None = None, source: str = "sessions") -> Workload:
    """The workload of `conversations`.

    Args:
        conversations: the sessions.
        max_context_tokens: limit of the context: a session ends before the call whose prompt + output would exceed it.
        source: name of the workload.

    Raises:
        SimjaxError: a first call alone exceeds `max_context_tokens`, or a content exceeds 2^31 - 1 tokens.
    """
    turns, output_tokens, think_s = conversations.turns, conversations.output_tokens, conversations.think_s
    session = np.repeat(np.arange(len(turns)), turns)
    first = np.zeros(len(session), bool)
    first[np.cumsum(turns) - turns] = True
    total = _total_tokens(conversations, first)
    if max_context_tokens is not None:
        fits = total <= max_context_tokens  # total rises, so the calls that fit are the start of a session
        if (long := np.flatnonzero(first & ~fits)).size:
            raise SimjaxError(
                f"the first call of session {session[long[0]]} has {total[long[0]]} tokens, more than "
                f"max_context_tokens={max_context_tokens}; raise it, or bound prompt.max and output.max"
            )
        session, first, total, output_tokens, think_s = (values[fits] for values in (session, first, total, output_tokens, think_s))
    if total.max() > MAX_TOKENS:
        raise SimjaxError(f"a session grows to {total.max()} tokens; max_context_tokens ends it before")
    prompt = total - output_tokens
    calls = np.arange(len(session))
    waits = np.flatnonzero(~first)
    turn = calls - np.flatnonzero(first)[session]
    names = tuple(f"session {number}" for number in range(len(turns)))
    sessions = from_waits(session, names, turn, waits - 1, waits, think_s[waits])
    before = np.where(first, -1, calls - 1)
    group = None if conversations.groups is None else conversations.groups[session]
    prefixes = from_history(before, np.where(first, 0, total[before]), total, group, np.minimum(prompt, conversations.group_tokens))
    prompt = prompt.astype(np.int32)
    workload = Workload(
        arrival_s=np.where(first, conversations.start_s[session], np.inf),
        prompt_tokens=prompt,
        output_tokens=np.asarray(output_tokens, np.int32),
        source=source,
        prefixes=tree.finish(prefixes, prompt, sessions),
        sessions=sessions,
        stationary=True,
    )
    return arrange(workload)[0].validate()


def _total_tokens(conversations: Conversations, first: np.ndarray) -> np.ndarray:
    """int64[N]: prompt + output of each call, the sum of all that its session has added so far; `first` marks first calls (bool[N])."""
    prompt_growth = np.where(first, 0, conversations.followup_tokens).astype(np.int64)
    prompt_growth[first] = conversations.first_prompt_tokens
    growth = prompt_growth + conversations.output_tokens
    running = np.cumsum(growth)
    return running - np.repeat(running[first] - growth[first], conversations.turns)
