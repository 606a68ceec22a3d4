"""`simjax capacity` from the command line."""

import json
from pathlib import Path

import pandas as pd
import pytest

from simjax.sizing.record import CAPACITY
from tests.cli.conftest import Cli, one_line

SMALL = ("workload.prompt.mean=200", "workload.output.mean=40", "slo.ttft_s=0.5", "slo.tpot_s=0.05")
SEARCH = ("capacity.num_requests=256", "capacity.seeds=2", "capacity.tolerance=0.05", "capacity.precision=inf")


def test_one_design(cli: Cli, tmp_path: Path) -> None:
    said = cli("capacity", *SMALL, *SEARCH, "scheduler.max_num_seqs=8", "out=found")
    assert said.code == 0, said
    (one,) = json.loads((tmp_path / "found" / "capacity.json").read_text())["designs"]
    assert f"{one['rate_per_s']:.4g}" in said.out and "capacity, requests/s" in said.out and one["limited_by"] in said.out
    assert "interval: bracket of the search and 90 % over 2 workloads" in said.out
    assert one["low"] <= one["rate_per_s"] == one["bracket"][0] < one["bracket"][1] <= one["high"]
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"capacity.json", "capacity.png", "config.yaml"}


def test_many_designs_are_a_sweep(cli: Cli, tmp_path: Path) -> None:
    """Their table is one of a sweep: `simjax pareto` reads it, and no other command takes its rows for runs."""
    said = cli("capacity", "-m", *SMALL, *SEARCH, "cluster.instances=1,2", "scheduler.max_num_seqs=4,8", "out=many")
    assert said.code == 0, said
    table = pd.read_csv(tmp_path / "many" / "results.csv")
    assert list(table.columns[:5]) == ["point", "cluster.instances", "scheduler.max_num_seqs", "status", "reason"]
    assert set(CAPACITY) <= set(table.columns) and list(table["gpus"]) == [1, 1, 2, 2]
    per_gpu = table["capacity_requests_per_s"] / table["gpus"]
    assert list(table["capacity_requests_per_s_per_gpu"]) == pytest.approx(list(per_gpu))
    assert all(table["capacity_requests_per_s_low"] < table["capacity_requests_per_s"])
    front = cli("pareto", "many")
    assert front.code == 0 and "highest capacity_requests_per_s, lowest gpus" in front.out
    best = cli("pareto", "many", "objective.maximize=[capacity_requests_per_s_per_gpu]", "objective.minimize=[]", "out=best")
    assert best.code == 0 and pd.read_csv(tmp_path / "best" / "pareto.csv")["scheduler.max_num_seqs"].iloc[0] == 8
    assert "its rows are no runs but the results of `simjax capacity`" in one_line(cli("show-point", "many", "0"))
    assert "its rows are no runs" in one_line(cli("run", "sweep.resume=many"))
    assert "holds a sweep already" in one_line(cli("capacity", *SMALL, *SEARCH, "out=many"))


def test_fewest_instances(cli: Cli, tmp_path: Path) -> None:
    said = cli("capacity", *SMALL, *SEARCH, "scheduler.max_num_seqs=8", "capacity.rate=60", "out=few")
    assert said.code == 0, said
    (one,) = json.loads((tmp_path / "few" / "capacity.json").read_text())["designs"]
    assert one["instances"] >= 2 and f"60/s: {one['instances']} instances, {one['gpus']} GPUs" in said.out
    assert [x["passes"] for x in one["tried"] if x["instances"] in (one["instances"] - 1, one["instances"])] == [False, True]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("workload.rate=5",), "the search sets the rate and the length of the workload"),
        (("-m", "workload.rate=5,6"), "workload.rate=... has no effect: the search sets the rate"),
        (("device=h100,h200",), "several values are a sweep: add -m"),
        (("-m", "device=h100,h200", "hydra/launcher=joblib"), "Hydra's own settings have no effect on a search"),
        (("capacity.rate=5", "cluster.instances=2"), "cluster.instances=2 has no effect with capacity.rate"),
        (("capacity.rate=0",), "capacity.rate=0.0: it must be a positive rate"),
        (("sweep.resume=x",), "sweep.resume"),
        (
            ("cluster=disaggregated", "capacity.rate=3"),
            "capacity.rate finds the number of instances that run both phases; with prefill and decode instances leave it out",
        ),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, words: tuple[str, ...], line: str) -> None:
    assert line in one_line(cli("capacity", *words))


def test_help(cli: Cli) -> None:
    said = cli("capacity", "--help")
    assert said.code == 0 and "capacity.rate=X" in said.out and "capacity.tolerance=0.01" in said.out
    assert "\n  capacity " in cli("--help").out
