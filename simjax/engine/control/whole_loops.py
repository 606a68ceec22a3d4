"""Loops that XLA compiles whole for a CPU: one kernel instead of one for each step of the loop's body.

XLA's CPU backend runs the body of a loop as a list of kernels, one after the other, with a table of buffers between them; that takes more
time than the few numbers which a tick of a single cluster computes. Loops whose buffers are small it compiles as one function. What is
small is a debug option, and simjax raises it: a tick takes a third to a fifth of the time, and its program half as long again to compile.
XLA reads its options once, when the first backend of the process starts, and they hold for all programs of the process.
"""

from __future__ import annotations

import os
import sys

_FLAG, _OPTION = "--xla_backend_extra_options=", "xla_cpu_small_while_loop_byte_threshold"
_BYTES = 2**40  # more than any loop has


def make_loops_whole() -> bool:
    """Let XLA compile the loops of this process's programs whole on CPUs, if no JAX backend has started; results stay the same.

    The option is added to `XLA_FLAGS` in the environment, and so is that of processes which this one starts. Values of `XLA_FLAGS` stay; a
    threshold that it names already is not changed. A version of XLA without the option ignores it.

    Returns:
        Whether loops are whole; False if a backend has started without the option.
    """
    if loops_are_whole():
        return True
    if _has_started():
        return False
    words = os.environ.get("XLA_FLAGS", "").split()
    others = [word for word in words if not word.startswith(_FLAG)]
    extra = [word.removeprefix(_FLAG) for word in words if word.startswith(_FLAG)][-1:]  # of several, XLA takes the last one
    os.environ["XLA_FLAGS"] = " ".join([*others, _FLAG + ",".join([*extra, f"{_OPTION}={_BYTES}"])])
    return True


def loops_are_whole() -> bool:
    """Whether the process's environment asks for it."""
    return _OPTION in os.environ.get("XLA_FLAGS", "")


def _has_started() -> bool:
    """Whether XLA has read its options."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()
