"""Builds the `Prefixes` and `Sessions` of a trace, in the order of its rows, from the columns that describe them."""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.files import text_of_cell
from simjax.workload.contents import tree
from simjax.workload.contents.prefixes import Prefixes
from simjax.workload.contents.radix import from_blocks, from_history, from_keys
from simjax.workload.formats.base import TraceFormat
from simjax.workload.formats.tables.calls import DELAY, LABEL
from simjax.workload.sessions import Sessions, from_waits

Extra = dict[str, list[Any]]
"""Columns by name, with one value (or None) per request; see `simjax.workload.formats.tables.convert.Requests`."""


def sessions(extra: Extra, fmt: TraceFormat, lines: np.ndarray) -> Sessions | None:
    """Sessions in which each request waits for the one before it; a request without a session becomes one, named after its line.

    None when no row names a session.
    """
    if LABEL not in extra:
        return None
    labels = [(int(line), f"line {line}") if label is None else label for label, line in zip(extra[LABEL], lines, strict=True)]
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    session = np.array([numbers[label] for label in labels])
    before = _before(session)
    waits = np.flatnonzero(before >= 0)
    turn = np.zeros(len(labels), np.int64)
    for i in waits.tolist():
        turn[i] = turn[before[i]] + 1
    pause = np.array(extra.get(DELAY, np.zeros(len(labels))))
    delay_s = pause[before[waits]] if fmt.session is None else pause[waits]  # given as the pause after a call, or before one
    names = tuple(text_of_cell(label) if isinstance(label, str) else label[1] for label in numbers)
    return from_waits(session, names, turn, before[waits], waits, delay_s)


def prefixes(
    extra: Extra, fmt: TraceFormat, prompt_tokens: np.ndarray, output_tokens: np.ndarray, waiting: Sessions | None
) -> Prefixes | None:
    """The prefixes that requests share according to keys, ids or the course of conversations; None when the trace has none of these."""
    total = prompt_tokens.astype(np.int64) + output_tokens
    n = len(total)
    if fmt.prefix_key in extra:
        shared = extra.get(fmt.prefix_tokens or "", [None] * n)
        tokens = [p if t is None else min(p, t) for p, t in zip(prompt_tokens.tolist(), shared, strict=True)]
        return from_keys(extra[fmt.prefix_key], np.array(tokens), total)
    prompt_ids = extra.get(fmt.prompt_ids or "", [None] * n)
    output_ids = extra.get(fmt.output_ids or "", [None] * n)
    with_ids = np.array([ids is not None for ids in prompt_ids])
    continues = np.zeros(n, bool)
    if waiting is not None:
        # A session that lacks the ids of some of its prompts is assumed to be a continuing conversation.
        lacks_ids = np.bincount(waiting.session, ~with_ids) > 0
        continues = (lacks_ids & (np.bincount(waiting.session) > 1))[waiting.session]
    if not (with_ids.any() or continues.any()):
        return None
    ids, known = [], np.zeros(n, np.int64)
    for i, (in_prompt, in_output) in enumerate(zip(prompt_ids, output_ids, strict=True)):
        ids.append(np.zeros(0, np.int64) if in_prompt is None else in_prompt)
        known[i] = min(len(ids[i]) * fmt.tokens_per_id, prompt_tokens[i])
        if in_output is not None and known[i] == prompt_tokens[i]:
            ids[i] = np.concatenate([ids[i][: prompt_tokens[i]], in_output])
            known[i] = min(len(ids[i]), total[i])
    if not continues.any():
        return from_blocks(ids, fmt.tokens_per_id, known, total)
    assert waiting is not None
    parts = []
    by_id, by_history = np.flatnonzero(~continues), np.flatnonzero(continues)
    if len(by_id):
        parts.append(from_blocks([ids[i] for i in by_id], fmt.tokens_per_id, known[by_id], total[by_id]))
    before = _before(waiting.session[by_history])
    parts.append(conversation(before, prompt_tokens[by_history], output_tokens[by_history]))
    return tree.take(tree.join(parts), np.argsort(np.concatenate([by_id, by_history])))


def conversation(before: np.ndarray, prompt_tokens: np.ndarray, output_tokens: np.ndarray) -> Prefixes:
    """Prefixes of prompts that start with the whole content of request `before` (int[R], -1 for none), as far as their lengths allow."""
    total = prompt_tokens.astype(np.int64) + output_tokens
    shared = np.where(before < 0, 0, np.minimum(prompt_tokens, total[before]))
    return from_history(before, shared, total)


def _before(session: np.ndarray) -> np.ndarray:
    """int64[R]: the last earlier request of the same session, -1 for its first."""
    order = np.argsort(session, kind="stable")
    before = np.full(len(session), -1, np.int64)
    same = session[order[1:]] == session[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    return before
