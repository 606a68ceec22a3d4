"""Entries of the compilation cache that are damaged or stand for another program are noticed, removed and written anew."""

import zlib
from pathlib import Path

import pytest

from simjax.cli.checked_cache import CheckedCache

PROGRAM = zlib.compress(b"a program" * 100)


def test_an_entry_comes_back_and_jax_can_read_it(tmp_path: Path) -> None:
    cache = CheckedCache(tmp_path, own=True)
    assert cache.get("a") is None
    cache.put("a", PROGRAM)
    assert cache.get("a") == PROGRAM
    assert zlib.decompress((tmp_path / "a-cache").read_bytes()) == b"a program" * 100  # as jax does without this cache


@pytest.mark.parametrize("own", [True, False])
def test_damaged_and_exchanged_entries_are_told_once_and_removed(tmp_path: Path, own: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cache = CheckedCache(tmp_path, own)
    for key in "abc":
        cache.put(key, PROGRAM + key.encode())
    a, b, c = (tmp_path / f"{key}-cache" for key in "abc")
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    c.write_bytes(b"y" + c.read_bytes()[1:])
    assert [cache.get(key) for key in "abc"] == [None] * 3
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == f"warning: {tmp_path}: a compiled program in this cache was damaged; it is compiled anew\n"
    cache.put("a", PROGRAM)
    assert cache.get("a") == PROGRAM


def test_entries_of_jax_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Taken where others write too, and replaced where they cannot be read; not taken in simjax's own folder."""
    (tmp_path / "a-cache").write_bytes(PROGRAM)
    shared = CheckedCache(tmp_path, own=False)
    assert shared.get("a") == PROGRAM
    shared.put("a", PROGRAM[:-1])  # jax asks for it when it could not use what it got
    assert shared.get("a") == PROGRAM[:-1]
    (tmp_path / "b-cache").write_bytes(PROGRAM)
    assert CheckedCache(tmp_path, own=True).get("b") is None
    assert not (tmp_path / "b-cache").exists()
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    cache = CheckedCache(tmp_path / "nowhere", own=True)
    cache.put("a", PROGRAM)
    assert cache.get("a") is None


def test_programs_that_are_kept_elsewhere_are_left_alone(tmp_path: Path) -> None:
    CheckedCache(tmp_path, own=True).put("jit_kept-1", PROGRAM)
    cache = CheckedCache(tmp_path, True, "jit_kept-")
    assert cache.get("jit_kept-1") is None and cache.discarded == 0
    cache.put("jit_kept-2", PROGRAM)
    cache.put("jit_other-2", PROGRAM)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jit_kept-1-cache", "jit_other-2-cache"]
