"""README.md tells the truth: its commands run, its printed summary and its accuracy table are what they give."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli  # the fixture
from tests.data import ROOT, data_path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


SWEEPS = README[README.index("\n## Thousands of designs") : README.index("\n## What is simulated")]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


CACHING = README[README.index("\n## Prefix caching") : README.index("\n## Calibrate")]
SETUP, TESTS, *TOUR = blocks("sh", README.replace(SWEEPS, "").replace(CACHING, ""))
OVER_DATA = [block for block in TOUR if "$SIMJAX_DATA" in block]
ALONE = [block for block in TOUR if block not in OVER_DATA]
SWEEP, AFTERWARDS = blocks("sh", SWEEPS)
ACCURACY = re.findall(r"^\| `([^`]+)` \| ((?:profile|tables)(?:, trace)?) \| (.*) \|$", README, flags=re.MULTILINE)


def run_all(cli: Cli, block: str) -> dict[str, str]:
    """Run the commands of a block; what each of them printed."""
    printed = {}
    for line in block.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line.replace("$SIMJAX_DATA", str(ROOT)), comments=True)
        assert program == "simjax"
        faster = {"trace": [], "profile": [], "calibrate": ["plots=false", "fit.starts=1"]}
        said = cli(*words, *faster.get(words[0], ["plots=false"]))
        assert said.code == 0, f"{line}\n{said.err}"
        printed[line] = said.out
    return printed


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


def test_prefix_caching_sessions_and_routers(cli: Cli) -> None:
    (block,) = blocks("sh", CACHING)
    printed = list(run_all(cli, block).values())
    cached, uncached = (re.search(r"^TTFT +([\d.]+)", said, flags=re.MULTILINE) for said in printed[:2])
    assert cached and uncached and float(cached[1]) < float(uncached[1])
    (said,) = re.findall(r"`(sessions [^`]+)`", CACHING)
    assert said in printed[2], "README.md shows other sessions than its command prints"
    assert "prefix cache, 16-token blocks" in printed[3] and "300 of 300 finished" in printed[4]
    table = pd.read_csv("routers/results.csv", index_col="cluster.router")
    shown = re.findall(r"^\| `(\w+)` \| (.*) \|$", CACHING, flags=re.MULTILINE)
    assert [router for router, _ in shown] == list(table.index)
    for router, numbers in shown:
        row = table.loc[router]
        times = f"{row.ttft_mean_s * 1e3:,.0f} ms | {row.ttft_p99_s * 1e3:,.0f} ms | {row.session_makespan_mean_s:.1f} s"
        assert numbers == f"{row.prefix_hit_fraction:.1%} | {times}".replace("%", " %"), f"README.md should say otherwise of {router}"


def test_sweeps(cli: Cli) -> None:
    """One after the other: the later commands are about the sweep of the first."""
    (printed,) = run_all(cli, SWEEP).values()
    (shown,) = blocks("text", SWEEPS)
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines(), "README.md shows another front than its command prints"
    assert all(f"`{path.name}`" in SWEEPS for path in Path("sizes").iterdir())
    pareto, point, resumed, seeds, plan = run_all(cli, AFTERWARDS).values()
    assert "highest goodput_per_gpu, lowest ttft_p99_s" in pareto
    assert "numbers of the row reproduced" in point
    assert resumed == printed, "nothing was missing"
    assert "of 2 designs on the front" in seeds
    assert "288 points: 276 to simulate, 12 invalid" in plan


SNIPPETS = (r"TTFT p99 0\.\d+ s, \d+% of the KV cache used\n", r"36 points: (?s:.*) best goodput_per_gpu\n")


@pytest.mark.parametrize(("block", "wanted"), list(zip(blocks("python"), SNIPPETS, strict=True)))
def test_python(block: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {})
    assert re.match(wanted, capsys.readouterr().out)


@pytest.mark.parametrize(("run", "costs", "numbers"), ACCURACY, ids=lambda x: x)
def test_accuracy_table(cli: Cli, run: str, costs: str, numbers: str) -> None:
    more = [f"profile.bundle_root={data_path('llmservingsim/profiles')}"] if costs.startswith("tables") else []
    if costs.endswith("trace"):
        more += [f"workload.file={data_path(f'llmservingsim/workloads/sharegpt-{Path(run).name.lower()}-300-sps10.jsonl')}"]
    said = cli("validate", str(data_path(run)), *more, "plots=false", "out=v")
    assert said.code == 0, said.err
    report = json.loads(Path("v/validation.json").read_text())
    means = [f"{report[metric]['mean']['error_pct']:+.1f} %" for metric in ("ttft_s", "tpot_s", "e2e_s")]
    assert numbers == " | ".join(means), f"README.md should say | `{run}` | {costs} | {' | '.join(means)} |"


def test_accuracy_table_has_rows_of_every_kind() -> None:
    assert {costs for _, costs, _ in ACCURACY} == {"profile", "tables", "profile, trace", "tables, trace"}
    assert len({run for run, _, _ in ACCURACY}) >= 3


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
