"""The one exception users see: a wrong option, file or row, told in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class SimjaxError(ValueError):
    """A mistake in what the user gave.

    The message is one line that says what is wrong, where, and what to do; the command line prints it without a traceback.
    """


class PoorFitError(SimjaxError):
    """A calibration that has written its results but is no success."""


def closest(name: str, known: list[str]) -> str:
    """A hint for a misspelt name: the nearest known names, or all of them when nothing is near."""
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"


def attempt(make: Callable[[], T]) -> T | SimjaxError:
    """What `make` returns; or the mistake that it met, of whatever kind: one point of many must not end the others."""
    try:
        return make()
    except SimjaxError as error:
        return error
    except MemoryError:
        return SimjaxError("it does not fit the memory of this machine; simulate fewer requests or engines")
    except Exception as error:
        return SimjaxError(in_one_line(error))


def in_one_line(error: Exception) -> str:
    """What an error of any kind says, at most 300 characters of it."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether the host or, in the words of XLA, a device has run out of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
