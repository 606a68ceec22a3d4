"""The options of a command, from its schema: each once, with its default, in blocks that can be read one by one."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from simjax.cli.help.choices import choices, preset_titles, presets
from simjax.config.compose import SCHEMAS, compose_config
from simjax.options.option import Option, Section, walk

_COLUMN, _WIDTH = 42, 120  # where the right column starts, and the longest line
_PRESET, _NAME = 6, 16  # where the presets of a group start, and the columns of their names
_SEPARATOR = " | "


def blocks(command: str, common: Sequence[str]) -> list[str]:
    """The blocks of a command's help: options of the first screen, then one block for each group of the others.

    Args:
        command: a key of `SCHEMAS`.
        common: options below the top level that are on the first screen; those at the top level are there, too.
    """
    config = compose_config(command, [])
    headings: dict[str, str] = {"": "options, with their defaults (capitals stand for values that are unset)"}
    entries: dict[str, list[str]] = {"": []}
    chosen = presets(command)
    first_of: dict[type, str] = {}  # where a dataclass is listed in full
    collapsed: set[str] = set()
    for found in walk(SCHEMAS[command]):
        parent = found.key.rpartition(".")[0]
        if parent in collapsed:
            continue
        if isinstance(found, Option):
            block = "" if found.key in common else parent
            entries[block].append(_option(command, found, config))
        elif parent and found.kind in first_of:
            collapsed.add(found.key)
            entries[first_of[found.kind]].append(_same(found, first_of[found.kind], config))
        else:
            first_of[found.kind] = found.key
            headings[found.key] = f"{found.key}: {found.words}{_only(found)}"
            entries[found.key] = [_presets(found.key, chosen[found.key])] if found.key in chosen else []
    return ["\n".join([heading, *entries[key]]) for key, heading in headings.items() if entries[key]]


def _option(command: str, option: Option, config: DictConfig) -> str:
    value = OmegaConf.select(config, option.key)
    left = f"{option.key}={option.shown if value in (None, [], {}) else _text(value)}"
    return _entry(left, f"{option.words}{_only(option)}", choices(command, option.key))


def _same(section: Section, other: str, config: DictConfig) -> str:
    """The one entry of a group of options whose keys another group has listed."""
    values = OmegaConf.to_container(OmegaConf.select(config, section.key))
    assert isinstance(values, dict)
    given = {key: value for key, value in values.items() if value is not None and not (key == "format" and value == "auto")}
    left = f"{section.key}.*={_text(given) if given else '{...}'}"
    return _entry(left, f"{section.words}{_only(section)}; the keys are those of {other}")


def _presets(group: str, default: str) -> str:
    first, later = " " * _PRESET, " " * (_PRESET + _NAME)
    lines = [_entry(f"{group}={default}", f"defaults of these options, one of conf/{group}/*.yaml:")]
    for name, title in preset_titles(group).items():
        lines += textwrap.wrap(f"{name:<{_NAME}}{title}", _WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)
    return "\n".join(lines)


def _entry(left: str, words: str, values: Sequence[str] = ()) -> str:
    room = " " * _COLUMN
    lines = textwrap.wrap(words, _WIDTH - _COLUMN, break_on_hyphens=False)
    # A choice and the separator after it stay together; a non-breaking space is no place to wrap at.
    joined = _SEPARATOR.replace(" ", "\N{NO-BREAK SPACE}", 1).join(values)
    wrapped = textwrap.wrap(joined, _WIDTH - _COLUMN, break_long_words=False, break_on_hyphens=False)
    lines += [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrapped]
    start = f"  {left}"
    if len(start) < _COLUMN - 1:
        return "\n".join([f"{start:<{_COLUMN}}{lines[0]}", *(room + line for line in lines[1:])])
    return "\n".join([start, *(room + line for line in lines)])


def _only(found: Option | Section) -> str:
    """The conditions under which an option has effect, in brackets; nothing where there are none to mention."""
    words = [*_kinds(found.only_for), *(one.words for one in found.only if one.words)]
    return f" [{', '.join(words)}]" if words else ""


def _kinds(kinds: Sequence[str]) -> list[str]:
    """The kinds of workload that read an option, or those that do not if they are few; nothing when all do."""
    from simjax.workload.config import KINDS

    others = [kind for kind in KINDS if kind not in kinds]
    return [] if not kinds or not others else [f"not {', '.join(others)}"] if len(others) < 3 else list(kinds)


def _text(value: Any) -> str:
    """A value as an override has it."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_text(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0")
