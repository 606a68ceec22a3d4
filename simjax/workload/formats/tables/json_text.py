"""JSON values in text files: one per file, or one per line, with the reason where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.workload.formats.tables.text import is_comment, open_text


def json_value(text: str) -> Any:
    """The value that a text holds.

    Raises:
        ValueError: the text is not JSON (json.JSONDecodeError), or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def whole_json(path: Path) -> Any:
    """The value in a JSON file, or as text why it is not JSON."""
    with open_text(path) as text:
        try:
            return json_value(text.read())
        except json.JSONDecodeError as error:
            return f"not valid JSON at line {error.lineno} column {error.colno}: {error.msg.removesuffix(' at').lower()}"
        except ValueError as error:
            return f"not valid JSON: {error}"


def array(path: Path) -> list[Any]:
    """The list that makes up a JSON file.

    Raises:
        SimjaxError: it holds something else.
    """
    whole = whole_json(path)
    if not isinstance(whole, list):
        raise SimjaxError(f"{path}: {whole}")
    return whole


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The line number of every line that is neither blank nor a comment, with its object, or why there is none."""
    with open_text(path) as text:
        for number, line in enumerate(text, start=1):
            if line.strip() and not is_comment(line):
                yield number, json_object(line)


def json_object(line: str) -> dict[str, Any] | str:
    """The object on a line, or why there is none."""
    try:
        row = json_value(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        return f"not valid JSON at column {error.colno}: {error.msg.removesuffix(' at').lower()}"
    except ValueError as error:
        return f"not valid JSON: {error}"
    return row if isinstance(row, dict) else "not a JSON object"
