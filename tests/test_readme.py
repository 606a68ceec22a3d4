"""README.md tells the truth: its commands run, its printed summary and its accuracy table are what they give."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli  # the fixture
from tests.data import ROOT, data_path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


SETUP, TESTS, *TOUR = blocks("sh")
OVER_DATA = [block for block in TOUR if "$SIMJAX_DATA" in block]
ALONE = [block for block in TOUR if block not in OVER_DATA]
ACCURACY = re.findall(r"^\| `([^`]+)` \| (profile|tables) \| (.*) \|$", README, flags=re.MULTILINE)


def run_all(cli: Cli, block: str) -> None:
    for line in block.splitlines():
        program, *words = shlex.split(line.replace("$SIMJAX_DATA", str(ROOT)), comments=True)
        assert program == "simjax"
        said = cli(*words, *(["plots=false"] if words[0] in ("run", "validate") else []))
        assert said.code == 0, f"{line}\n{said.err}"


def test_two_commands_set_up_run_and_test() -> None:
    """The two one-liners of the first screen; .ci/run makes its environment as they do and runs the second one's tests."""
    assert SETUP == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/simjax run\n"
    assert TESTS == "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest -n 2\n"
    ci = (Path(__file__).parents[1] / ".ci" / "run").read_text()
    assert '"$bin/python" -m pytest -n 2' in ci
    assert README.index(TESTS) < 1500, "both commands are on the first screen"


def test_printed_summary(cli: Cli) -> None:
    (shown,) = (block for block in blocks("text") if "latency, ms" in block)
    said = cli("run", "plots=false", "out=outputs/x")
    # how long it took, and where results went, differ from run to run
    wanted, found = ([line.rstrip() for line in text.splitlines()[:-2]] for text in (shown, said.out))
    assert wanted == found, "README.md shows another summary than `simjax run` prints"


@pytest.mark.parametrize("block", ALONE)
def test_tour(cli: Cli, block: str) -> None:
    assert block.count("\n") >= 5
    run_all(cli, block)


@pytest.mark.parametrize("block", OVER_DATA)
def test_tour_over_measured_data(cli: Cli, block: str) -> None:
    data_path("llmservingsim")
    run_all(cli, block)


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {})
    assert re.match(r"TTFT p99 0\.\d+ s, \d+% of the KV cache used\n", capsys.readouterr().out)


@pytest.mark.parametrize(("run", "costs", "numbers"), ACCURACY, ids=lambda x: x)
def test_accuracy_table(cli: Cli, run: str, costs: str, numbers: str) -> None:
    tables = [f"profile.bundle_root={data_path('llmservingsim/profiles')}"] if costs == "tables" else []
    said = cli("validate", str(data_path(run)), *tables, "plots=false", "out=v")
    assert said.code == 0, said.err
    report = json.loads(Path("v/validation.json").read_text())
    means = [f"{report[metric]['mean']['error_pct']:+.1f} %" for metric in ("ttft_s", "tpot_s", "e2e_s")]
    assert numbers == " | ".join(means), f"README.md should say | `{run}` | {costs} | {' | '.join(means)} |"


def test_accuracy_table_has_rows_of_both_kinds() -> None:
    assert {costs for _, costs, _ in ACCURACY} == {"profile", "tables"}
    assert len({run for run, _, _ in ACCURACY}) >= 3


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
