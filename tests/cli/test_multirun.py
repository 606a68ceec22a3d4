"""`simjax run -m`: sweeps through Hydra's multirun. What users get wrong is in `mistakes`."""

import io
import json
import logging
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console

import simjax
from simjax.cli.commands.sweep import points_progress
from simjax.cli.overrides import sort_arguments
from simjax.explore.points import read_points
from simjax.explore.store.manifest import read_sweep
from simjax.explore.store.table import read_results
from simjax.metrics.rows import METRICS, result_row
from tests.cli.conftest import Cli, one_line

SMALL = ["workload.num_requests=20", "plots=false"]
GRID = ["scheduler.max_num_seqs=8,16", "workload.rate=linspace(2,20,2)"]


def single(*overrides: str) -> dict[str, object]:
    done = simjax.run(simjax.compose(list(overrides)))
    return dict(result_row(done.result, None, done.cluster.num_devices))


def numbers(table: pd.DataFrame, point: int) -> dict[str, object]:
    row = table[table["point"] == point].astype(object).iloc[0]
    return {name: None if pd.isna(row[name]) else row[name] for name in METRICS}


def test_a_sweep_is_one_table_whose_rows_are_the_single_runs(cli: Cli) -> None:
    said = cli("run", "-m", *GRID, *SMALL, "out=s")
    assert said.code == 0, said.err
    assert "4 points: 4 finished" in said.out
    assert said.out.splitlines()[-1] == "results in s"
    assert "p99 at 4 (it needs 100)" in said.err
    sweep, points, table = read_sweep("s"), read_points(Path("s/points.csv")), read_results("s")
    assert sweep["base"] == ["workload.num_requests=20"]
    assert points.keys == ("scheduler.max_num_seqs", "workload.rate")
    assert points.rows == ((8, 2.0), (8, 20.0), (16, 2.0), (16, 20.0))
    assert table["status"].tolist() == ["finished"] * 4
    for point in (0, 3):
        assert numbers(table, point) == single("workload.num_requests=20", *points.overrides(point))
    assert not Path("outputs").exists()
    assert Path("s/pareto.csv").exists()


def test_one_point_is_no_plural(cli: Cli) -> None:
    said = cli("run", "sweep.axes={device: [h200]}", *SMALL, "out=s")
    assert said.code == 0, said.err
    assert "of 1 point: p99 at 1 (it needs 100)" in said.err
    assert "1 of 1 point on the front" in said.out
    assert "1 point: 1 finished" in said.out


def test_points_that_fail_are_rows(cli: Cli) -> None:
    said = cli("run", "-m", "scheduler.max_num_seqs=0,8", "model=llama-3.1-8b,llama-3.1-70b", *SMALL, "out=s")
    assert said.code == 0, said.err
    table = read_results("s")
    assert table["status"].tolist() == ["invalid", "invalid", "finished", "invalid"]
    assert table["reason"][0] == "scheduler.max_num_seqs=0: it must be an integer of at least 1"
    assert "does not fit h100" in table["reason"][3]
    assert "2 of 4 points: scheduler.max_num_seqs=0: it must be an integer of at least 1" in said.err


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_dry_run_writes_nothing(cli: Cli, flag: str) -> None:
    said = cli("run", flag, *GRID, *SMALL, "sweep.dry_run=true")
    assert said.code == 0, said.err
    assert "4" in said.out
    assert list(Path().iterdir()) == []


def test_thousands_of_values_on_the_command_line(cli: Cli) -> None:
    values = ",".join(map(str, range(1, 3001)))
    said = cli("run", "-m", f"workload.seed={values}", "workload.num_requests=2", "sweep.dry_run=true")
    assert said.code == 0, said.err
    assert "3,000 points" in said.out
    assert len(one_line(cli("run", f"workload.seed={values}"))) < 250
    assert len(one_line(cli("run", "-m", f"workload.seed={values},["))) < 350


def test_cfg_shows_the_sweep_as_configuration(cli: Cli) -> None:
    said = cli("run", "-m", "--cfg", "job", *GRID, "device=l40s", "sweep.seeds=3")
    config = yaml.safe_load(said.out)
    assert config["device"] == "l40s"
    assert config["sweep"]["axes"] == {"scheduler.max_num_seqs": [8, 16], "workload.rate": [2.0, 20.0]}
    assert config["sweep"]["seeds"] == 3


def test_a_sweep_from_the_configuration_needs_no_flag(cli: Cli) -> None:
    words = ["sweep.axes={workload.rate: [2, 20]}", "sweep.seeds=2", *SMALL]
    for flag in ([], ["-m"]):
        said = cli("run", *flag, *words, f"out=s{len(flag)}")
        assert said.code == 0, said.err
    first, second = (read_results(name).drop(columns=["point"]) for name in ("s0", "s1"))
    assert first.equals(second)
    assert read_sweep("s0")["seeds"] == [0, 1]
    assert first["workload.seed"].tolist() == [0, 1, 0, 1]


def test_axes_of_all_sources_multiply(cli: Cli) -> None:
    Path("p.csv").write_text("model,device\nllama-3.1-8b,h100\nqwen3-8b,h200\n")
    words = ["sweep.points=p.csv", "sweep.zip=[{cluster.instances: [1, 2], workload.num_requests: [10, 20]}]", "sweep.seeds=[7]"]
    said = cli("run", "-m", *words, "sweep.axes.workload.rate=[3]", "scheduler.max_num_seqs=8,9", "sweep.dry_run=true")
    assert said.code == 0, said.err
    assert said.out.startswith("8 points: 8 to simulate")


def test_hydra_says_where_results_go_unless_out_does(cli: Cli) -> None:
    assert cli("run", "-m", "workload.rate=2,20", *SMALL, "hydra.sweep.dir=h").code == 0
    assert len(read_results("h")) == 2
    assert cli("run", "-m", "workload.rate=2,20", *SMALL, "hydra.sweep.dir=i", "out=o").code == 0
    assert len(read_results("o")) == 2
    assert cli("run", "-m", "workload.rate=2,20", *SMALL).code == 0
    (dated,) = Path("outputs").iterdir()
    assert dated.name.endswith("_sweep")
    assert not Path("i").exists()


def test_params_of_the_sweeper_are_axes_that_the_command_line_replaces(cli: Cli) -> None:
    params = "hydra.sweeper.params={workload.rate: 'linspace(2,20,2)', model: [llama-3.1-8b, qwen3-8b], device: 'h100,h200'}"
    said = cli("run", "-m", params, "device=h200", "model=llama-3.1-8b,llama-3.2-1b", *SMALL, "out=s")
    assert said.code == 0, said.err
    table = read_results("s")
    assert table["workload.rate"].tolist() == [2.0, 2.0, 20.0, 20.0]
    assert table["model"].tolist() == ["llama-3.1-8b", "llama-3.2-1b"] * 2
    assert read_sweep("s")["base"] == ["device=h200", "workload.num_requests=20"]


def test_hydras_own_sweeper_runs_a_job_a_point(cli: Cli) -> None:
    said = cli("run", "-m", "hydra/sweeper=basic", "workload.rate=linspace(2,20,2)", *SMALL, "hydra.sweep.dir=h")
    assert said.code == 0, said.err
    assert said.out.count("[HYDRA]") == 3, "Hydra's log says more than that it launches two jobs"
    for job, rate in enumerate((2.0, 20.0)):
        summary = json.loads(Path(f"h/{job}/summary.json").read_text())
        assert summary["duration_s"] == single(f"workload.rate={rate}", "workload.num_requests=20")["duration_s"]


def test_a_job_of_hydras_own_sweeper_that_fails(cli: Cli) -> None:
    said = cli("run", "-m", "hydra/sweeper=basic", "workload.rate=0,2", *SMALL, "hydra.sweep.dir=h")
    assert said.code == 2
    assert said.err.splitlines()[-1] == "simjax: error: workload: rate=0; it must be positive"
    assert "Traceback" not in said.err
    assert Path("h/1/summary.json").exists(), "the other job was not run"


def test_shards_are_jobs_of_a_launcher(cli: Cli) -> None:
    said = cli("run", "-m", *GRID, *SMALL, "sweep.shard=1/2,2/2", "hydra.sweep.dir=h")
    assert said.code == 0, said.err
    assert {path.name for path in Path("h").glob("shard-*")} == {"shard-1-of-2", "shard-2-of-2"}
    table = read_results("h")
    assert table["point"].tolist() == [0, 1, 2, 3]
    assert numbers(table, 3) == single("workload.num_requests=20", "scheduler.max_num_seqs=16", "workload.rate=20.0")
    assert cli("show-point", "h", "3", "plots=false", "out=x").code == 0


def test_a_launcher_needs_jobs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.config_store import ConfigStore

    target = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    ConfigStore.instance().store(group="hydra/launcher", name="other", node=target)
    try:
        line = one_line(cli("run", "-m", "workload.rate=2,20", "hydra/launcher=other"))
    finally:
        del ConfigStore.instance().repo["hydra"]["launcher"]["other.yaml"]
    assert line.startswith(
        "hydra/launcher=other has nothing to launch: a sweep is one process; sweep.shard=1/4,2/4,3/4,4/4 makes four jobs"
    )


def test_nothing_of_the_process_is_changed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    root = logging.getLogger()
    before = (sys.argv, root.handlers[:], root.level, dict(os.environ))
    cli("run", "-m", "hydra/sweeper=basic", "workload.rate=2,20", *SMALL, "hydra.sweep.dir=h")
    cli("run", "-m", "nothing=1,2")
    assert (sys.argv, root.handlers, root.level, dict(os.environ)) == before


def test_interrupted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simjax.explore.run.run_plan", stopped)
    said = cli("run", "-m", "workload.rate=2,20", *SMALL, "out=s")
    assert (said.code, said.err) == (130, "simjax: interrupted; nothing was written\n")
    assert not Path("s").exists(), "an empty directory was left behind"


def test_words_are_sorted() -> None:
    words = ["hydra.sweep.dir=h", "profile=a,b", "model='a,b'", "device=h100", "workload.rate='linspace(1, 2, 3)'", "workload.cv=range(3)"]
    found = sort_arguments(words)
    assert found.hydra == ["hydra.sweep.dir=h"]
    assert found.fixed == ["model='a,b'", "device=h100"]
    assert found.swept == {"profile.file": "a,b", "workload.rate": "linspace(1, 2, 3)", "workload.cv": "range(3)"}


def test_the_bar_says_how_many_points_how_fast_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=140)
    clock = iter([100.0, 100.1, 102.0, 500.0])
    monkeypatch.setattr("simjax.cli.output.console", lambda stderr=False: terminal)
    monkeypatch.setattr("simjax.cli.commands.sweep.time.perf_counter", lambda: next(clock))
    said = []
    with points_progress() as update:
        monkeypatch.setattr("rich.progress.Progress.update", lambda self, task, **fields: said.append(fields["count"]))
        for done in (1000, 2000, 3000, 3004):
            update(done, 12000)
    assert said[:2] == ["1,000 of 12,000 points", "2,000 of 12,000 points"], "two batches that end at once tell no speed"
    assert said[2:] == ["3,000 of 12,000 points, 1,000/s, 0:00:09 left", "3,004 of 12,000 points, 5.0/s, 0:29:56 left"]


def test_the_bars_pace_is_that_of_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points that cannot be simulated, and those of an earlier run, are there before anything is compiled."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=140)
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("simjax.cli.output.console", lambda stderr=False: terminal)
    monkeypatch.setattr("simjax.cli.commands.sweep.time.perf_counter", lambda: next(clock))
    said = []
    with points_progress(before=600) as update:
        monkeypatch.setattr("rich.progress.Progress.update", lambda self, task, **fields: said.append(fields))
        for done in (500, 600, 700, 900):
            update(done, 1000)
    assert [fields["count"] for fields in said] == [
        "500 of 1,000 points", "600 of 1,000 points", "700 of 1,000 points", "900 of 1,000 points, 100/s, 0:00:01 left",
    ]  # fmt: skip
    assert ["description" in fields for fields in said] == [False, False, True, True], "it still compiles"
