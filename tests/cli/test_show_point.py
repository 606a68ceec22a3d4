"""`simjax show-point`: a row of a sweep as the single run that it stands for."""

import json
import shlex
from pathlib import Path

import pytest

from simjax.cli.commands.show_point import same
from tests.cli.conftest import Cli, one_line
from tests.explore.forged import reseal, sign


@pytest.fixture
def swept(cli: Cli) -> Cli:
    """The command line in a directory with a sweep of three points, the last of which is no design."""
    said = cli("run", "-m", "scheduler.max_num_seqs=4,8,0", "workload.num_requests=12", "slo.ttft_s=0.06", "plots=false", "out=s")
    assert said.code == 0, said.err
    return cli


def test_a_point_reproduces_its_row(swept: Cli) -> None:
    said = swept("show-point", "s", "1", "out=x", "plots=false")
    assert said.code == 0, said
    first, *_, last = said.out.splitlines()
    assert shlex.split(first) == ["simjax", "run", "workload.num_requests=12", "slo.ttft_s=0.06", "scheduler.max_num_seqs=8"]
    assert last == "all 96 numbers of the row reproduced"
    there = json.loads(Path("x/summary.json").read_text())
    swept(*shlex.split(first)[1:], "out=y", "plots=false")
    here = json.loads(Path("y/summary.json").read_text())
    for summary in (there, here):
        del summary["sim"]
    assert there == here, "the printed command is another run"


def test_hand_overs_and_a_window_of_ones_own_are_reproduced(cli: Cli) -> None:
    """Designs with different numbers of instances, side by side in a batch, have the numbers of their single runs."""
    words = ("cluster=disaggregated", "cluster.prefill.instances=1,2", "workload.num_requests=40", "metrics.warmup_s=1", "plots=false")
    said = cli("run", "-m", *words, "out=s")
    assert said.code == 0, said.err
    for point in ("0", "1"):
        assert cli("show-point", "s", point, f"out=x{point}", "plots=false").out.splitlines()[-1] == "all 96 numbers of the row reproduced"


def test_numbers_that_differ_are_named(swept: Cli) -> None:
    table, sweep = Path("s/results.csv"), Path("s/sweep.json")
    header, *rows = table.read_text().splitlines()
    cells = dict(zip(header.split(","), rows[1].split(","), strict=True))
    before = ",".join(cells.values())
    cells |= {"requests_finished": "11", "ttft_p99_s": repr(float(cells["ttft_p99_s"]) * (1 + 1e-15))}
    reseal(table, {before.rpartition(",")[0].encode(): ",".join(cells.values()).rpartition(",")[0].encode()})
    sign(sweep, jax="0.1")
    said = swept("show-point", "s", "1", "out=x", "plots=false")
    assert said.code == 1
    *_, first, second, last = said.out.splitlines()
    assert first == "requests_finished: 11 in the table, 12 here"
    assert second.startswith("ttft_p99_s: ")
    assert last.startswith("2 of the 96 numbers of the row differ; the sweep was made with jax 0.1, now ")


def test_a_row_of_other_values_is_no_row_of_the_point(swept: Cli) -> None:
    table = Path("s/results.csv")
    reseal(table, {b"1,8,": b"1,9,"})
    line = "results.csv: the row of point 1 was changed: scheduler.max_num_seqs is 9 there, 8 in points.csv"
    assert one_line(swept("show-point", "s", "1")) == line
    assert swept("show-point", "s", "0", "out=x", "plots=false").code == 0


def test_a_point_without_numbers_says_why(swept: Cli) -> None:
    said = swept("show-point", "s", "2")
    assert said.code == 0
    line = "point 2 has no numbers; invalid: scheduler.max_num_seqs=0: it must be an integer of at least 1"
    assert said.out.splitlines()[1:] == [line]
    assert not Path("outputs").exists()


def test_a_point_that_is_not_done_is_only_run(swept: Cli) -> None:
    table = Path("s/results.csv")
    header, first, *_ = table.read_text().splitlines()
    table.write_text(f"{header}\n{first}\n")
    said = swept("show-point", "s", "1", "out=x", "plots=false")
    assert said.code == 0
    assert said.out.splitlines()[-1] == "the table has no row of point 1 yet: nothing to compare with"


def test_what_cannot_be_shown(swept: Cli) -> None:
    assert one_line(swept("show-point", "s", "3")) == "point 3: the points of s are numbered 0 to 2"
    points, sweep = Path("s/points.csv"), Path("s/sweep.json")
    text, said = points.read_text(), json.loads(sweep.read_text())
    points.write_text(text.replace("8", "9"))
    assert "s/points.csv: changed since the sweep began; put it back" in one_line(swept("show-point", "s", "1"))
    points.write_text(text)
    sweep.write_text(json.dumps(said | {"base": "x"}))
    assert "s/sweep.json: damaged: base must be a list of overrides" in one_line(swept("show-point", "s", "1"))
    sweep.unlink()
    assert "s: sweep.json is missing" in one_line(swept("show-point", "s", "1"))


@pytest.mark.parametrize(
    ("cell", "value", "equal"),
    [(1.5, 1.5, True), (1.5, 1.5 + 2e-16, False), (float("nan"), None, True), (float("nan"), 0.0, False), (0.0, None, False)],
)
def test_cells(cell: float, value: float | None, equal: bool) -> None:
    assert same(cell, value) is equal
