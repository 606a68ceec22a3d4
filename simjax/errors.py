"""Errors: the one exception that users see, and how other errors are turned into it."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TRACEBACK = "SIMJAX_TRACEBACK"
"""Environment variable: 1 prints the traceback of errors that become one line of a table or a message."""

logger = logging.getLogger(__name__)


class SimjaxError(ValueError):
    """A mistake in the user's input.

    The message is one line that says what is wrong, where, and what to do; the command line prints it without a traceback.
    """


class PoorFitError(SimjaxError):
    """A calibration that has written its results but does not fit well."""


def closest(name: str, known: list[str]) -> str:
    """A hint for a misspelt name: the nearest known names, or all of them when none is near."""
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"


def value_or_error(make: Callable[[], T]) -> T | SimjaxError:
    """The value of `make()`, or its error as a `SimjaxError`: one point of many must not end the others.

    The traceback of an error that is not a `SimjaxError` is kept for developers by `log_traceback`.
    """
    try:
        return make()
    except SimjaxError as error:
        return error
    except MemoryError as error:
        log_traceback(error)
        return SimjaxError("it does not fit the memory of this machine; simulate fewer requests or instances")
    except Exception as error:
        log_traceback(error)
        return SimjaxError(in_one_line(error))


def value_or_raise(value: T | SimjaxError) -> T:
    """The value, where `value_or_error` gave one.

    Raises:
        SimjaxError: it gave the error instead.
    """
    if isinstance(value, SimjaxError):
        raise value
    return value


def log_traceback(error: Exception) -> None:
    """Log the traceback of an error that is about to become one line, at level DEBUG; print it on stderr with `SIMJAX_TRACEBACK=1`."""
    logger.debug("an error that is reported in one line", exc_info=error)
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        traceback.print_exception(error)


def in_one_line(error: Exception) -> str:
    """The type and message of an error in one line, cut to 300 characters of the message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether the host or, as XLA words it, a device has run out of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
