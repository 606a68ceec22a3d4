"""Builds the `Prefixes` and `Sessions` of a trace, in the order of its rows, from the columns that describe them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.disk.files import text_of_cell
from simjax.workload.contents import tree
from simjax.workload.contents.prefixes import Prefixes
from simjax.workload.contents.radix import from_blocks, from_history, from_keys
from simjax.workload.formats.base import TraceFormat
from simjax.workload.formats.tables.calls import DELAY, LABEL
from simjax.workload.sessions import Sessions, from_waits

Extra = dict[str, list[Any]]
"""Columns by name, with one value (or None) per request; see `simjax.workload.formats.tables.convert.Requests`."""


@dataclass(frozen=True)
class Chains:
    """The rows of a trace that continue others.

    Attributes:
        sessions: the sessions; a request without one becomes one, named after its line.
        before: int64[R], the row that each continues, which comes before it; -1 for none.
        free: bool[R], rows that wait without a recorded pause, so that their recorded arrivals count.
    """

    sessions: Sessions
    before: np.ndarray
    free: np.ndarray


def session_order(extra: Extra, fmt: TraceFormat, stamps: np.ndarray) -> np.ndarray | None:
    """int64[R], the rows such that those of each session follow each other in time; None where nothing is to be moved.

    By the column `fmt.turn`, else by the arrivals where every row of the session has one, else as in the file. The rows of other sessions
    stay at their places. Where `fmt.parent` names the row that another continues, all are put in the order of their arrivals.
    """
    if fmt.parent in extra:
        return np.argsort(stamps, kind="stable")
    if LABEL not in extra or fmt.session is None:
        return None
    numbers: dict[str, int] = {}
    rows = np.arange(len(stamps))
    session = np.array(
        [len(stamps) + i if label is None else numbers.setdefault(label, len(numbers)) for i, label in enumerate(extra[LABEL])]
    )
    key = np.asarray(extra.get(fmt.turn or "", stamps), np.float64)
    unknown = np.isin(session, session[~np.isfinite(key)])
    key = np.where(unknown, 0.0, key)
    order = np.empty(len(rows), np.int64)
    order[np.argsort(session, kind="stable")] = np.lexsort((rows, key, session))
    return None if np.array_equal(order, rows) else order


def chains(extra: Extra, fmt: TraceFormat, lines: np.ndarray) -> Chains | None:
    """The sessions of a trace in which each request waits for the one before it; None when no row names a session, or none continues."""
    if fmt.parent in extra:
        return _by_parents(extra, fmt, lines)
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
    pause = np.array(extra[DELAY], np.float64)
    delay_s = pause[before[waits]] if fmt.session is None else pause[waits]  # given as the pause after a call, or before one
    names = tuple(text_of_cell(label) if isinstance(label, str) else label[1] for label in numbers)
    free = np.zeros(len(labels), bool)
    free[waits] = np.isnan(delay_s) & (fmt.session is not None)
    return Chains(from_waits(session, names, turn, before[waits], waits, np.nan_to_num(delay_s)), before, free)


def _by_parents(extra: Extra, fmt: TraceFormat, lines: np.ndarray) -> Chains | None:
    """Sessions of requests that name the one that they continue, of which several may continue the same; rows in order of arrival."""
    calls, parents = extra.get(fmt.call or "", [None] * len(lines)), extra[fmt.parent or ""]
    rows: dict[object, int] = {}
    before, session, turn = (np.zeros(len(lines), np.int64) for _ in range(3))
    sizes: list[int] = []
    for i, (call, parent) in enumerate(zip(calls, parents, strict=True)):
        before[i] = -1 if parent is None else rows.get(parent, -1)
        session[i] = len(sizes) if before[i] < 0 else session[before[i]]
        sizes += [0] if before[i] < 0 else []
        turn[i] = sizes[session[i]]
        sizes[session[i]] += 1
        if call is not None:
            rows[call] = i
    waits = np.flatnonzero(before >= 0)
    if not len(waits):
        return None
    names = tuple(f"line {lines[i]}" if calls[i] is None else text_of_cell(str(calls[i])) for i in np.flatnonzero(before < 0))
    return Chains(from_waits(session, names, turn, before[waits], waits, np.zeros(len(waits))), before, before >= 0)


def whole_prompts(
    extra: Extra, fmt: TraceFormat, chained: Chains, prompt_tokens: np.ndarray, output_tokens: np.ndarray
) -> tuple[np.ndarray, Extra]:
    """The prompts of a format whose later rows count only what they add to the prompts and outputs before them.

    A row whose block ids are as many as its number asks for has either all of its prompt in them, if they start with those of the row
    before, or only what it adds; ids of the latter kind say nothing about the start of the prompt and are left out.

    Returns:
        int64[R], the tokens of the whole prompts, and the columns without such ids.
    """
    whole = prompt_tokens.astype(np.int64)
    ids = list(extra.get(fmt.prompt_ids or "", [None] * len(whole)))
    left_out = []
    for i in np.flatnonzero(chained.before >= 0).tolist():
        j = int(chained.before[i])
        own = ids[i] is not None and len(ids[i]) == -(-int(whole[i]) // fmt.tokens_per_id)
        full = 0 if ids[j] is None else int(whole[j]) // fmt.tokens_per_id
        if own and full and np.array_equal(ids[i][:full], ids[j][:full]):
            continue
        whole[i] += whole[j] + output_tokens[j]
        left_out += [i] if own and len(ids[i]) != -(-int(whole[i]) // fmt.tokens_per_id) else []
    for i in left_out:
        ids[i] = None
    return whole, {**extra, fmt.prompt_ids: ids} if left_out and fmt.prompt_ids is not None else extra


def prefixes(
    extra: Extra, fmt: TraceFormat, prompt_tokens: np.ndarray, output_tokens: np.ndarray, chained: Chains | None
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
    waiting = None if chained is None else chained.sessions
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
    assert chained is not None
    parts = []
    by_id, by_history = np.flatnonzero(~continues), np.flatnonzero(continues)
    if len(by_id):
        parts.append(from_blocks([ids[i] for i in by_id], fmt.tokens_per_id, known[by_id], total[by_id]))
    place = np.full(n, -1, np.int64)  # among those by_history, and -1 at the end for those that continue none
    place[by_history] = np.arange(len(by_history))
    before = np.append(place, -1)[chained.before[by_history]]
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
