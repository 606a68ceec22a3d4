"""Values in Hydra's override grammar: written such that reading them gives the same values, and read as Hydra reads them.

`key=` before a written value is a valid override of one value, whatever commas, quotes or brackets the value holds.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.options.plain import MOST_DIGITS, is_plain, is_plain_text, is_too_long, plain_value

if TYPE_CHECKING:  # Hydra is imported where a value is not plain: it takes longer to import than a configuration to compose
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override

_SHOWN = 100  # characters of a text in a message


def format_value(value: Any) -> str:
    """A value in Hydra's grammar; `parse_value` of the text gives exactly the same value, floats to the last bit.

    Args:
        value: None, bool, int, float, str, or lists (tuples, arrays) and dicts of them; numpy scalars become Python numbers.

    Raises:
        SimjaxError: the grammar has no form for the value: another type, a key that is not a plain word, a line break.
    """
    if isinstance(value, str):
        if is_plain_text(value):
            return value
        if any(character in value for character in "\r\n\0"):
            raise SimjaxError(f"{value!r}: a value is one line of text")
        from hydra.core.override_parser.types import Quote, QuotedString

        return QuotedString(value, Quote.single).with_quotes()
    if value is None:
        return "null"
    if isinstance(value, bool | np.bool):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return repr(float(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_format_key(key)}:{format_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple | np.ndarray):
        return "[" + ",".join(map(format_value, value)) + "]"
    kinds = "a number, true or false, text, null, or a list or mapping of them"
    raise SimjaxError(f"{value!r}: a value is {kinds}, not {type(value).__name__}")


def _format_key(key: Any) -> str:
    if not isinstance(key, str) or not is_plain_text(key):
        raise SimjaxError(f"{key!r}: the keys of a mapping are plain words such as max_num_seqs")
    return key


def parse_value(text: str) -> Any:
    """The value that Hydra reads from `key=text`: None, bool, int, float, str, or lists and dicts of them.

    Raises:
        SimjaxError: Hydra cannot read the text, or reads several values.
    """
    text = text.strip()
    if is_too_long(text):
        raise SimjaxError(f"{shortened(text)}: a number of more than {MOST_DIGITS} digits")
    if is_plain(text):
        return plain_value(text)
    override = read_override(f"key={text}")
    if override.is_sweep_override():
        raise SimjaxError(f"{text}: several values where one is expected; put a value that holds a comma in quotes: 'a,b'")
    return plain(override.value())


def option(key: str, text: str) -> str:
    """`key=text` quoted for a shell, so that Hydra reads exactly this text, whatever spaces, quotes or letters it has."""
    try:
        plain = parse_value(text) == text
    except SimjaxError:
        plain = False
    if plain:
        return shlex.quote(f"{key}={text}")
    from hydra.core.override_parser.types import Quote, QuotedString

    return shlex.quote(f"{key}={QuotedString(text, Quote.double).with_quotes()}")


def plain(parsed: Any) -> Any:
    """A parsed value without Hydra's wrappers around quoted text.

    Raises:
        SimjaxError: the value contains a sweep, as `[1,range(3)]` does.
    """
    from hydra.core.override_parser.types import QuotedString

    if isinstance(parsed, QuotedString):
        return parsed.text
    if isinstance(parsed, list):
        return [plain(inner) for inner in parsed]
    if isinstance(parsed, dict):
        return {plain(key): plain(inner) for key, inner in parsed.items()}
    if parsed is None or isinstance(parsed, bool | int | float | str):
        return parsed
    raise SimjaxError(f"{type(parsed).__name__}: a list of values cannot hold a range, choice or interval; write its values out")


def read_override(override: str) -> Override:
    """An override, parsed by Hydra.

    Raises:
        SimjaxError: Hydra cannot read the override.
    """
    from hydra.errors import HydraException

    try:
        return _parser().parse_override(override)
    except HydraException as error:
        message = str(error).strip().splitlines()[0]
        reason = re.sub(r"^\w+ while evaluating '.*': ", "", message)
        hint = "" if reason != message else "; put a value with special characters in quotes: 'value'"
        raise SimjaxError(f"cannot read {shortened(override.removeprefix('key='))!r} ({shortened(reason)}){hint}") from error


def shortened(text: str) -> str:
    """A text, which may hold thousands of values, cut to the length that messages show."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


@cache
def _parser() -> OverridesParser:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()
