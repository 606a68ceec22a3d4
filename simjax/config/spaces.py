"""The text forms linspace(...), logspace(...) and geomspace(...) of swept values, which Hydra's grammar does not have."""

from __future__ import annotations

import re

_SPACE = re.compile(r"""(['"]?)\s*(linspace|logspace|geomspace)\s*\((.*)\)\s*\1""", re.DOTALL)


def read_space(text: str) -> tuple[str, str] | None:
    """The name and the arguments, as text, of a form such as `linspace(1,20,40)`, which may be in quotes; None for any other text."""
    match = _SPACE.fullmatch(text.strip())
    return None if match is None else (match[2], match[3])
