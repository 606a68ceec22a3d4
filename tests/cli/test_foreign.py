"""Folders of results from somebody else: they choose no path, read no environment, and write nowhere else; what was changed is noticed."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, one_line
from tests.explore.forged import reseal, sign

WORDS = ["run", "-m", "workload.rate=2,4", "workload.num_requests=20", "plots=false", "out=s"]
COMMANDS = (["pareto", "s", "plots=false"], ["run", "sweep.resume=s", "plots=false"], ["show-point", "s", "0", "plots=false", "out=here"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for the sweep that the tests begin with; the first of them makes it."""
    return tmp_path_factory.mktemp("made") / "s"


@pytest.fixture
def swept(cli: Cli, made: Path) -> Cli:
    """The command line in a directory with a sweep of two points in `s`, and a file elsewhere."""
    Path("home").mkdir()
    Path("home/bashrc").write_text("precious")
    if made.exists():
        shutil.copytree(made, "s")
    else:
        assert cli(*WORDS).code == 0
        shutil.copytree("s", made)
    return cli


def forge_base(*more: str) -> None:
    """A sweep whose points have more overrides, with checksums that fit."""
    file = Path("s/sweep.json")
    sign(file, base=[*json.loads(file.read_text())["base"], *more])


@pytest.mark.parametrize("make", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_nothing_is_written_through_links(swept: Cli, command: list[str], make: Callable[..., None]) -> None:
    names = ["pareto.csv", "pareto.png", "designs.csv", "results.parquet", ".results.csv.unfinished", "summary.json", "requests.csv"]
    Path("here").mkdir()
    for folder in ("s", "here"):
        for name in [*names, "config.yaml", "timeseries.csv"]:
            Path(folder, name).unlink(missing_ok=True)
            make("../home/bashrc" if make is os.symlink else "home/bashrc", Path(folder, name))
    said = swept(*command)
    assert said.code == 0, said.err
    assert Path("home/bashrc").read_text() == "precious"
    assert sorted(path.name for path in Path("home").iterdir()) == ["bashrc"]


@pytest.mark.parametrize("name", ["results.csv", "sweep.lock"])
def test_files_that_a_resumed_sweep_goes_on_with_may_be_no_links(swept: Cli, name: str) -> None:
    content = b"".join(Path("s/results.csv").read_bytes().splitlines(keepends=True)[:2])
    Path("s/results.csv").write_bytes(content)
    Path("home/bashrc").write_bytes(content)
    Path("s", name).unlink(missing_ok=True)
    Path("s", name).symlink_to("../home/bashrc")
    said = swept("run", "sweep.resume=s", "plots=false")
    assert Path("home/bashrc").read_bytes() == content
    if name == "sweep.lock":
        assert one_line(said) == "s/sweep.lock: cannot write it: it is a symbolic link; remove it"
    else:  # a copy takes its place
        assert said.code == 0 and len(Path("s/results.csv").read_bytes().splitlines()) == 3, said.err


def test_a_part_may_be_no_link(cli: Cli) -> None:
    Path("s").mkdir()
    Path("home").mkdir()
    Path("s/shard-1-of-2").symlink_to("../home")
    assert one_line(cli(*WORDS, "sweep.shard=1/2")) == "s/shard-1-of-2: it is a symbolic link; put the directory itself there"
    assert not list(Path("home").iterdir())


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("out=elsewhere", "out=elsewhere: this is no option of a point"),
        ("+out=elsewhere", "this is no option of a point"),
        ("sweep.resume=x", "this is no option of a point"),
        ("model=${oc.env:HOME}", "asks for more than another option"),
        (r"model=$\{oc.env:HOME\}", "asks for more than another option"),
        ("model='${oc.env:HOME}'", "asks for more than another option"),
        ("cluster.groups=[{model: '${oc.env:HOME}'}]", "asks for more than another option"),
        ("workload=../../x", "presets are named, not given as paths"),
        ("profile.file=home/bashrc", "it names home/bashrc, which was not there when the sweep began"),
        ("model=home/bashrc", "it names home/bashrc"),
        ("cluster.groups=[{device: home/bashrc}]", "it names home/bashrc"),
        ("workload.file=/dev/zero", "it names /dev/zero"),
        ("profile.bundle_root=./home", "it names ./home"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda words: words[0])
def test_overrides_in_a_folder_only_set_options(swept: Cli, command: list[str], override: str, part: str) -> None:
    forge_base(override)
    line = one_line(swept(*command))
    assert part in line and "s/sweep.json: " in line
    assert os.environ["HOME"] not in line and "precious" not in line
    assert not Path("elsewhere").exists() and not Path("here").exists()


def test_references_to_other_options_are_kept(cli: Cli) -> None:
    words = ["run", "-m", "scheduler.max_num_seqs=8,16", "workload.num_requests=20", "slo.ttft_s=0.5", "slo.tpot_s=${slo.ttft_s}"]
    assert cli(*words, "plots=false", "out=s").code == 0
    said = cli("show-point", "s", "0", "plots=false", "out=a")
    assert (said.code, said.out.splitlines()[-1][-18:]) == (0, "the row reproduced"), said


def test_a_file_of_the_sweep_must_be_what_it_was(cli: Cli) -> None:
    trace = Path("t.csv")
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,3,2\n")
    assert cli("run", "-m", "scheduler.max_num_seqs=8,16", "workload=trace", "workload.file=t.csv", "plots=false", "out=s").code == 0
    assert cli("show-point", "s", "0", "plots=false", "out=a").code == 0
    trace.write_text(trace.read_text().replace("1,3,2", "1,3,4"))
    for command in COMMANDS[1:]:
        assert one_line(cli(*command)) == "t.csv: changed since the sweep in s began; put it back, or sweep anew in another directory"


@pytest.mark.parametrize(
    ("name", "old", "new", "part"),
    [
        ("results.csv", b"\n1,4,", b"\n1,4.0,", "results.csv: "),
        ("results.csv", b",finished,", b",finishes,", "results.csv: row 1 was changed: its checksum"),
        ("results.csv", b"ttft_mean_s", b"ttft_mean_t", "results.csv: its "),
        (
            "sweep.json",
            b'"maximize"',
            b'"maximiza"',
            "sweep.json: damaged: objective must be lists under maximize, minimize, subject_to, by, tie_break, color",
        ),
        ("sweep.json", b'"command"', b'"commend"', "sweep.json: damaged: 'commend' is no part of it"),
        ("sweep.json", b'"ttft_p99_s"', b'"ttft_p95_s"', "sweep.json: changed since the sweep began; put it back as it was"),
        ("sweep.json", b'"points": 2', b'"points": 3', "sweep.json: changed since the sweep began"),
        ("sweep.json", b"{", b"[" * 100_000, "sweep.json: cannot read it: it is nested too deeply"),
    ],
)
def test_a_changed_byte_is_noticed(swept: Cli, name: str, old: bytes, new: bytes, part: str) -> None:
    file = Path("s", name)
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))
    for command in COMMANDS:
        assert part in one_line(swept(*command))


def test_a_cell_that_is_no_number_is_one_line(swept: Cli) -> None:
    """With a checksum that fits: the table is somebody else's."""
    value = Path("s/results.csv").read_bytes().split(b"\n")[1].split(b",")[14]  # a latency
    reseal(Path("s/results.csv"), {value: b"1x"})
    for command in COMMANDS:
        assert "must hold numbers, not '1x'" in one_line(swept(*command))


def test_what_a_folder_says_does_not_steer_the_terminal(swept: Cli) -> None:
    forge_base("model='\x1b[2Jx'")
    said = swept("show-point", "s", "0", "plots=false", "out=here")
    assert "\x1b" not in said.out + said.err


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_interrupts_of_a_command_say_what_is_on_disk(
    swept: Cli, monkeypatch: pytest.MonkeyPatch, number: int, code: int, word: str
) -> None:
    from simjax.cli.interrupts import Interrupted

    def stopped(*_: object, **__: object) -> None:
        raise Interrupted(number)

    monkeypatch.setattr("simjax.plot.run.plot_run", stopped)
    said = swept("run", "workload.num_requests=20", "out=half")
    assert (said.code, said.err.splitlines()[-1]) == (
        code, f"simjax: {word}; half holds a part of the results; the same command writes them anew",
    )  # fmt: skip
    monkeypatch.setattr("simjax.explore.run.run_designs", stopped)
    Path("s/results.csv").write_bytes(Path("s/results.csv").read_bytes().splitlines(keepends=True)[0])
    said = swept("run", "sweep.resume=s", "plots=false")
    assert (said.code, said.err.splitlines()[-1]) == (code, f"simjax: {word}; what is done is in s; simjax run sweep.resume=s continues it")


def test_results_that_are_replaced_are_named(swept: Cli) -> None:
    words = ["run", "workload.num_requests=20", "plots=false", "out=twice"]
    assert "holds results" not in swept(*words).err
    assert "warning: out=twice: it holds results already; those of the same names are replaced\n" in swept(*words).err
