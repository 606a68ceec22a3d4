"""Builds a workload from recorded agent sessions: the dependencies between calls, and their contents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.contents import tree
from simjax.workload.contents.prefixes import Prefixes
from simjax.workload.contents.radix import from_blocks
from simjax.workload.formats.base import Reading, TraceFile
from simjax.workload.formats.sessions.kvcache_tester import Call, Session, read_session, session_files
from simjax.workload.sessions import from_waits
from simjax.workload.transform import arrange
from simjax.workload.workload import Workload

Wait = tuple[int, int, float]
"""Number of a call, number of a call that waits for it, and the pause in between in seconds."""


def read_sessions(path: Path, name: str, on_bad_row: str, unanswered: str) -> TraceFile:
    """The sessions of a file or a directory; a malformed one is left out as a whole and counts as one row.

    Args:
        path: a session file, or a directory of them.
        name: name of the format.
        on_bad_row: as in `simjax.workload.formats.read.ReadOptions`.
        unanswered: as there; only "play" is possible.

    Raises:
        SimjaxError: a malformed session, none, or calls that answered nothing are to be left out, on which others may depend.
    """
    if unanswered != "play":
        raise SimjaxError(
            f"unanswered={unanswered} does not apply to the {name} format: calls wait for calls; unanswered=play is the default"
        )
    files = session_files(path)
    sessions, faults = [], 0
    for file in files:
        try:
            sessions.append(read_session(file))
        except SimjaxError as error:
            if on_bad_row == "error":
                raise SimjaxError(f"{error} (on_bad_row=skip leaves such sessions out)") from None
            faults += 1
    if not sessions:
        raise SimjaxError(f"{path}: the trace has no usable request: {faults} malformed sessions")
    workload, order = arrange(to_workload(sessions, path.resolve().name))
    numbers = np.concatenate([np.arange(1, len(session.calls) + 1) for session in sessions])
    models = sorted(set().union(*(session.models for session in sessions)))
    sizes = {session.block_size for session in sessions}
    reading = Reading(
        format=name,
        rows=len(files),
        skipped=faults,
        zero_outputs=sum(not call.answered for session in sessions for call in session.calls),
        clock="s",
        tokens_per_id=sizes.pop() if len(sizes) == 1 else None,
        unused=tuple(sorted(set().union(*(session.unused for session in sessions)))),
        notes=(f"calls are of {len(models)} models, {', '.join(models[:4])}; all are served as one",) if len(models) > 1 else (),
    )
    return TraceFile(workload.validate(), numbers[order], reading)


def to_workload(recorded: Sequence[Session], source: str) -> Workload:
    """The requests of all sessions in the order of the files; every session starts at 0."""
    calls = [session.calls for session in recorded]
    firsts = np.cumsum([0] + [len(own) for own in calls])
    session = np.repeat(np.arange(len(recorded)), np.diff(firsts))
    edges = [
        (first + before, first + call, delay_s) for s, first in zip(recorded, firsts, strict=False) for before, call, delay_s in waits(s)
    ]
    before, after = (np.array([edge[side] for edge in edges], np.int64) for side in (0, 1))
    turn = np.arange(firsts[-1]) - firsts[session]
    linked = from_waits(session, tuple(s.name for s in recorded), turn, before, after, np.array([edge[2] for edge in edges]))
    start_s = np.array([call.start_s for own in calls for call in own])
    arrival_s = np.where(linked.predecessors == 0, start_s, np.inf)
    first_s = np.minimum.reduceat(arrival_s, firsts[:-1])
    prompt = np.array([call.prompt_tokens for own in calls for call in own], np.int32)
    output = np.array([call.output_tokens for own in calls for call in own], np.int32)
    prefixes = tree.finish(_prefixes(recorded), prompt, linked)
    return Workload(arrival_s - first_s[session], prompt, output, source=source, prefixes=prefixes, sessions=linked)


def waits(session: Session) -> list[Wait]:
    """The dependencies between the calls of a session, with their pauses."""
    token_s = _seconds_per_token(session.calls)

    def end_s(call: Call) -> float:
        return call.start_s + (call.output_tokens * token_s if call.api_s is None else call.api_s)

    def pause_s(before: Call, call: Call) -> float:
        if call.think_s is not None and before.api_s is not None:
            return call.think_s
        return max(call.start_s - end_s(before), 0.0)

    found = [(before.number, call.number, pause_s(before, call)) for a in session.agents for before, call in pairwise(a.calls)]
    for agent in session.agents:
        listed = session.main[: agent.after]
        if agent.calls and listed:
            launcher = next((call for call in reversed(listed) if call.start_s <= agent.start_s), listed[-1])
            first = agent.calls[0]
            found.append((launcher.number, first.number, max(first.start_s - end_s(launcher), 0.0)))
    for k, (before, call) in enumerate(pairwise(session.main), start=1):
        ended = [agent.calls[-1] for agent in session.agents if agent.after == k and agent.awaited and agent.calls]
        if ended:
            pause = max(call.start_s - max(map(end_s, [before, *ended])), 0.0)
            found += [(waited.number, call.number, pause) for waited in (before, *ended)]
        else:
            found.append((before.number, call.number, pause_s(before, call)))
    return found


def _seconds_per_token(calls: Iterable[Call]) -> float:
    """Median seconds per output token over the calls whose time was recorded, 0 without any."""
    rates = [call.api_s / call.output_tokens for call in calls if call.api_s is not None]
    return float(np.median(rates)) if rates else 0.0


def _prefixes(recorded: Sequence[Session]) -> Prefixes:
    """The joined trees: one per session whose ids are local to it, and one per block size for all others."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, session in enumerate(recorded):
        groups.setdefault((i if session.local else -1, session.block_size), []).append(i)
    sizes = np.array([len(session.calls) for session in recorded])
    firsts = np.cumsum(sizes) - sizes
    parts = []
    for (_, block_size), members in groups.items():
        contents = [content for i in members for content in _contents(recorded[i])]
        ids, known, total = zip(*contents, strict=True)
        parts.append(from_blocks(ids, block_size, np.array(known), np.array(total)))
    places = np.concatenate([firsts[i] + np.arange(sizes[i]) for members in groups.values() for i in members])
    return tree.take(tree.join(parts), np.argsort(places))


def _contents(session: Session) -> list[tuple[np.ndarray, int, int]]:
    """For each call in the file's order: the ids of its content, the number of tokens that they cover, and the total number of tokens."""
    contents: dict[int, tuple[np.ndarray, int, int]] = {}
    for line in (session.main, *(agent.calls for agent in session.agents)):
        for k, call in enumerate(line):
            total = call.prompt_tokens + call.output_tokens
            ids, known = call.ids, min(len(call.ids) * session.block_size, call.prompt_tokens)
            after = line[k + 1] if k + 1 < len(line) else call
            if len(after.ids) > len(ids) and np.array_equal(after.ids[: len(ids)], ids):
                ids = after.ids
                known = min(len(ids) * session.block_size, after.prompt_tokens, total)
            contents[call.number] = (ids, known, total)
    return [contents[number] for number in sorted(contents)]
