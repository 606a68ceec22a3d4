"""Executables on disk between processes: a program that is there already is neither traced nor lowered nor looked for by its code.

jax's own cache keeps executables under a hash of their code, which has to be traced and lowered first: for one run of some hundred requests
that takes longer than all the rest. Here they are in `simjax.disk.stored`, under simjax's sources, the static values and the shapes of the
arguments. Only for CPUs, and only where a command has asked for it (`keep_executables`): who changes parts of the engine while it runs, as
tests do, must get programs of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from simjax.disk.stored import keeps, processor, stored

KEPT = "simjax_kept"
"""Beginning of the names of programs that are kept here: another cache need not keep them again, and must not give them out, for an
executable that has been read once cannot be written again."""

_keeps = False


def keep_executables(keep: bool = True) -> None:
    """Whether programs that are compiled from now on are kept on disk; jax's cache must leave those alone whose name begins with `KEPT`."""
    global _keeps
    _keeps = keep


def keeps_executables() -> bool:
    """Whether they are."""
    return _keeps and keeps()


class _Entry(NamedTuple):
    """What is stored: the executable as jax writes it, and the structure of its results, as a tree of their numbers."""

    executable: bytes
    results: Any


def kept(function: Callable[..., Any], key: tuple, arguments: tuple, options: Callable[[], dict[str, Any]]) -> Callable[..., Any]:
    """`function` compiled for a CPU, or what an earlier process has compiled for the same key.

    Args:
        function: function of the arguments, whose code depends on the key and simjax's sources alone.
        key: static values, the shapes of the arguments and the effort of the compiler; their `repr` tells programs apart.
        arguments: arrays on the first CPU, in pytrees.
        options: options of the compiler, by the effort; asked for where it compiles.
    """
    fresh: list[Callable[..., Any]] = []

    def compile_anew() -> Callable[..., Any]:
        def program(*arguments: Any) -> Any:
            return function(*arguments)

        program.__name__ = KEPT
        fresh.append(jax.jit(program).lower(*arguments).compile(compiler_options=options()))
        return fresh[0]

    try:
        inputs = [repr(key), os.environ.get("XLA_FLAGS", ""), processor(), repr(_traced_under())]
        entry = stored("program", inputs, lambda: _written(compile_anew()))
        return fresh[0] if fresh else _read(entry, arguments)
    except (ValueError, NotImplementedError, ImportError, AttributeError, KeyError, TypeError, jax.errors.JaxRuntimeError):
        # This version of jax writes no such executable, or reads none: it is compiled, if it has not been.
        return fresh[0] if fresh else compile_anew()


def _traced_under() -> tuple:
    """Settings of jax that change what is traced."""
    config = jax.config
    return bool(config.values["jax_enable_x64"]), config.values["jax_default_matmul_precision"], bool(config.values["jax_debug_nans"])


def _written(program: Any) -> _Entry:
    from jax.experimental import serialize_executable

    executable, _, results = serialize_executable.serialize(program)
    return _Entry(executable, jax.tree.unflatten(results, range(results.num_leaves)))


def _read(entry: _Entry, arguments: tuple) -> Callable[..., Any]:
    from jax.experimental import serialize_executable

    device, structure = jax.devices("cpu")[0], jax.tree.structure((arguments, {}))
    return serialize_executable.deserialize_and_load(
        entry.executable, structure, jax.tree.structure(entry.results), device.client, [device]
    )
