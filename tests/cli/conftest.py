"""The command line, called in this process, in an empty working directory."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from simjax.cli.main import main


class Said(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Calls `simjax ...`. The compilation cache is that of all tests; where the command line has its own is tested in processes."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Said:
        capsys.readouterr()
        code = 0
        try:
            main(list(words))
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call


def one_line(said: Said) -> str:
    """The line that a mistake is told in, without its prefix; nothing else may have been said, and no result left behind."""
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("simjax: error: "), said.err
    assert not list(Path("outputs").glob("*")), "an empty directory was left behind"
    return said.err.removeprefix("simjax: error: ").removesuffix("\n")
