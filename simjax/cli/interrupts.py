"""Ctrl-C and SIGTERM: they end the program at any moment, without a traceback, and with a word on how to go on.

A signal becomes a `KeyboardInterrupt` in the main thread, whose cleanup is the usual one. Where that thread does not notice, because it
compiles or simulates in C++, another one ends the program: what is on disk is whole at any moment, and a lock ends with its holder.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from simjax.disk.files import remove_temporary

NOTHING = "nothing was written"
_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_NOTICE_S, _CLEANUP_S = 2.0, 10.0  # for the main thread, before it is no longer waited for
_SHOW_CURSOR = "\x1b[?25h"  # which a progress bar has hidden

_hints: list[Callable[[], str]] = []
_told: list[str] = []
_noticed = threading.Event()


class Interrupted(KeyboardInterrupt):
    """A signal that asks the program to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def hint(on_interrupt: Callable[[], str]) -> Iterator[None]:
    """Say, if the block is interrupted, what `on_interrupt()` returns: what is on disk, and how to go on. The innermost hint counts."""
    _hints.append(on_interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if not _told:
            _told.append(on_interrupt())
        raise
    finally:
        _hints.pop()


def listen() -> None:
    """Handle the two signals from now on; one that the parent process has set to be ignored stays ignored."""
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    sys.unraisablehook = _unraisable
    threading.Thread(target=_watch, args=(reading, writing), name="interrupts", daemon=True).start()
    for number in numbers:
        signal.signal(number, _raise)


def done() -> None:
    """Ignore the signals from now on: everything is written, and the program is about to end."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_IGN)


def received() -> bool:
    """Whether a signal has come: an error after it may be that of a library which the interrupt met."""
    return _noticed.is_set()


def report(error: BaseException) -> int:
    """Print the line that an interrupt gets; returns the exit code, 130 after Ctrl-C and 143 after SIGTERM."""
    number = error.number if isinstance(error, Interrupted) else signal.SIGINT
    print(f"simjax: {_SIGNALS[signal.Signals(number)]}; {_told[-1] if _told else NOTHING}", file=sys.stderr)
    _told.clear()
    return 128 + number


def leave(code: int) -> NoReturn:
    """End the program at once. The interpreter would wait for simulations whose results are not wanted, and crash under a running one."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _raise(number: int, _: object) -> None:
    again = _noticed.is_set()
    _noticed.set()
    if again:  # asked twice
        _leave_now(number)
    raise Interrupted(number)


def _watch(signals: socket.socket, _: socket.socket) -> None:
    while received := signals.recv(1):
        number = received[0]
        if number not in _SIGNALS:
            continue
        _noticed.wait(_NOTICE_S)
        if _noticed.is_set():
            threading.Event().wait(_CLEANUP_S)
        _leave_now(number)


def _leave_now(number: int) -> NoReturn:
    remove_temporary()
    with suppress(Exception):
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)
        if not _told and _hints:
            _told.append(_hints[-1]())
        report(Interrupted(number))
    leave(128 + number)


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    """Python cannot pass on what is raised in a destructor or a callback, and would print it and go on."""
    if isinstance(found.exc_value, Interrupted):
        _leave_now(found.exc_value.number)
    sys.__unraisablehook__(found)
