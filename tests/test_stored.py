"""What is kept on disk between processes: found again for the same inputs, made anew for others or if it is damaged."""

import os
from pathlib import Path

import pytest

from simjax.disk import stored as module
from simjax.disk.stored import stored


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIMJAX_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


class Maker:
    """Counts how often it makes its object."""

    def __init__(self, value: object) -> None:
        self.value, self.calls = value, 0

    def __call__(self) -> object:
        self.calls += 1
        return self.value


def test_made_once_for_the_same_inputs(folder: Path) -> None:
    make = Maker({"a": [1.5, None]})
    assert [stored("kind", ["x", b"y"], make) for _ in range(3)] == [make.value] * 3
    assert make.calls == 1
    assert [entry.name.partition("-")[0] for entry in folder.iterdir()] == ["kind"]


@pytest.mark.parametrize("inputs", [["x", "z"], ["x"], ["xy"], ["", "xy"], []])
def test_other_inputs_are_other_entries(folder: Path, inputs: list[str]) -> None:
    first, other = Maker(1), Maker(2)
    stored("kind", ["x", "y"], first)
    assert stored("kind", inputs, other) == 2


def test_other_sources_are_other_entries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = Maker(1), Maker(2)
    stored("kind", ["x"], first)
    monkeypatch.setattr(module, "_surroundings", lambda: b"another release")
    assert stored("kind", ["x"], other) == 2


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:40], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_entry_is_made_anew(folder: Path, damage) -> None:
    make = Maker("whole")
    stored("kind", ["x"], make)
    (entry,) = folder.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert stored("kind", ["x"], make) == "whole" and make.calls == 2
    assert stored("kind", ["x"], make) == "whole" and make.calls == 2


def test_an_error_is_not_kept(folder: Path) -> None:
    def fail() -> None:
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            stored("kind", ["x"], fail)
    assert not folder.exists()


def test_off_keeps_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMJAX_CACHE", "off")
    make = Maker(None)
    assert stored("kind", ["x"], make) is None and stored("kind", ["x"], make) is None
    assert make.calls == 2 and not folder.exists()


def test_a_folder_that_cannot_be_made_is_no_error(folder: Path) -> None:
    folder.write_text("a file")
    make = Maker(3)
    assert stored("kind", ["x"], make) == stored("kind", ["x"], make) == 3


def test_the_oldest_entries_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 2_500)
    for number in range(3):
        stored("kind", [str(number)], lambda: "x" * 1_000)
        for entry in folder.iterdir():
            os.utime(entry, (entry.stat().st_mtime - 100,) * 2)
    assert len(list(folder.iterdir())) == 2
    again = Maker("new")
    assert stored("kind", ["2"], again) == "x" * 1_000
    assert stored("kind", ["0"], again) == "new"
