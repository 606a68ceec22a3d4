"""Short labels of designs: short names of swept keys, and the values in which rows differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

_LONGEST = 28  # characters of a value


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The shortest distinct endings of the keys' names: `max_num_seqs`, but `prompt.mean` if there is `output.mean` too."""
    parts = {key: key.split(".") for key in keys}
    short = {}
    for key, words in parts.items():
        count = 1
        while count < len(words) and any(other != key and parts[other][-count:] == words[-count:] for other in keys):
            count += 1
        short[key] = ".".join(words[-count:])
    return short


def differing_keys(rows: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """The keys that have more than one value among the rows."""
    return [key for key in keys if len({str(value) for value in rows[key]}) > 1]


def describe_design(row: pd.Series, short: Mapping[str, str], table: pd.DataFrame) -> list[str]:
    """The values of a row in a few characters each: `max_num_seqs=64`, or only `h200` where the value is clear without its key.

    Args:
        row: a row of `table`.
        short: the keys to include, in order, with their short names (`short_keys`).
        table: all rows; a key's name is left out if its values are words that none of the other keys takes.
    """
    values = {key: {str(value) for value in table[key]} for key in short}
    labels = []
    for key, name in short.items():
        others = set().union(*(values[other] for other in short if other != key))
        bare = all(map(_is_word, table[key])) and not values[key] & others
        labels.append(format_cell(row[key]) if bare else f"{name}={format_cell(row[key])}")
    return labels


def format_cell(value: Any) -> str:
    """The value of a key in a label or a table: four significant digits, the end of a path, the start of a long list."""
    if value is None or value is pd.NA or value != value:  # pandas stores None among numbers as NaN
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.10g}"
    text = str(value).strip("'\"")
    if "/" in text and not text.startswith(("[", "{")):
        text = text.rstrip("/").rpartition("/")[2]
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _is_word(value: Any) -> bool:
    """Whether a value is clear without its key: a name, not a number, true, null or a list."""
    if not isinstance(value, str) or value in ("true", "false", "null"):
        return False
    return value.strip("'\"")[:1].isalpha() or value.startswith("/")
