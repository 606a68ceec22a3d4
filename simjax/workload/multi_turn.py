"""Synthetic conversations: each prompt is all that was said before and something new."""

from __future__ import annotations

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.contents import tree
from simjax.workload.contents.radix import from_history
from simjax.workload.sessions import from_waits
from simjax.workload.synthetic.lengths import MAX_TOKENS
from simjax.workload.transform import arrange
from simjax.workload.workload import Workload


def multi_turn(
    start_s: np.ndarray,
    turns: np.ndarray,
    first_prompt_tokens: np.ndarray,
    followup_tokens: np.ndarray,
    output_tokens: np.ndarray,
    think_s: np.ndarray,
    max_context_tokens: int | None = None,
    groups: np.ndarray | None = None,
    group_tokens: int = 0,
    source: str = "sessions",
) -> Workload:
    """Conversations of S users; N calls in all, listed session by session.

    Args:
        start_s: float64[S], when each session sends its first call, non-decreasing.
        turns: int[S], calls of each.
        first_prompt_tokens: int[S].
        followup_tokens: int[N], what a later prompt adds to the content so far; unused for first calls.
        output_tokens: int[N].
        think_s: float64[N], pause between the answer before and the call; unused for first calls.
        max_context_tokens: a session ends before the call whose prompt + output would exceed it.
        groups: int[S]; the first prompts of a group start with the same tokens.
        group_tokens: how many; a shorter prompt is all of that.
        source: the workload's name.

    Raises:
        SimjaxError: a first call alone exceeds `max_context_tokens`, or a content is beyond 2^31 - 1 tokens.
    """
    calls, firsts = int(turns.sum()), np.cumsum(turns) - turns
    session = np.repeat(np.arange(len(turns)), turns)
    first = np.zeros(calls, bool)
    first[firsts] = True
    # A prompt is the sum of what came before it in its session.
    added = np.where(first, 0, followup_tokens).astype(np.int64)
    added[firsts] = first_prompt_tokens
    grown = np.cumsum(added + output_tokens)
    total = grown - np.repeat(grown[firsts] - added[firsts] - output_tokens[firsts], turns)
    prompt = total - output_tokens
    if max_context_tokens is not None:
        fits = total <= max_context_tokens  # total rises, so what fits is the start of a session
        if (long := np.flatnonzero(first & ~fits)).size:
            raise SimjaxError(
                f"the first call of session {session[long[0]]} has {total[long[0]]} tokens, more than "
                f"max_context_tokens={max_context_tokens}; raise it, or bound prompt.max and output.max"
            )
        session, first, prompt, total = session[fits], first[fits], prompt[fits], total[fits]
        output_tokens, think_s = output_tokens[fits], think_s[fits]
    if total.max() > MAX_TOKENS:
        raise SimjaxError(f"a session grows to {total.max()} tokens; max_context_tokens ends it before")
    waits = np.flatnonzero(~first)
    starts = np.flatnonzero(first)
    turn = np.arange(len(session)) - starts[session]
    names = tuple(f"session {number}" for number in range(len(turns)))
    sessions = from_waits(session, names, turn, waits - 1, waits, think_s[waits])
    before = np.where(first, -1, np.arange(len(session)) - 1)
    shared = np.where(first, 0, total[before])
    group = None if groups is None else groups[session]
    prefixes = from_history(before, shared, total, group, np.minimum(prompt, group_tokens))
    prompt = prompt.astype(np.int32)
    workload = Workload(
        arrival_s=np.where(first, start_s[session], np.inf),
        prompt_tokens=prompt,
        output_tokens=np.asarray(output_tokens, np.int32),
        source=source,
        prefixes=tree.finish(prefixes, prompt, sessions),
        sessions=sessions,
    )
    return arrange(workload)[0].validate()
