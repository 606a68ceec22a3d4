"""Caveats for the reader of a run's numbers: those of nearly every run in one line, so that the others are seen."""

from __future__ import annotations

from collections.abc import Iterable


class Estimate(str):
    """A line, `source: words`, on what the step times of a source rest on: true of nearly every run, and no sign of a mistake in it."""

    __slots__ = ()


_MOST_SOURCES = 3


def grouped(lines: Iterable[str]) -> tuple[str, ...]:
    """The lines, each once: first the caveats of this run, then all estimates in one line, source by source."""
    distinct = list(dict.fromkeys(lines))
    by_source: dict[str, list[str]] = {}
    for line in distinct:
        if isinstance(line, Estimate):
            source, _, words = line.partition(": ")
            by_source.setdefault(source, []).append(words)
    own = [line for line in distinct if not isinstance(line, Estimate)]
    if not by_source:
        return tuple(own)
    shown = [f"{source}: {'; '.join(words)}" for source, words in list(by_source.items())[:_MOST_SOURCES]]
    if len(by_source) > _MOST_SOURCES:
        shown.append(f"and the like for {len(by_source) - _MOST_SOURCES} more")
    return (*own, Estimate(". ".join(shown)))
