"""How tests compile: their programs run for milliseconds and compile for seconds.

What simjax compiles for a run or a batch is compiled briefly up to sizes for which its users want better kernels: values are the same bit
for bit whatever the effort (`tests/engine/test_programs.py`). Derivatives are compiled with `Effort.MEDIUM`, as they are for users, for a
brief one may get them wrong; those that tests compile themselves have their options from `quickly`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import pytest

from simjax.engine import batch, simulate
from simjax.engine.programs import Effort, known

OF_TESTS = {
    (simulate, "BRIEF_REQUESTS"): 2_048,
    (simulate, "BRIEF_REQUESTS_WHOLE"): 2_048,
    (batch, "BRIEF_TICKS"): 49_152,
    (batch, "MEDIUM_TICKS"): 4_194_304,
}
OF_USERS = {(module, name): getattr(module, name) for module, name in OF_TESTS}
# The parts are compiled side by side, in a fifth more processor time altogether; the workers of the tests leave no core for that.
IN_ONE_PART = ("xla_cpu_parallel_codegen_split_count", 1)
_options_of_users = Effort.options


def _options(effort: Effort, platform: str | None = None) -> dict[str, Any]:
    """Compiler options of an effort, with one that changes no program."""
    options = _options_of_users(effort, platform)
    return options | dict([IN_ONE_PART]) if options and known((IN_ONE_PART,)) else options


@contextmanager
def efforts(most: dict) -> Iterator[None]:
    """Programs of this process are compiled with the efforts for these sizes: `OF_TESTS`, or `OF_USERS`."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), size in most.items():
            patch.setattr(module, name, size)
        patch.setattr(Effort, "options", _options_of_users if most is OF_USERS else _options)
        yield


def quickly() -> dict[str, Any]:
    """Compiler options for a derivative."""
    return _options(Effort.MEDIUM)


def jit(function: Callable[..., Any], **more: Any) -> Any:
    """`jax.jit` with these options, for programs of tests that hold a whole run: without options they take the full effort."""
    return jax.jit(function, compiler_options=quickly(), **more)
