"""Compiled programs of this process: each is compiled once, whichever thread wants it first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import jax

_compiled: dict[tuple, Callable[..., Any]] = {}
_compiling: dict[tuple, threading.Lock] = {}
_lock = threading.Lock()


def compiled(function: Callable[..., Any], static: tuple, arguments: tuple) -> Callable[..., Any]:
    """`function` compiled for arguments of these shapes on the device that holds them.

    Args:
        function: function of the arguments.
        static: values that distinguish functions compiled for other static values; programs are looked up by them, not by `function`.
        arguments: arrays on a device, in pytrees.
    """
    leaves, structure = jax.tree.flatten(arguments)
    where = sorted({(device.platform, device.id) for x in leaves for device in x.devices()})  # the first of each kind has id 0
    key = (tuple(where), static, structure, tuple((x.shape, x.dtype) for x in leaves))
    with _lock:
        busy = _compiling.setdefault(key, threading.Lock())
    with busy:  # of threads that want the same program one compiles it
        if key not in _compiled:
            _compiled[key] = jax.jit(function).lower(*arguments).compile()
    return _compiled[key]


def compile_count() -> int:
    """Number of distinct programs compiled in this process."""
    return len(_compiled)


def forget_programs() -> None:
    """Drop all compiled programs, for processes that compile thousands."""
    _compiled.clear()
