"""The pages tell the truth: their commands run, and their printed text, tables and maps are what these give.

The pages are README.md and those that it leads to: the guide (notebooks/README.md), the studies of accuracy and of speed, and the map of
the code (simjax/README.md).
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli  # the fixture
from tests.data import ROOT, data_path

CHECKOUT = Path(__file__).parents[1]
PAGES = ("README.md", *(f"{x}/README.md" for x in ("notebooks", "simjax", "conf", "profiles", "tests")))
STUDIES = tuple(
    f"experiments/{x}/README.md" for x in ("validation", "benchmarks", "scale_out", "disaggregation", "vllm_scheduler", "paper")
)


def page(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


README, GUIDE, MAP, ACCURATE = (
    page(x) for x in ("README.md", "notebooks/README.md", "simjax/README.md", "experiments/validation/README.md")
)


def section(text: str, title: str) -> str:
    """A section of a page, by how its title begins."""
    begin = text.index(f"\n## {title}")
    return text[begin : text.index("\n## ", begin + 1) if "\n## " in text[begin + 1 :] else len(text)]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


SETUP, TESTS, FIGURE, APART, FIVE_LINES = blocks("sh", README)
CACHING, CALIBRATE, CAPACITY, SWEEPS = (section(GUIDE, x) for x in ("Prefix caching", "Calibrate", "Capacity", "Thousands of designs"))
TIERED = section(GUIDE, "Host memory behind")
TOUR = blocks("sh", GUIDE.replace(SWEEPS, "").replace(CACHING, "").replace(CAPACITY, "").replace(TIERED, ""))
OVER_DATA = [block for block in TOUR if "$SIMJAX_DATA" in block]
(HANDED_OVER,) = (block for block in TOUR if "handover fit" in block)
ALONE = [block for block in TOUR if block not in (*OVER_DATA, HANDED_OVER)]
SWEEP, AFTERWARDS = blocks("sh", SWEEPS)
ACCURACY = re.findall(r"^\| `([^`]+)` \| ((?:profile|tables)(?:, trace)?) \| (.*) \|$", ACCURATE, flags=re.MULTILINE)
IN_SHORT = re.findall(r"^\| ([^`|]+) \| (shipped profile|calibrated at [^|]+) \| (.*) \|$", README, flags=re.MULTILINE)
RECALIBRATED = re.findall(
    r"^\| `([^`]+)` \| ([^|`]+) \| ([-+].*) \|$", section(ACCURATE, "Means at a glance").split("\nCalibrated")[1], flags=re.MULTILINE
)
EVERY_RUN = {  # rows of the table of accuracy
    ("llmservingsim/bench/RTXPRO6000/Llama-3.1-8B", "tables"),
    ("llmservingsim/bench/RTX4090/Llama-3.1-8B", "profile"),
    ("llmservingsim/bench/RTX4090/Llama-3.1-8B", "profile, trace"),
    ("vllm_qwen3_14b_h100/agg_2rps", "profile"),
}
ROOMS = re.findall(r"^\| `(\w+)` \|", section(MAP, "Rooms"), flags=re.MULTILINE)
STAGES = re.findall(r"^\| `(\w+)` \| (`[^|]+) \|", section(MAP, "The tick"), flags=re.MULTILINE)


def slow(*values: str) -> Any:
    """Arguments of a test that runs before a release only."""
    return pytest.param(*values, marks=pytest.mark.slow)


def run_all(cli: Cli, block: str) -> dict[str, str]:
    """Run the commands of a block; what each of them printed."""
    printed = {}
    for line in block.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line.replace("$SIMJAX_DATA", str(ROOT)), comments=True)
        assert program == "simjax"
        faster = {"trace": [], "profile": [], "handover": [], "calibrate": ["plots=false", "fit.starts=1"]}
        said = cli(*words, *faster.get(words[0], ["plots=false"]))
        assert said.code == 0, f"{line}\n{said.err}"
        printed[line] = said.out
    return printed


def test_two_commands_set_up_run_and_test() -> None:
    """The two one-liners of the first screen; .ci/run makes its environment as they do and runs the second one's tests."""
    assert SETUP == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/simjax run\n"
    assert TESTS == "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest -n 2\n"
    ci = (CHECKOUT / ".ci" / "run").read_text()
    assert '"$bin/python" -m pytest -n 2' in ci
    assert README.index(TESTS) < 1500, "both commands are on the first screen"


def test_first_page_is_short() -> None:
    assert README.count("\n") <= 130, "README.md has grown: what is long belongs where its subject lives"


def test_printed_summary(cli: Cli) -> None:
    (shown,) = (block for block in blocks("text", README) if "latency, ms" in block)
    said = cli("run", "plots=false", "out=outputs/x")
    # how long it took, and where results went, differ from run to run
    wanted, found = ([line.rstrip() for line in text.splitlines()[:-2]] for text in (shown, said.out))
    assert wanted == found, "README.md shows another summary than `simjax run` prints"


def test_files_of_a_run_are_listed(cli: Cli) -> None:
    assert cli("run", "out=x").code == 0
    listed = section(GUIDE, "What a run writes")
    assert all(f"`{path.name}`" in listed for path in Path("x").iterdir())


def test_figure_of_the_first_page(cli: Cli) -> None:
    """The sweep behind the figure, planned but not run: it takes minutes."""
    assert FIGURE.count("\n") == 1
    (printed,) = run_all(cli, FIGURE.replace("\n", " sweep.dry_run=true\n")).values()
    assert "288 points: 276 to simulate, 12 invalid" in printed
    assert "of the 276 designs" in README
    (figure,) = re.findall(r"^!\[[^]]+]\(([^)]+)\)$", README, flags=re.MULTILINE)
    assert (CHECKOUT / figure).stat().st_size < 150_000


def test_prefill_and_decode_on_different_instances(cli: Cli) -> None:
    """The line of the first page, and all files of such a run."""
    (printed,) = run_all(cli, APART.replace("\n", " out=apart plots=true\n")).values()
    (shown,) = (block for block in blocks("text", README) if "TTFT parts" in block)
    assert shown.rstrip() in [line.rstrip() for line in printed.splitlines()]
    listed = section(GUIDE, "What a run writes")
    assert all(f"`{path.name}`" in listed for path in Path("apart").iterdir())


def test_five_lines_are_of_the_guide() -> None:
    """Commands of the short tour are commands of the guide, all of which run below; the fifth is Python (`test_python`)."""
    guide = [line for block in blocks("sh", GUIDE) for line in block.splitlines()]
    assert [line for line in FIVE_LINES.splitlines() if line not in guide] == []
    assert [line.split()[1] for line in FIVE_LINES.splitlines()] == ["run", "run", "calibrate", "validate"]
    assert len(blocks("python", README)) == 1


# The other commands of the guide run before a release.
@pytest.mark.parametrize("block", [block if "slo.ttft_s" in block or "trace export" in block else slow(block) for block in ALONE])
def test_tour(cli: Cli, block: str) -> None:
    run_all(cli, block)


@pytest.mark.slow
def test_tour_over_measured_data(cli: Cli) -> None:
    data_path("llmservingsim")
    run_all(cli, OVER_DATA[0])


@pytest.mark.slow
def test_hand_over_of_the_guide(cli: Cli) -> None:
    """The fit to a run that stands for a measured one prints the shown table."""
    _, fit, _ = run_all(cli, HANDED_OVER).values()
    (shown,) = (block for block in blocks("text", CALIBRATE) if "handover_s" in block)
    assert shown.rstrip() in "\n".join(line.rstrip() for line in fit.splitlines()), "the guide shows another fit than its command"


@pytest.mark.slow
def test_host_memory_of_the_guide(cli: Cli) -> None:
    """The row of the tier, and all files of such a run."""
    (block,) = blocks("sh", TIERED)
    (printed,) = run_all(cli, block.replace("out=offload", "out=offload plots=true")).values()
    (shown,) = blocks("text", TIERED)
    assert shown.split() in [printed.split()[i : i + len(shown.split())] for i in range(len(printed.split()))]
    listed = section(GUIDE, "What a run writes")
    assert all(f"`{path.name}`" in listed for path in Path("offload").iterdir())


@pytest.mark.slow
def test_calibration_of_the_guide(cli: Cli) -> None:
    data_path("llmservingsim")
    assert len(OVER_DATA) == 2
    run_all(cli, OVER_DATA[1])


@pytest.mark.slow
def test_capacity(cli: Cli) -> None:
    (block,) = blocks("sh", CAPACITY)
    _, several, best, fewest = run_all(cli, block).values()
    for printed, shown in zip((several, fewest), blocks("text", CAPACITY), strict=True):
        assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines(), "the guide shows other capacities than its commands"
    assert "of 4 points on the front: highest capacity_requests_per_s_per_gpu" in best


@pytest.mark.slow
def test_prefix_caching_sessions_and_routers(cli: Cli) -> None:
    (block,) = blocks("sh", CACHING)
    printed = list(run_all(cli, block).values())
    cached, uncached = (re.search(r"^TTFT +([\d.]+)", said, flags=re.MULTILINE) for said in printed[:2])
    assert cached and uncached and float(cached[1]) < float(uncached[1])
    (said,) = re.findall(r"`(sessions [^`]+)`", CACHING)
    assert said in printed[2], "the guide shows other sessions than its command prints"
    assert "prefix cache, 16-token blocks" in printed[3] and "300 of 300 finished" in printed[4]
    table = pd.read_csv("routers/results.csv", index_col="cluster.router")
    shown = re.findall(r"^\| `(\w+)` \| (.*) \|$", CACHING, flags=re.MULTILINE)
    assert [router for router, _ in shown] == list(table.index)
    for router, numbers in shown:
        row = table.loc[router]
        times = f"{row.ttft_mean_s * 1e3:,.0f} ms | {row.ttft_p99_s * 1e3:,.0f} ms | {row.session_makespan_mean_s:.1f} s"
        assert numbers == f"{row.prefix_hit_fraction:.1%} | {times}".replace("%", " %"), f"the guide should say otherwise of {router}"


@pytest.mark.slow
def test_sweeps(cli: Cli) -> None:
    """One after the other: the later commands are about the sweep of the first."""
    (printed,) = run_all(cli, SWEEP).values()
    (shown,) = blocks("text", SWEEPS)
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines(), "the guide shows another front than its command prints"
    assert all(f"`{path.name}`" in SWEEPS for path in Path("sizes").iterdir())
    pareto, point, resumed, seeds, plan = run_all(cli, AFTERWARDS).values()
    assert "highest goodput_per_gpu, lowest ttft_p99_s" in pareto
    assert "numbers of the row reproduced" in point
    assert resumed == printed, "nothing was missing"
    assert "of 2 designs on the front" in seeds
    assert "288 points: 276 to simulate, 12 invalid" in plan


SNIPPETS = (
    r"TTFT p99 0\.\d+ s, \d+% of the KV cache used\n",
    r"\{'scheduler.max_num_seqs': 8\} [\d.]+ \[[\d.]+, [\d.]+\] requests/s: TTFT: [\d.]+ % within 0.5 s\n",
    r"36 points: (?s:.*) best goodput_per_gpu\n",
)


@pytest.mark.parametrize(("block", "wanted"), list(zip(blocks("python", README + GUIDE), SNIPPETS, strict=True)))
def test_python(block: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {})
    assert re.match(wanted, capsys.readouterr().out)


# One row of each kind in every run, and all of them before a release: each has a program of its own.
@pytest.mark.parametrize(("run", "source", "numbers"), [row if row[:2] in EVERY_RUN else slow(*row) for row in ACCURACY], ids=lambda x: x)
def test_accuracy_table(cli: Cli, run: str, source: str, numbers: str) -> None:
    more = [f"profile.bundle_root={data_path('llmservingsim/profiles')}"] if source.startswith("tables") else []
    if source.endswith("trace"):
        more += [f"workload.file={data_path(f'llmservingsim/workloads/sharegpt-{Path(run).name.lower()}-300-sps10.jsonl')}"]
    said = cli("validate", str(data_path(run)), *more, "plots=false", "out=v")
    assert said.code == 0, said.err
    report = json.loads(Path("v/validation.json").read_text())
    means = [f"{report[metric]['mean']['error_pct']:+.1f} %" for metric in ("ttft_s", "tpot_s", "e2e_s")]
    assert numbers == " | ".join(means), f"experiments/validation/README.md should say | `{run}` | {source} | {' | '.join(means)} |"


def test_accuracy_table_has_rows_of_every_kind() -> None:
    assert {source for _, source, _ in ACCURACY} == {"profile", "tables", "profile, trace", "tables, trace"}
    assert len({run for run, _, _ in ACCURACY}) >= 3


def of_the_study(numbers: str, table: str, **where: str) -> bool:
    """Whether a row of a page has the means of the study's row with these values, which has a digit more."""
    rows = pd.read_csv(CHECKOUT / "experiments" / "validation" / "results" / table, sep="\t")
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, where
    means = [float(rows[f"{metric} mean"].item()) for metric in ("TTFT", "TPOT", "E2E")]
    shown = [float(number.removesuffix(" %")) for number in numbers.split(" | ")]
    return all(abs(a - b) <= 0.05 + 0.005 + 1e-9 for a, b in zip(shown, means, strict=True))


def test_accuracy_in_short() -> None:
    """The rows of the first page are those of the study."""
    *shipped, (run, source, numbers) = IN_SHORT
    assert len(shipped) == 3
    for name, profile, means in shipped:
        assert of_the_study(means, "errors.tsv", run=name, **{"step times": profile}), name
    assert (run, source) == ("H100, Qwen3-14B, 6 req/s", "calibrated at 2 req/s")
    assert of_the_study(numbers, "calibration.tsv", fit="Qwen3-14B, H100, 2 req/s", scored="agg_6rps", role="held out")


CALIBRATED = {
    ("bench/RTXPRO6000/Llama-3.1-8B", "the same"): ("Llama-3.1-8B, RTX PRO 6000", "Llama-3.1-8B"),
    ("bench/RTXPRO6000/Llama-3.1-8B", "Qwen3-32B on two GPUs"): ("Llama-3.1-8B, RTX PRO 6000", "Qwen3-32B"),
    ("bench/RTX4090/Llama-3.1-8B", "the same"): ("Llama-3.1-8B, RTX 4090", "Llama-3.1-8B"),
    ("vllm_qwen3_14b_h100/agg_2rps", "the same"): ("Qwen3-14B, H100, 2 req/s", "agg_2rps"),
    ("vllm_qwen3_14b_h100/agg_2rps", "three times the request rate"): ("Qwen3-14B, H100, 2 req/s", "agg_6rps"),
}


def test_calibrated_in_short() -> None:
    assert [row[:2] for row in RECALIBRATED] == list(CALIBRATED)
    for run, scored, numbers in RECALIBRATED:
        fit, name = CALIBRATED[run, scored]
        assert of_the_study(numbers, "calibration.tsv", fit=fit, scored=name), (run, scored)


def test_speed_in_short() -> None:
    """The line of speeds on the first page is that of the benchmarks."""
    results = CHECKOUT / "experiments" / "benchmarks" / "results"
    single, sweeps = (pd.read_csv(results / f"{name}.tsv", sep="\t", comment="#") for name in ("single_run", "sweeps"))
    single, sweeps = single.set_index(["case", "what"]), sweeps.set_index("what")
    few, hour = (single.loc[(case, "simulate()")] for case in ("llama-300", "azure-2023-conv"))
    line = (
        f"{few.requests:.0f} requests take {few.best_ms:.0f} ms, a recorded hour with {hour.requests:,.0f} requests "
        f"{hour.best_ms / 1e3:.1f} s, and a sweep of 1,024 designs {sweeps.loc['1,024 designs'].wall_s:.1f} s"
    )
    assert line in README.replace("\n", " "), f"README.md should say: {line}"


def test_links_lead_somewhere() -> None:
    for name in (*PAGES, *STUDIES):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page(name)):
            assert ((CHECKOUT / name).parent / target).exists(), f"{name}: {target}"


def test_anchors_are_titles() -> None:
    """Links to a section of a page: GitHub's anchor of a title is its lower-case words, joined by hyphens."""
    for name in (*PAGES, *STUDIES):
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page(name)):
            titles = re.findall(r"^#+ (.*)$", ((CHECKOUT / name).parent / target).read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, f"{name}: {target}#{anchor}"


def test_map_of_the_rooms() -> None:
    """Every room is on the map, and imports only from rooms above it."""
    package = CHECKOUT / "simjax"
    modules = {path: path.relative_to(package).with_suffix("").parts[0] for path in package.rglob("*.py")}
    modules = {path: room for path, room in modules.items() if not room.startswith("__")}
    assert set(ROOMS) == set(modules.values())
    for path, room in modules.items():
        imported = set(re.findall(r"^\s*(?:from|import) simjax\.(\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
        below = [other for other in imported if ROOMS.index(other) > ROOMS.index(room)]
        assert not below, f"{path.relative_to(package)} imports from {', '.join(below)}"


def test_map_of_the_tick() -> None:
    """The stages are listed in their order, each with the module that has it."""
    from simjax.engine import tick

    assert [name for name, _ in STAGES] == [stage.__name__ for stage in tick.STAGES]
    for (name, cell), stage in zip(STAGES, tick.STAGES, strict=True):
        first = re.findall(r"`([^`]+)`", cell)[0]
        assert stage.__module__ == "simjax.engine." + first.removesuffix(".py").replace("/", "."), name


def test_places_in_the_code_exist() -> None:
    """Names in the map that are module paths are modules."""
    for name in re.findall(r"`((?:engine|scheduler|routing|arrivals|accounting)/[\w/]+\.py)`", MAP):
        base = CHECKOUT / "simjax" / ("" if name.startswith("engine/") else "engine")
        assert (base / name).exists(), name
