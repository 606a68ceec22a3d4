"""Plain values of options: numbers and words that need no quotes, read without Hydra's parser, which takes a hundred times as long."""

from __future__ import annotations

import re
from typing import Any

# Hydra's tokens for numbers and for strings without quotes.
_WHOLE = r"(?:0|[1-9](?:_?[0-9])*)"
_POINT = rf"(?:{_WHOLE}\.|{_WHOLE}?\.[0-9](?:_?[0-9])*)"
_INT = re.compile(rf"[+-]?{_WHOLE}")
_FLOAT = re.compile(rf"[+-]?(?:{_POINT}|(?:{_WHOLE}|{_POINT})[eE][+-]?[0-9](?:_?[0-9])*)")
_WORD = re.compile(r"[A-Za-z_/][A-Za-z0-9_\-/.]*")
_NAMED: dict[str, Any] = {"true": True, "false": False, "null": None, "inf": float("inf"), "nan": float("nan")}
MOST_DIGITS = 400  # of a number; no float has more


def is_plain(text: str) -> bool:
    """Whether `plain_value` reads a text."""
    return any(kind.fullmatch(text) for kind in (_INT, _FLOAT, _WORD)) and not is_too_long(text)


def is_too_long(text: str) -> bool:
    """Whether a text is a number of more digits than any float has."""
    return len(text) > MOST_DIGITS and text.lstrip("+-").isdigit()


def is_plain_text(text: str) -> bool:
    """Whether `plain_value` reads a text as itself."""
    return _WORD.fullmatch(text) is not None and text.lower() not in _NAMED


def plain_value(text: str) -> Any:
    """The None, bool, int, float or str that Hydra reads from a text; only for texts that are plain."""
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else _NAMED.get(text.lower(), text)
