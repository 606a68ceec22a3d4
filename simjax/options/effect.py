"""Options without effect: found by the conditions that their declarations state, for all commands, sweeps and Python alike.

An option that the command line sets although its condition does not hold is refused. What a preset had set before the command line chose
otherwise (the mean of a log-normal length, after `dist=fixed`) is nobody's mistake: it is unset.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import is_dataclass
from functools import cache
from typing import Any, NamedTuple

from simjax.errors import SimjaxError
from simjax.options.condition import ABSENT, Absent, Condition
from simjax.options.option import Option, Section, options, walk

Look = Callable[[str], Any]


class Conditional(NamedTuple):
    """An option, or a section of options, that has effect under conditions.

    Attributes:
        key: full key.
        default: value of the schema.
        conditions: all of them must hold; their keys are full.
    """

    key: str
    default: Any
    conditions: tuple[Condition, ...]

    @property
    def touched_by(self) -> frozenset[str]:
        """The keys on which it depends whether the option is refused."""
        return frozenset([self.key, *(key for one in self.conditions for key in one.keys)])

    def obstacle(self, look: Look, refused: bool) -> tuple[Condition, str] | None:
        """The first condition of its kind (refused, or only named) that does not hold, and the words for it; None where all hold."""
        for one in self.conditions:
            values = [look(key) for key in one.keys]
            if one.refused is refused and not any(isinstance(value, Absent) for value in values):
                why = one.obstacle(*values)
                if why is not None:
                    return one, why
        return None


@cache
def conditionals(kind: type, prefix: str = "") -> tuple[Conditional, ...]:
    """The options below a dataclass that have conditions, with full keys that begin with `prefix`."""
    found = []
    for one in walk(kind, prefix):
        if one.only:
            parent = one.key.rpartition(".")[0]
            full = tuple(
                Condition(tuple(_full(key, parent) for key in each.keys), each.obstacle, each.words, each.refused) for each in one.only
            )
            found.append(Conditional(one.key, one.kind() if isinstance(one, Section) else one.default, full))
    return tuple(found)


@cache
def _parents(key: str) -> tuple[str, ...]:
    """The keys of the sections that hold a key."""
    parts = key.split(".")
    return tuple(".".join(parts[:length]) for length in range(1, len(parts)))


def _full(key: str, parent: str) -> str:
    return key if "." in key or not parent else f"{parent}.{key}"


def unset_by_choice(found: Iterable[Conditional], look: Look, given: Collection[str]) -> dict[str, Any]:
    """Defaults, by key, of the options that a preset had set for another choice than the one that the command line makes.

    Args:
        found: the options to check.
        look: function that returns the value of a key, `ABSENT` if there is no such option.
        given: keys that the command line sets.

    Raises:
        SimjaxError: an option that the command line sets has no effect.
    """
    unset: dict[str, Any] = {}
    given_in: dict[str, list[str]] = {}
    for key in given:
        for name in (key, *_parents(key)):
            given_in.setdefault(name, []).append(key)
    for one in found:
        value = look(one.key)
        if isinstance(value, Absent) or value is None:
            continue
        mine = [key for key in given_in.get(one.key, ()) if look(key) is not None]
        if value != one.default and any(parent in given for parent in _parents(one.key)):  # key={...} sets the keys in it
            mine.append(one.key)
        if not mine and value == one.default:
            continue
        blocked = one.obstacle(look, refused=True)
        if blocked is None:
            continue
        condition, why = blocked
        if mine:
            raise SimjaxError(f"{equals(mine[0], look(mine[0]))} has no effect {why}")
        if any(key in given for key in condition.keys):
            unset[one.key] = one.default
    return unset


def refuse_without_effect(found: Iterable[Conditional], look: Look) -> None:
    """Raise for an option that is set, whoever set it, and has no effect.

    Raises:
        SimjaxError: naming the option and what stands against it.
    """
    for one in sorted(found, key=lambda one: one.key.count(".")):  # a choice that affects whole groups is the better reason
        value = look(one.key)
        if value is None or isinstance(value, Absent) or value == one.default:
            continue
        blocked = one.obstacle(look, refused=True)
        if blocked is not None:
            unsets = f"; {one.key}=null unsets it" if one.default is None and ";" not in blocked[1] else ""
            raise SimjaxError(f"{equals(one.key, value)} has no effect {blocked[1]}{unsets}")


def without_effect(found: Iterable[Conditional], look: Look) -> list[str]:
    """One line for each option that is set and has no effect although it is no mistake."""
    lines = []
    for one in found:
        if all(condition.refused for condition in one.conditions):
            continue
        value = look(one.key)
        if value is not None and value is not ABSENT and value != one.default:
            blocked = one.obstacle(look, refused=False)
            if blocked is not None:
                lines.append(f"{equals(one.key, value)} has no effect {blocked[1]}")
    return lines


def implausible(kind: type, look: Look) -> list[str]:
    """One line for each number of the options below a dataclass that lies outside its plausible range."""
    lines = []
    for one in _ranged(kind):
        value = look(one.key)
        doubt = one.plausible.doubt(one.key, value) if one.plausible is not None and isinstance(value, int | float) else None
        if doubt is not None:
            lines.append(doubt)
    return lines


@cache
def _ranged(kind: type) -> tuple[Option, ...]:
    return tuple(one for one in options(kind) if one.plausible is not None)


def looking_at(config: Any, prefix: str = "") -> Look:
    """A function that returns the value of a full key in a dataclass whose own keys begin with `prefix`; it remembers values."""

    @cache  # conditions look at few keys many times
    def look(key: str) -> Any:
        if not key.startswith(prefix):
            return ABSENT
        found = config
        for name in key.removeprefix(prefix).split("."):
            found = found.get(name, ABSENT) if isinstance(found, dict) else getattr(found, name, ABSENT)
        return found

    return look


def equals(key: str, value: Any) -> str:
    """An option as the command line has it; groups of options, lists and mappings by their key."""
    if is_dataclass(value) or isinstance(value, list | dict):
        return key
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"
