"""The axes of a sweep: keys and their values, from lists or from text such as "linspace(1,20,40)"."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.config.sweep import read_space
from simjax.errors import SimjaxError
from simjax.explore.keys import canonical, check_key, takes_integers
from simjax.explore.values import format_value, plain, read_override, shortened

MAX_VALUES = 1_000_000


@dataclass(frozen=True)
class Axis:
    """Keys that vary together.

    Attributes:
        keys: one key for a plain axis, several for a zipped one.
        values: one entry per step of the axis, with one value per key.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        if not self.keys or not self.values:
            raise SimjaxError(f"{', '.join(self.keys) or 'an axis'}: an axis needs a key and at least one value")
        if any(len(row) != len(self.keys) for row in self.values):
            raise SimjaxError(f"{', '.join(self.keys)}: every step of the axis needs {len(self.keys)} values")


def axis(key: str, given: Any) -> Axis:
    """The plain axis of a key; `given` as in `parse_values`."""
    key = canonical(key)
    return Axis((key,), tuple((value,) for value in parse_values(key, given)))


def zipped(given: Mapping[str, Any]) -> Axis:
    """Keys that step together; each value as in `parse_values`, but values may repeat as long as no step does.

    Raises:
        SimjaxError: the keys have different numbers of values.
    """
    columns = {canonical(key): _values(canonical(key), values) for key, values in given.items()}
    counts = {key: len(values) for key, values in columns.items()}
    if len(set(counts.values())) > 1:
        raise SimjaxError(f"zipped keys need the same number of values; {', '.join(f'{key} has {count}' for key, count in counts.items())}")
    rows = tuple(zip(*columns.values(), strict=True))
    _refuse_repeated(" and ".join(columns), rows)
    return Axis(tuple(columns), rows)


def parse_values(key: str, given: Any) -> tuple[Any, ...]:
    """The values of an axis.

    Args:
        key: the swept key; whole floats become integers where it takes an integer.
        given: a list, tuple, range or one-dimensional array of values; or a string in Hydra's grammar: `1,2,3`, `choice(a,b)`,
            `range(1,10)` (integers only), or `linspace(1,20,40)`, `logspace(-1,2,10)` (exponents of ten), `geomspace(1,64,7)` as in numpy.

    Raises:
        SimjaxError: the key cannot be swept, or the values cannot be read, are missing, repeat, or are continuous.
    """
    values = _values(key, given)
    _refuse_repeated(key, ((value,) for value in values))
    return values


def linspace(first: float, last: float, count: int) -> tuple[float, ...]:
    """`count` evenly spaced numbers, both ends included."""
    _check_space("linspace", first, last, count)
    return _finite("linspace", np.linspace(first, last, count))


def logspace(first: float, last: float, count: int) -> tuple[float, ...]:
    """`count` numbers with equal ratios from 10**first to 10**last."""
    _check_space("logspace", first, last, count)
    with np.errstate(over="ignore"):
        return _finite("logspace", np.logspace(first, last, count))


def geomspace(first: float, last: float, count: int) -> tuple[float, ...]:
    """`count` numbers with equal ratios, both ends included."""
    _check_space("geomspace", first, last, count)
    if first * last <= 0:
        raise SimjaxError(f"geomspace from {first} to {last}: both ends must be positive, or both negative")
    return _finite("geomspace", np.geomspace(first, last, count))


_MAKERS: dict[str, Callable[[float, float, int], tuple[float, ...]]] = {"linspace": linspace, "logspace": logspace, "geomspace": geomspace}


def _check_space(name: str, first: float, last: float, count: int) -> None:
    if not (math.isfinite(first) and math.isfinite(last)):
        raise SimjaxError(f"{name} from {first} to {last}: both ends must be finite")
    if not 1 <= count <= MAX_VALUES:
        raise SimjaxError(f"{name} of {count} values: it must be at least 1 and at most {MAX_VALUES:,}")


def _finite(name: str, values: np.ndarray) -> tuple[float, ...]:
    if not np.isfinite(values).all() or (name != "linspace" and not values.all()):
        raise SimjaxError(f"{name}: values beyond the range of floating-point numbers")
    return tuple(values.tolist())


def _values(key: str, given: Any) -> tuple[Any, ...]:
    check_key(key)
    if given is None or (isinstance(given, str) and not given.strip()):
        raise SimjaxError(f"{key}: no values to sweep over")
    if isinstance(given, Mapping):
        raise SimjaxError(f"{key}: the values of an axis are a list or text like linspace(1,20,40), got a mapping")
    if isinstance(given, str):
        space = read_space(given)
        values: Sequence[Any] = _from_grammar(key, given) if space is None else _from_space(f"{key}={given}", *space)
    elif isinstance(given, np.ndarray):
        if given.ndim != 1:
            raise SimjaxError(f"{key}: the values of an axis are a list, got an array of {given.ndim} dimensions")
        values = given.tolist()
    else:
        values = given if isinstance(given, Sequence) else [given]
    if not 1 <= len(values) <= MAX_VALUES:
        raise SimjaxError(f"{key}: {len(values):,} values to sweep over; at least 1 and at most {MAX_VALUES:,}")
    return tuple(checked(key, value) for value in values)


def checked(key: str, value: Any) -> Any:
    """A value in the form that its key takes: plain Python, 64 for 64.0 where the key takes an integer.

    Raises:
        SimjaxError: the value is not an integer although the key takes one, or it is an interpolation.
    """
    if isinstance(value, np.generic):
        value = value.item()
    text = format_value(value)  # raises for values that no override can hold
    if "${" in text:
        raise SimjaxError(f"{key}={shortened(text)}: an interpolation cannot be a swept value; write the values out")
    if isinstance(value, float) and takes_integers(key):
        whole = round(value) if math.isfinite(value) else 0
        if not math.isclose(whole, value, rel_tol=1e-9):  # geomspace gives 7.999999999999998
            raise SimjaxError(f"{key}={text}: it takes integers; choose bounds and a count that give whole numbers, or list them")
        return whole
    return value


def _from_space(override: str, name: str, arguments: str) -> tuple[float, ...]:
    try:
        first, last, count = arguments.split(",")
        bounds, number = (float(first), float(last)), int(count)
    except ValueError:
        raise SimjaxError(f"{override}: {name} takes two numbers and the number of values, like {name}(1,20,40)") from None
    try:
        return _MAKERS[name](*bounds, number)
    except SimjaxError as error:
        raise SimjaxError(f"{override}: {error}") from None


def _from_grammar(key: str, given: str) -> list[Any]:
    override = read_override(f"{key}={given}")
    shown = shortened(f"{key}={given}")
    raw: Any = override.value()
    if not override.is_sweep_override():
        return [raw]
    if override.is_interval_sweep():
        raise SimjaxError(f"{shown}: an interval is continuous and needs a search; give points of it, like linspace(1,20,40)")
    if not hasattr(raw, "shuffle"):
        raise SimjaxError(f"{shown}: glob is not supported; list the choices: a,b,c")
    if raw.shuffle:
        raise SimjaxError(f"{shown}: shuffle gives other points each time; leave it out, the order of points changes no result")
    if override.is_range_sweep():
        if raw.step == 0:
            raise SimjaxError(f"{shown}: the step of a range must not be 0")
        numbers = raw.range()
        if not isinstance(numbers, range):
            raise SimjaxError(f"{shown}: range is for integers (Hydra's versions disagree about floats); use linspace(1,20,40)")
        return list(numbers[: MAX_VALUES + 1])
    values = [plain(value) for value in override.sweep_iterator()]
    if len(values) == 1 and isinstance(values[0], str) and (space := read_space(values[0])) is not None:
        return list(_from_space(f"{key}={values[0]}", *space))  # the form in which the command line passes one to Hydra
    return values


def _refuse_repeated(what: str, rows: Iterable[tuple[Any, ...]]) -> None:
    seen: set[Any] = set()
    for row in rows:
        same = tuple((isinstance(x, bool), x) if isinstance(x, int | float) else format_value(x) for x in row)  # 4 is 4.0
        if same in seen:
            raise SimjaxError(f"{what}: {', '.join(map(format_value, row))} is given twice")
        seen.add(same)
