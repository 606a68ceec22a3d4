"""Files of memories outside the devices and of those that compute: mappings of numbers in their ranges, and what is said beside these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from simjax.disk.documents import read_document
from simjax.errors import SimjaxError, closest
from simjax.hardware.fields import refuse_missing
from simjax.options.plausible import Plausible


class Fields(NamedTuple):
    """What a kind of file has.

    Attributes:
        what: the kind of file, as messages name it.
        example: a shipped file with all required fields, below `profiles/`.
        numbers: fields that are numbers, with their ranges.
        required: fields that must be there.
        others: fields that may be there and are no numbers.
    """

    what: str
    example: str
    numbers: Mapping[str, Plausible]
    required: Sequence[str]
    others: Sequence[str] = ()


def read_fields(path: Path, fields: Fields) -> tuple[dict[str, float], dict[str, Any]]:
    """The numbers of a file, and its other fields; those that it lacks and need not have are in neither.

    Raises:
        SimjaxError: it cannot be read, lacks a field, has an unknown one, or a number is out of its range.
    """
    where, raw = f"{fields.what} {path}", read_document(path, fields.what)
    if not isinstance(raw, dict):
        raise SimjaxError(f"{where} must hold a mapping like the files in profiles/{Path(fields.example).parent}")
    refuse_missing(where, (name for name in fields.required if name not in raw), fields.example)
    known = {*fields.required, *fields.numbers, *fields.others}
    for name in raw:
        if name not in known:
            raise SimjaxError(f"{where}: there is no field '{name}'; {closest(str(name), sorted(known))}")
    numbers: dict[str, float] = {}
    for name, plausible in fields.numbers.items():
        if name not in raw:
            continue
        try:
            numbers[name] = float(raw[name])
            plausible.check(name, numbers[name])
        except (TypeError, ValueError, SimjaxError) as error:
            raise SimjaxError(f"{where}: {name}: {error}") from None
    return numbers, {name: value for name, value in raw.items() if name not in numbers}
