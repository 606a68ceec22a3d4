"""`sweep.resume`: going on with sweeps that were killed, stopped, finished, edited, or have parts that never began."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simjax.explore.store.table import read_results
from tests.cli.conftest import Cli, one_line

SMALL = ["workload.num_requests=20", "plots=false"]
GRID = ["scheduler.max_num_seqs=8,16", "workload.rate=linspace(2,20,2)"]
WORDS = ["run", "-m", *GRID, *SMALL]
TABLE = Path("s/results.csv")
# `python -m simjax` that listens to SIGINT: jobs that a shell starts in the background ignore it, and so do their own processes.
LISTENING = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("simjax", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for the sweep that most tests begin with; the first of them makes it."""
    return tmp_path_factory.mktemp("finished") / "s"


@pytest.fixture
def swept(cli: Cli, finished: Path) -> Cli:
    """The command line in a directory with a sweep of four points in `s`."""
    if not finished.exists():
        said = cli(*WORDS, "objective.maximize=[requests_per_s]", "out=s")
        assert said.code == 0, said.err
        shutil.copytree("s", finished)
    else:
        shutil.copytree(finished, "s")
    return cli


def test_it_does_the_rest(swept: Cli) -> None:
    whole = TABLE.read_bytes()
    lines = whole.splitlines(keepends=True)
    for again in (["run", "sweep.resume=s", "plots=false"], [*WORDS, "sweep.resume=s"]):
        TABLE.write_bytes(b"".join(lines[:2]) + lines[2][:10])
        said = swept(*again)
        assert said.code == 0, said.err
        assert TABLE.read_bytes() == whole
        assert "highest requests_per_s" in said.out, "the sweep's own objective was forgotten"


def test_what_is_another_sweep_is_refused(swept: Cli) -> None:
    for other in (["scheduler.max_num_seqs=8,17", GRID[1]], [*GRID, "model=qwen3-8b"]):
        assert one_line(swept("run", "-m", *other, *SMALL, "sweep.resume=s")).startswith("sweep.resume=s: other ")
    Path("s/points.csv").write_text(Path("s/points.csv").read_text().replace("20.0", "21.0"))
    assert "s/points.csv: changed since the sweep began" in one_line(swept("run", "sweep.resume=s"))


def test_a_sweep_that_lacks_nothing_gets_its_front_anew(swept: Cli) -> None:
    whole, front = TABLE.read_bytes(), Path("s/pareto.csv").read_bytes()
    Path("s/pareto.csv").unlink()
    said = swept("run", "sweep.resume=s")
    assert said.code == 0, said.err
    assert "4 points: 4 finished" in said.out
    assert TABLE.read_bytes() == whole
    assert Path("s/pareto.csv").read_bytes() == front
    assert Path("s/pareto.png").exists()


def test_killed_after_the_last_row_and_before_the_tables(cli: Cli) -> None:
    """The rows are there in the order in which they were done, and nothing was made of them."""
    assert cli(*WORDS, "sweep.seeds=2", "out=s").code == 0
    kept = ("results.csv", "designs.csv", "pareto.csv")
    whole = {name: Path("s", name).read_bytes() for name in kept}
    header, *rows = TABLE.read_bytes().splitlines(keepends=True)
    for path in Path("s").iterdir():
        if path.name not in ("sweep.json", "points.csv"):
            path.unlink()
    TABLE.write_bytes(b"".join([header, *reversed(rows)]))
    said = cli("run", "sweep.resume=s", "plots=false")
    assert said.code == 0, said.err
    assert {name: Path("s", name).read_bytes() for name in kept} == whole


def test_a_dry_run_says_what_is_left(swept: Cli) -> None:
    header, *rows = TABLE.read_bytes().splitlines(keepends=True)
    TABLE.write_bytes(b"".join([header, rows[0], rows[2], rows[3], rows[1][:10]]))
    before = {path: path.read_bytes() for path in Path("s").iterdir()}
    said = swept("run", "sweep.resume=s", "sweep.dry_run=true")
    assert said.code == 0, said.err
    first, second, *_ = said.out.splitlines()
    assert first == "s: 3 of 4 points done (0, 2-3), 1 left"
    assert "1 to simulate, 0 invalid; 1 program to compile" in second
    TABLE.write_bytes(b"".join([header, *rows]))
    said = swept("run", "sweep.resume=s", "sweep.dry_run=true")
    assert (said.code, said.out) == (0, "s: 4 of 4 points done (0-3), 0 left\n")
    TABLE.write_bytes(before[TABLE])
    assert {path: path.read_bytes() for path in Path("s").iterdir()} == before, "a dry run wrote something"


def test_a_directory_that_is_taken_is_refused_before_the_plan_is_made(swept: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(*_: object, **__: object) -> None:
        raise AssertionError("it took the time to plan first")

    monkeypatch.setattr("simjax.explore.plan.plan_sweep", planned)
    line = "s: holds a sweep already; resume it with sweep.resume=s, or give another directory"
    assert one_line(swept(*WORDS, "out=s")) == line


@pytest.mark.parametrize("name", ["my dir", "it's ünï", 'a "b",c', "2026-11-25"])
def test_what_is_said_can_be_pasted(swept: Cli, name: str) -> None:
    shutil.copytree("s", name)
    said = swept(*WORDS, f'out="{name.replace(chr(34), chr(92) + chr(34))}"')
    assert said.code == 2
    words = said.err[said.err.index(" with ") + len(" with ") : said.err.index(", or give another")]
    said = swept("run", *shlex.split(words), "sweep.dry_run=true")
    assert (said.code, said.out) == (0, f"{name}: 4 of 4 points done (0-3), 0 left\n"), said.err


def test_an_edited_table(swept: Cli) -> None:
    whole = TABLE.read_text()
    TABLE.write_text(whole + "\n")
    assert swept("run", "sweep.resume=s", "plots=false").code == 0
    assert TABLE.read_text() == whole
    TABLE.write_text(whole.replace("\n1,8,20.0,", "\n1,8,25.0,"))
    line = one_line(swept("run", "sweep.resume=s"))
    assert line.startswith(
        "s/results.csv: row 2 was changed: workload.rate is 25.0 there, 20.0 in points.csv for point 1; put it back, or "
    )


def test_parts_that_never_began(cli: Cli) -> None:
    assert cli(*WORDS, "out=whole").code == 0
    assert cli(*WORDS, "out=s", "sweep.shard=1/3").code == 0
    line = one_line(cli("run", "sweep.resume=s"))
    assert line == "s: it holds parts of a sweep (1/3); resume all with -m sweep.resume=s sweep.shard=1/3,2/3,3/3"
    assert one_line(cli("run", "sweep.resume=s", "sweep.shard=2/4")) == line
    assert "other settings than this sweep's" in one_line(cli("run", "sweep.resume=s", "sweep.shard=2/3", "model=qwen3-8b"))
    other = cli("run", "-m", "scheduler.max_num_seqs=8,17", *SMALL, "sweep.resume=s", "sweep.shard=2/3")
    assert "other points than this sweep's" in one_line(other)
    assert sorted(path.name for path in Path("s").iterdir()) == ["shard-1-of-3"]
    said = cli("run", "sweep.resume=s", "sweep.shard=2/3", "plots=false")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1] == "results in s/shard-2-of-3"
    said = cli("run", *shlex.split(line[line.index("-m ") :]), "plots=false")
    assert said.code == 0, said.err
    assert read_results("s").equals(read_results("whole"))
    assert not list(Path("outputs").rglob("*.csv")), "the launcher's own folders hold results"


def test_a_part_without_points(cli: Cli) -> None:
    for where in ("out=s", "sweep.resume=s"):
        said = cli("run", "-m", "workload.rate=2,20", *SMALL, where, "sweep.shard=9/9")
        assert said.code == 0
        assert said.out == "s/shard-9-of-9: nothing to simulate: there are more parts of this sweep than designs\n"
        assert "Traceback" not in said.err


@pytest.mark.skipif(os.name != "posix", reason="interrupts a process with a signal")
def test_ctrl_c_waits_for_no_batch(tmp_path: Path) -> None:
    """Batches that would run for a minute and a half; the point that is no design has its row at once."""
    points = ["scheduler.max_num_seqs=0,256,250", "workload.rate=0.5", "sim.leap=false", "workload.num_requests=50_000"]
    command = [sys.executable, "-c", LISTENING, "run", "-m", *points, "plots=false", "out=my sweep"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "my sweep" / "results.csv").exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)  # it may be compiling, which nothing interrupts
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "simjax: interrupted; what is done is in my sweep; simjax run 'sweep.resume=my sweep' continues it"
    assert read_results(tmp_path / "my sweep")["status"].tolist() == ["invalid"]
    assert json.loads((tmp_path / "my sweep" / "sweep.json").read_text())["points"] == 3
    assert not (tmp_path / "my sweep" / "sweep.lock").exists()
