"""Compiled programs of this process: each is compiled once, whichever thread wants it first, with an effort that its runs repay."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

import jax

from simjax.engine.control.whole_loops import loops_are_whole
from simjax.engine.executables import keeps_executables, kept

_compiled: dict[tuple, Callable[..., Any]] = {}
_compiling: dict[tuple, threading.Lock] = {}
_lock = threading.Lock()


class Effort(Enum):
    """How hard XLA tries on a CPU; on other devices there is no choice. Values are the same bit for bit, derivatives but for rounding.

    `FULL` is for large batches. `MEDIUM` takes half the time to compile; its kernels are as fast for a single cluster, whose arrays are
    small, and take 1.5 times as long for a batch. `BRIEF` takes a quarter of the time to compile, and some 50 microseconds more for each
    tick of a single cluster: it is for programs that run for a moment, and not for derivatives, of which it gets some wrong (jaxlib
    0.10.1 made one NaN).

    Where loops are compiled whole (`simjax.engine.control.whole_loops`), `FULL` is what `MEDIUM` is: the kernels that it would make better
    are not whole then.
    """

    FULL = ()
    MEDIUM = (("xla_cpu_use_fusion_emitters", False),)
    BRIEF = (("xla_cpu_use_fusion_emitters", False), ("xla_backend_optimization_level", 0))

    def options(self, platform: str | None = None) -> dict[str, Any]:
        """Compiler options for `jax.jit` or `Lowered.compile`; none where this version of XLA does not know them.

        Args:
            platform: kind of device; None for the default one.
        """
        value = Effort.MEDIUM.value if self is Effort.FULL and loops_are_whole() else self.value
        cpu = (platform or jax.default_backend()) == "cpu"
        return dict(value) if cpu and known(value) else {}


@functools.cache
def known(options: tuple[tuple[str, Any], ...]) -> bool:
    """Whether XLA knows the options for a CPU: they are its own, and may go with a new version."""
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compiled(
    function: Callable[..., Any], static: tuple, arguments: tuple, effort: Effort = Effort.FULL, keep: bool = False
) -> Callable[..., Any]:
    """`function` compiled for arguments of these shapes on the device that holds them.

    Args:
        function: function of the arguments.
        static: values that distinguish functions compiled for other static values; programs are looked up by them, not by `function`,
            on disk by their `repr`.
        arguments: arrays on a device, in pytrees.
        effort: how well it is compiled.
        keep: whether the program may be kept on disk, see `simjax.engine.executables`: its code depends on `static`, the shapes and
            simjax's sources alone.
    """
    leaves, structure = jax.tree.flatten(arguments)
    where = sorted({(device.platform, device.id) for x in leaves for device in x.devices()})  # the first of each kind has id 0
    key = (tuple(where), static, structure, tuple((x.shape, x.dtype) for x in leaves), effort)
    with _lock:
        busy = _compiling.setdefault(key, threading.Lock())
    with busy:  # of threads that want the same program one compiles it
        if key not in _compiled:
            if keep and keeps_executables() and where == [("cpu", 0)]:
                shapes = [(x.shape, str(x.dtype), x.weak_type) for x in leaves]
                _compiled[key] = kept(function, (static, str(structure), shapes, effort), arguments, partial(effort.options, "cpu"))
            else:
                _compiled[key] = jax.jit(function).lower(*arguments).compile(compiler_options=effort.options(where[0][0]))
    return _compiled[key]


def compile_count() -> int:
    """Number of distinct programs compiled in this process."""
    return len(_compiled)


def forget_programs() -> None:
    """Drop all compiled programs, for processes that compile thousands."""
    _compiled.clear()
