"""Conditions under which an option has effect: stated where it is declared (`option`), and read by checks and help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Absent:
    """The value of a key that a schema does not have, as where a command has only some of another's options."""


ABSENT = Absent()


@dataclass(frozen=True)
class Condition:
    """What other options must be for an option to have effect.

    Attributes:
        keys: the other options: names of fields beside the option, or full keys, which hold a dot. Absent ones are no obstacle.
        obstacle: function of their values that returns why the option has no effect, as words after "has no effect ", or None.
        words: the condition for the help, "" for one that goes without saying.
        refused: whether such an option is a mistake; else it is only named, because sweeps come through such values (one device, one
            instance).
    """

    keys: tuple[str, ...]
    obstacle: Callable[..., str | None]
    words: str = ""
    refused: bool = True


def one_of(key: str, *values: Any, default: Any = None, words: str | None = None) -> Condition:
    """The option `key` has one of the `values`; `default` is what stands for an unset one."""

    def obstacle(value: Any) -> str | None:
        value = default if value is None else value
        return None if value in values else f"with {_equals(key, value)}, only with {' or '.join(map(_text, values))}"

    return Condition((key,), obstacle, ", ".join(map(_text, values)) if words is None else words)


def is_set(key: str) -> Condition:
    """The option `key` is set."""
    return Condition((key,), lambda value: None if value else f"without {key}", f"with {_name(key)}")


def is_unset(key: str, words: str | None = None) -> Condition:
    """The option `key` is not set; another one is used in its place."""

    def obstacle(value: Any) -> str | None:
        return None if value in (None, False, []) else f"with {_equals(key, value)}; leave one of them out"

    return Condition((key,), obstacle, f"not with {_name(key)}" if words is None else words)


def at_least(key: str, least: float, refused: bool = True) -> Condition:
    """The option `key` is a number of at least `least`."""

    def obstacle(value: Any) -> str | None:
        return None if value is None or value >= least else f"with {_equals(key, value)}, only with {least:g} or more"

    return Condition((key,), obstacle, f"{_name(key)} >= {least:g}", refused)


def needs(keys: tuple[str, ...], holds: Callable[..., bool], otherwise: str, words: str = "", refused: bool = True) -> Condition:
    """The values of `keys` fulfil `holds`; `otherwise` says why an option has no effect if they do not."""
    return Condition(keys, lambda *values: None if holds(*values) else otherwise, words, refused)


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def _equals(key: str, value: Any) -> str:
    return key if isinstance(value, list | dict) else f"{key}={_text(value)}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
