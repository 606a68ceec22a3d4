"""Every mistake is told in one line on stderr: what is wrong, where, what to do. Exit code 2, no traceback, nothing left behind."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli, one_line
from tests.cli.mistakes import ALL, FILES


@pytest.fixture
def in_files(cli: Cli) -> Cli:
    """The command line in a directory that holds `FILES`."""
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    return cli


@pytest.mark.parametrize(("words", "part"), ALL)
def test_mistake(in_files: Cli, words: list[str], part: str) -> None:
    assert part in one_line(in_files(*words))


def test_profile_measured_at_other_degrees(in_files: Cli) -> None:
    from simjax.disk.paths import PROFILES

    said = in_files("run", "model=qwen3-32b", "cluster.tensor_parallel_size=8", f"profile={PROFILES}/latency/rtx_pro_6000/qwen3-32b.yaml")
    line = one_line(said)
    assert "profile for another tensor-parallel degree: asked for tensor_parallel_size=8, measured 1, 2" in line


@pytest.mark.parametrize("option", ["workload.file", "cluster.file", "model", "device"])
def test_files_that_are_not_text(in_files: Cli, option: str) -> None:
    name = {"model": "binary.json", "device": "binary.yaml"}.get(option, "binary")
    Path(name).write_bytes(bytes(range(128, 256)))
    words = ["workload=trace"] if option == "workload.file" else []
    line = one_line(in_files("run", *words, f"{option}={name}"))
    assert name in line
    assert "not a text file" in line


def test_file_names_are_taken_as_they_are(in_files: Cli) -> None:
    """Names with the characters of Hydra's grammar, and one that looks like an option."""
    for name in ("it's.csv", "a,b [1].csv", "rate=4.csv"):
        Path(name).write_text(FILES["good.csv"])
        said = in_files("trace", "describe", name, "out=described")
        assert said.code == 0, said
        assert name in said.out


def test_skipped_rows_are_counted_on_stderr(in_files: Cli) -> None:
    said = in_files("trace", "describe", "word.csv", "workload.on_bad_row=skip", "out=described")
    assert said.code == 0
    assert said.err == "warning: word.csv: 1 of 2 rows are malformed and were skipped\n"
