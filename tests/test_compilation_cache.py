"""The compilation cache that the tests share: where it is, and what is thrown away."""

import os
import subprocess
import sys
import zlib
from importlib.metadata import version
from pathlib import Path

import pytest

from tests import compilation_cache
from tests.compilation_cache import SETTINGS, share_compilation_cache, tidy, without_shared_cache

ROOT = Path(__file__).parents[1]


def chosen(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Path:
    """The directory that a process with this environment would take."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "SIMJAX_TEST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    share_compilation_cache()
    return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])


def test_it_is_that_of_one_version_and_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(monkeypatch, XDG_CACHE_HOME=str(tmp_path))
    assert found.parent == tmp_path / "simjax-tests" and found.is_dir()
    assert version("jax") in found.name and version("jaxlib") in found.name
    assert chosen(monkeypatch, SIMJAX_TEST_CACHE=str(tmp_path / "own"), XDG_CACHE_HOME=str(tmp_path)) == tmp_path / "own" / found.name
    monkeypatch.setattr(compilation_cache, "_processor", lambda: "another")
    other = chosen(monkeypatch, XDG_CACHE_HOME=str(tmp_path))
    assert other.parent == found.parent and other != found


def test_a_directory_that_was_chosen_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "jax")) == tmp_path / "jax"


def test_where_nothing_can_be_written_it_lasts_for_the_session(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = "import os, tests; print(os.environ['JAX_COMPILATION_CACHE_DIR'], os.path.isdir(os.environ['JAX_COMPILATION_CACHE_DIR']))"
    environment = without_shared_cache() | {"SIMJAX_TEST_CACHE": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    path, there = said.split()
    assert Path(path).parent == tmp_path and there == "True"
    assert not Path(path).exists(), "the process that made it is over"


def test_this_session_has_one() -> None:
    import jax

    assert jax.config.values["jax_compilation_cache_dir"] == os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert set(SETTINGS) <= set(os.environ)
    assert not (set(SETTINGS) | {"JAX_COMPILATION_CACHE_DIR"}) & set(without_shared_cache())


def test_what_is_half_written_or_too_much_is_removed(tmp_path: Path) -> None:
    whole = zlib.compress(bytes(range(256)) * 100)
    for age, (name, packed) in enumerate(
        {"new": whole, "cut": whole[:-9], "empty": b"", "wrong": whole[:9] + b"?" + whole[10:], "old": whole}.items()
    ):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(packed)
        os.utime(path, (1e9 - age, 1e9 - age))
    tidy(tmp_path)
    assert {path.name for path in tmp_path.glob("*-cache")} == {"new-cache", "old-cache"}
    tidy(tmp_path, largest=len(whole))
    assert {path.name for path in tmp_path.glob("*-cache")} == {"new-cache"}
