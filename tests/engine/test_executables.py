"""Executables on disk: one entry for each program, read instead of compiled, and compiled where none can be written or read.

That another process finds them, and gives the same results, is in tests/cli/test_main.py: the compilation cache that all tests share gives
executables that have been read, and these cannot be written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.engine import executables, programs
from simjax.engine.executables import KEPT, keep_executables
from simjax.engine.programs import Effort, compiled

A, B = jnp.arange(4, dtype=jnp.int32), jnp.arange(5, dtype=jnp.int32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where entries are; a text stands for an executable, and reading one gives a function that says so."""
    monkeypatch.setenv("SIMJAX_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(executables, "_written", lambda program: f"written of {program.as_text().split()[1]}")
    monkeypatch.setattr(executables, "_read", lambda entry, arguments: lambda *_: entry)
    monkeypatch.setattr(programs, "_compiled", {})
    keep_executables()
    yield tmp_path / "kept"
    keep_executables(False)


def in_another_process(*words: Any, **options: Any) -> Any:
    """What a program gives to a process that has compiled nothing."""
    programs._compiled.clear()
    function, static, arguments = words
    return compiled(function, static, arguments, Effort.BRIEF, **options)(*arguments)


def twice(x: jax.Array) -> jax.Array:
    return 2 * x


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="executables are kept for CPUs only")
def test_a_program_is_written_once_and_then_read(folder: Path) -> None:
    np.testing.assert_array_equal(in_another_process(twice, ("a", 1), (A,), keep=True), 2 * A)
    assert [entry.name.partition("-")[0] for entry in folder.iterdir()] == ["program"]
    found = in_another_process(twice, ("a", 1), (A,), keep=True)
    assert isinstance(found, str) and KEPT in found, "the program has the name by which another cache leaves it alone"
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("other", [(("a", 2), (A,)), (("a", 1), (B,)), (("a", 1), (A.astype(jnp.float32),)), (("a", 1), ([A],))])
def test_other_static_values_shapes_types_and_structures_are_other_programs(folder: Path, other: tuple) -> None:
    def same(x: Any) -> Any:
        return x

    in_another_process(same, ("a", 1), (A,), keep=True)
    found = in_another_process(same, *other, keep=True)
    assert not isinstance(found, str) and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("name, value", [("XLA_FLAGS", "--xla_other=1"), (None, "another processor")])
def test_other_options_of_xla_and_other_processors_are_other_programs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, value: str
) -> None:
    in_another_process(twice, ("a", 1), (A,), keep=True)
    if name is None:
        monkeypatch.setattr(executables, "processor", lambda: value)
    else:
        monkeypatch.setenv(name, value)
    assert not isinstance(in_another_process(twice, ("a", 1), (A,), keep=True), str)


def test_only_where_it_is_asked_for(folder: Path) -> None:
    in_another_process(twice, ("a", 1), (A,))
    keep_executables(False)
    in_another_process(twice, ("a", 1), (A,), keep=True)
    assert not folder.exists()


@pytest.mark.parametrize("which", ["_written", "_read"])
def test_what_cannot_be_written_or_read_is_compiled(folder: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    def refuse(*_: Any) -> Callable[..., Any]:
        raise ValueError("another version of jax")

    monkeypatch.setattr(executables, which, refuse)
    for _ in range(2):
        np.testing.assert_array_equal(in_another_process(twice, ("a", 1), (A,), keep=True), 2 * A)
