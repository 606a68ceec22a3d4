"""Options: fields of a configuration's dataclasses that carry their documentation, which `simjax COMMAND --help` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from simjax.options.condition import Condition, one_of
from simjax.options.plausible import Plausible

_T = TypeVar("_T")
_PLACEHOLDERS = {int: "N", float: "X", bool: "true|false", str: "TEXT"}


def option(
    default: _T,
    words: str,
    shown: str = "",
    *,
    bounds: tuple[int, int] | None = None,
    only_for: tuple[str, ...] = (),
    only: tuple[Condition, ...] = (),
    plausible: Plausible | None = None,
) -> _T:
    """A field that is one option.

    Args:
        default: value of the option; None for an option that is unset. Lists and mappings are copied for every instance.
        words: meaning and unit, a noun phrase or a clause without a period.
        shown: stands for the value in the help of an option that is unset, such as "FILE"; by default it follows from the type.
        bounds: least and greatest integer that the option takes.
        only_for: kinds of workload that read the option; none for all of them.
        only: conditions under which the option has effect, in addition to `only_for`.
        plausible: range in which its number usually lies; a warning names one outside.
    """
    facts = {
        "words": words,
        "shown": shown,
        "bounds": bounds,
        "only_for": only_for,
        "only": _conditions(only_for, only),
        "plausible": plausible,
    }
    if isinstance(default, list | dict):
        return field(default_factory=lambda: deepcopy(default), metadata=facts)  # type: ignore[return-value]
    return field(default=default, metadata=facts)  # type: ignore[return-value]


def section(kind: Callable[[], _T], words: str, *, only_for: tuple[str, ...] = (), only: tuple[Condition, ...] = ()) -> _T:
    """A field that holds a dataclass of options; `words`, `only_for` and `only` as in `option`."""
    facts = {"words": words, "only_for": only_for, "only": _conditions(only_for, only)}
    return field(default_factory=kind, metadata=facts)  # type: ignore[return-value]


def _conditions(only_for: tuple[str, ...], only: tuple[Condition, ...]) -> tuple[Condition, ...]:
    return (*((one_of("kind", *only_for, words=""),) if only_for else ()), *only)


@dataclass(frozen=True)
class Option:
    """A leaf of a configuration.

    Attributes:
        key: full key, such as workload.prompt.mean.
        kind: type of a value that is set.
        default: value of the schema, which a file under conf/ may replace.
        words, shown, only_for: as given to `option`.
        only: conditions under which it has effect.
        plausible: range in which its number usually lies, None for any.
    """

    key: str
    kind: type
    default: Any
    words: str
    shown: str
    only_for: tuple[str, ...]
    only: tuple[Condition, ...]
    plausible: Plausible | None = None


@dataclass(frozen=True)
class Section:
    """A dataclass of options within a configuration; the attributes are those of `Option`."""

    key: str
    kind: type
    words: str
    only_for: tuple[str, ...]
    only: tuple[Condition, ...]


def walk(kind: type, prefix: str = "") -> Iterator[Option | Section]:
    """Everything below a dataclass of options in the order of its fields; a section comes before what is in it."""
    for one in fields(kind):
        key, bare, facts = f"{prefix}{one.name}", _bare(one.type), one.metadata
        if isinstance(bare, type) and is_dataclass(bare):
            yield Section(key, bare, facts["words"], facts["only_for"], facts["only"])
            yield from walk(bare, f"{key}.")
        else:
            shown = facts["shown"] or _shown(one.name, bare)
            yield Option(key, bare, _default(one), facts["words"], shown, facts["only_for"], facts["only"], facts["plausible"])


def options(kind: type) -> list[Option]:
    """The leaves below a dataclass of options."""
    return [found for found in walk(kind) if isinstance(found, Option)]


def facts_by_name(kind: type, fact: str) -> dict[str, Any]:
    """A fact that was given to `option` or `section` (such as bounds) by the name of the field, of the fields that have it."""
    return {one.name: one.metadata[fact] for one in fields(kind) if one.metadata.get(fact)}


def _bare(kind: Any) -> Any:
    """A type without "or None" and without what its elements are."""
    inner = next(x for x in get_args(kind) if x is not type(None)) if get_origin(kind) is UnionType else kind
    return get_origin(inner) or inner


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _shown(name: str, kind: Any) -> str:
    if name.endswith("_s") and kind is float:
        return "S"
    return "[...]" if kind is list else "{...}" if kind is dict else _PLACEHOLDERS.get(kind, "X")
