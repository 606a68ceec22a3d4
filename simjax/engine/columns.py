"""Columns that the engine records: declared once, as a field of the record on the host that holds them.

A column states its data type and unit where it is declared (`column`); the engine's rows, in which every number is a float64, are laid out
in the order of the declarations (`recorded`), and read back by them (`read_rows`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np

from simjax.engine.shape import EngineShape

T = TypeVar("T")

_KEY = "column"


@dataclass(frozen=True)
class Column:
    """A declared column.

    Attributes:
        name: name of the field that declares it.
        dtype: data type on the host.
        unit: unit, "" for counts and indices.
        needs: static size or flag of `EngineShape` without which the engine does not record it; "" for none.
        absent: value where nothing was recorded.
        engine: whether the engine records it in rows; other columns are known to the host.
    """

    name: str
    dtype: type
    unit: str
    needs: str
    absent: float
    engine: bool

    def recorded_in(self, shape: EngineShape) -> bool:
        """Whether programs of this shape record the column."""
        return self.engine and (not self.needs or bool(getattr(shape, self.needs)))


def column(dtype: type, unit: str = "", *, needs: str = "", absent: float = 0, engine: bool = True) -> Any:
    """The declaration of a column, for a field of a dataclass; arguments as of `Column`."""
    return field(metadata={_KEY: (dtype, unit, needs, absent, engine)})


def columns(record: type) -> tuple[Column, ...]:
    """The columns that a record declares, in order."""
    return tuple(Column(x.name, *x.metadata[_KEY]) for x in fields(record) if _KEY in x.metadata)


def recorded(record: type, shape: EngineShape) -> tuple[str, ...]:
    """Names of the columns of a record that programs of this shape write to a row, in order."""
    return tuple(x.name for x in columns(record) if x.recorded_in(shape))


def read_rows(record: type, shape: EngineShape, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The engine's columns of a record by name, in their data types, from rows float64[K, F] of `recorded`; absent ones are filled."""
    found = dict(zip(recorded(record, shape), rows.T, strict=True))
    return {x.name: _typed(x, found[x.name]) if x.name in found else filled(x, len(rows)) for x in columns(record) if x.engine}


def _typed(declared: Column, values: np.ndarray) -> np.ndarray:
    """The values in the column's data type; an integer that was never written is infinite in the row, and absent here."""
    if np.issubdtype(declared.dtype, np.floating):
        return values.astype(declared.dtype)
    return np.where(np.isfinite(values), values, declared.absent).astype(declared.dtype)


def filled(declared: Column, length: int) -> np.ndarray:
    """A column of which nothing was recorded."""
    return np.full(length, declared.absent, declared.dtype)


def completed(record: type[T], length: int, found: Mapping[str, Any]) -> T:
    """The record of `length` entries with the columns that were found, in their data types; absent ones are filled."""
    made = {x.name: np.asarray(found[x.name], x.dtype)[:length] if x.name in found else filled(x, length) for x in columns(record)}
    return record(**made)


def in_order(record: type, shape: EngineShape, values: Mapping[str, Any]) -> list[Any]:
    """The values of a row in the order of `recorded`.

    Raises:
        KeyError: a column has no value, or a value no column.
    """
    names = recorded(record, shape)
    if set(names) != set(values):
        raise KeyError(f"{record.__name__}: columns {sorted(set(names) ^ set(values))} are declared or given, not both")
    return [values[name] for name in names]
