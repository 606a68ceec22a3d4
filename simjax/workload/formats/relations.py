"""From the columns that tell about sharing and waiting to the `Prefixes` and `Sessions` of a trace, in the order of its rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.workload.contents import tree
from simjax.workload.contents.prefixes import Prefixes
from simjax.workload.contents.radix import from_blocks, from_history, from_keys
from simjax.workload.formats.base import TraceFormat
from simjax.workload.formats.calls import DELAY, LABEL
from simjax.workload.sessions import Sessions, from_waits

Extra = dict[str, list[Any]]
"""Columns by name, a value (or None) a request; see `simjax.workload.formats.convert.Requests`."""


def sessions(extra: Extra, fmt: TraceFormat, lines: np.ndarray) -> Sessions | None:
    """Each request of a session waits for the one before it; a request of none is a session of its own, named after its line."""
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
    delay_s = pause[before[waits]] if fmt.session is None else pause[waits]  # stated after a call, or before one
    names = tuple(label if isinstance(label, str) else label[1] for label in numbers)
    return from_waits(session, names, turn, before[waits], waits, delay_s)


def prefixes(
    extra: Extra, fmt: TraceFormat, prompt_tokens: np.ndarray, output_tokens: np.ndarray, waiting: Sessions | None
) -> Prefixes | None:
    """What the contents share, as far as keys, ids or the course of a conversation tell; None when nothing does."""
    total = prompt_tokens.astype(np.int64) + output_tokens
    n = len(total)
    if fmt.prefix_key in extra:
        shared = extra.get(fmt.prefix_tokens or "", [None] * n)
        tokens = [p if t is None else min(p, t) for p, t in zip(prompt_tokens.tolist(), shared, strict=True)]
        return from_keys(extra[fmt.prefix_key], np.array(tokens), total)
    prompt_ids = extra.get(fmt.prompt_ids or "", [None] * n)
    output_ids = extra.get(fmt.output_ids or "", [None] * n)
    with_ids = np.array([ids is not None for ids in prompt_ids])
    told = np.zeros(n, bool)
    if waiting is not None:
        # A session without the ids of all its prompts is taken for a conversation that goes on.
        silent = np.bincount(waiting.session, ~with_ids) > 0
        told = (silent & (np.bincount(waiting.session) > 1))[waiting.session]
    if not (with_ids.any() or told.any()):
        return None
    ids, known = [], np.zeros(n, np.int64)
    for i, (of_prompt, of_output) in enumerate(zip(prompt_ids, output_ids, strict=True)):
        ids.append(np.zeros(0, np.int64) if of_prompt is None else of_prompt)
        known[i] = min(len(ids[i]) * fmt.tokens_per_id, prompt_tokens[i])
        if of_output is not None and known[i] == prompt_tokens[i]:
            ids[i] = np.concatenate([ids[i][: prompt_tokens[i]], of_output])
            known[i] = min(len(ids[i]), total[i])
    if not told.any():
        return from_blocks(ids, fmt.tokens_per_id, known, total)
    assert waiting is not None
    parts, places = [], [np.flatnonzero(~told), np.flatnonzero(told)]
    if len(places[0]):
        parts.append(from_blocks([ids[i] for i in places[0]], fmt.tokens_per_id, known[places[0]], total[places[0]]))
    before = _before(waiting.session[places[1]])
    parts.append(conversation(before, prompt_tokens[places[1]], output_tokens[places[1]]))
    return tree.take(tree.join(parts), np.argsort(np.concatenate(places)))


def conversation(before: np.ndarray, prompt_tokens: np.ndarray, output_tokens: np.ndarray) -> Prefixes:
    """Contents whose prompt starts with the whole content of the request before (int[R], -1 for none), as far as its length allows."""
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
