"""`simjax pareto` on directories such as sweeps leave."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from simjax.config.compose import normal
from tests.cli.conftest import Cli, one_line

RATES = (1.0, 2.0, 4.0, 8.0, 16.0)


def write_sweep(path: Path, table: pd.DataFrame, **more: Any) -> None:
    path.mkdir(parents=True, exist_ok=True)
    table.to_csv(path / "results.csv", index=False)
    goal = {"maximize": ["goodput_per_gpu"], "minimize": ["ttft_p99_s"], "subject_to": ["tpot_p99_s<=0.05"]}
    (path / "sweep.json").write_text(json.dumps({"version": 1, "points": len(table), "seeds": None, "objective": goal} | more))


def rows(seeds: tuple[int, ...] = ()) -> pd.DataFrame:
    """The h200 with the larger batch is always a little faster, more is served at higher rates; one point is invalid, four too slow."""
    found = []
    for device, speed in (("h100", 1.0), ("h200", 1.5)):
        for seqs in (64, 256):
            for rate in RATES:
                for seed in seeds or (None,):
                    wobble = 1.0 + 0.01 * (seed or 0)
                    found.append(
                        {"device": device, "scheduler.max_num_seqs": seqs, "workload.rate": rate}
                        | ({} if seed is None else {"workload.seed": seed})
                        | {"status": "finished", "reason": None, "gpus": 1, "ttft_p99_s": wobble * rate**1.5 / speed / 10 * (1 + 1 / seqs)}
                        | {"tpot_p99_s": rate / 200, "goodput_per_gpu": rate / wobble}
                    )
    table = pd.DataFrame(found)
    table.insert(0, "point", np.arange(len(table)))
    table.loc[0, "status"], table.loc[0, "reason"] = "invalid", "it does not fit"
    table.loc[0, ["gpus", "ttft_p99_s", "tpot_p99_s", "goodput_per_gpu"]] = np.nan
    return table


def marks(path: Path) -> dict[int, str]:
    table = pd.read_csv(path, keep_default_na=False)
    return dict(zip(table["point"], table["mark"], strict=True))


def test_the_sweeps_own_objective(cli: Cli) -> None:
    write_sweep(Path("s"), rows())
    said = cli("pareto", "s")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == "s  4 of 15 points on the front: highest goodput_per_gpu, lowest ttft_p99_s subject to tpot_p99_s<=0.05"
    assert lines[1].split() == ["point", "rate", "goodput_per_gpu", "ttft_p99_s", "tpot_p99_s"]
    assert lines[2].split() == ["18", "8", "8", "1.514", "0.04", "best", "goodput_per_gpu"]
    assert lines[3].split() == ["17", "4", "4", "0.5354", "0.02", "knee"]
    assert lines[4].split() == ["16", "2", "2", "0.1893", "0.01"]
    assert lines[5].split() == ["15", "1", "1", "0.06693", "0.005", "best", "ttft_p99_s"]
    assert lines[6:] == ["all of them: device=h200, max_num_seqs=256", "left out: 1 invalid; 4 outside tpot_p99_s<=0.05", "results in s"]
    assert marks(Path("s/pareto.csv")) == {18: "best goodput_per_gpu", 17: "knee", 16: "", 15: "best ttft_p99_s"}
    assert Path("s/pareto.png").stat().st_size > 10_000


def test_another_objective_in_another_place(cli: Cli) -> None:
    write_sweep(Path("s"), rows())
    said = cli("pareto", "s", "objective.minimize=[]", "objective.subject_to=[ttft_p99_s<=2,tpot_p99_s<1]", "out=o", "plots=false")
    assert said.code == 0
    assert "highest goodput_per_gpu subject to ttft_p99_s<=2, tpot_p99_s<1" in said.out
    assert marks(Path("o/pareto.csv")) == {13: "best goodput_per_gpu", 18: ""}, "equal rows are all there"
    assert sorted(path.name for path in Path("o").iterdir()) == ["pareto.csv"]
    assert sorted(path.name for path in Path("s").iterdir()) == ["results.csv", "sweep.json"]


def test_without_an_objective_the_default_one(cli: Cli) -> None:
    for sweep in ({}, {"objective": {"maximize": [], "minimize": [], "subject_to": []}}):
        write_sweep(Path("s"), rows())
        Path("s/sweep.json").write_text(json.dumps(sweep))
        said = cli("pareto", "s", "plots=false")
        assert "highest goodput_per_gpu, lowest ttft_p99_s\n" in said.out
        assert "left out: 1 invalid\n" in said.out


def test_no_point_counts(cli: Cli) -> None:
    write_sweep(Path("s"), rows())
    assert cli("pareto", "s").code == 0
    said = cli("pareto", "s", "objective.subject_to=ttft_p99_s<=0.01")
    assert said.code == 0
    assert said.out.splitlines() == [
        "there is no front and no figure: none of 20 points counts (1 invalid; 19 outside ttft_p99_s<=0.01)",
        "the closest to ttft_p99_s<=0.01 is 0.06693",
        "results in s",
    ]
    assert not Path("s/pareto.png").exists()
    assert Path("s/pareto.csv").read_text().count("\n") == 1


def test_a_long_front_is_shown_in_part(cli: Cli) -> None:
    count = 200
    table = pd.DataFrame({"point": np.arange(count), "workload.rate": np.arange(count), "status": "finished", "reason": None})
    x = np.linspace(0.0, 1.0, count)
    write_sweep(Path("s"), table.assign(ttft_p99_s=x, goodput_per_gpu=1.0 - (1.0 - x) ** 3, tpot_p99_s=0.0))
    said = cli("pareto", "s", "plots=false")
    numbers = [int(line.split()[0]) for line in said.out.splitlines()[2:17]]
    assert numbers == sorted(numbers, reverse=True)
    assert {0, 199} < set(numbers)
    assert "knee" in said.out
    assert "185 more in pareto.csv\n" in said.out
    assert len(marks(Path("s/pareto.csv"))) == count


def test_means_over_seeds(cli: Cli) -> None:
    """A design that lacks a seed is no match for one that has them all."""
    table = rows(seeds=(0, 1, 2))
    write_sweep(Path("s"), table.iloc[:-1], seeds=[0, 1, 2], points=len(table))
    said = cli("pareto", "s")
    assert said.err == "warning: the table has 59 of the 60 points of this sweep; sweep.resume=s continues it\n"
    assert said.out.splitlines()[0].startswith("s  4 of 15 designs on the front: ")
    assert said.out.count("±") == 4 * 3
    assert "left out: 2 incomplete;" in said.out
    front = pd.read_csv("s/pareto.csv")
    assert (front["replicates"] == 3).all()
    assert "workload.seed" not in front.columns
    assert (front["ttft_p99_s_ci95"] > 0).all()


def test_shards(cli: Cli) -> None:
    table = rows()
    for shard in (1, 2):
        write_sweep(Path(f"s/shard-{shard}-of-2"), table.iloc[shard - 1 :: 2], points=len(table))
    said = cli("pareto", "s", "plots=false")
    assert said.err == ""
    assert "of 15 points on the front" in said.out
    assert "tpot_p99_s<=0.05" in said.out
    said = cli("pareto", "s/shard-1-of-2", "plots=false")
    assert said.err == "warning: the table has 10 of the 20 points of this sweep\n"


def test_while_it_runs(cli: Cli) -> None:
    """Rows in the order in which they were done, the last one half written."""
    table = rows().iloc[[7, 3, 16, 12]]
    write_sweep(Path("s"), table, points=20)
    with Path("s/results.csv").open("a") as file:
        file.write("18,h200,256,8.0,finished,,1,0.0")
    said = cli("pareto", "s", "plots=false")
    assert said.err == "warning: the table has 4 of the 20 points of this sweep; sweep.resume=s continues it\n"
    assert "4 points on the front" in said.out


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("objective.subject_to=[a<=1,b>2]", "objective.subject_to=['a<=1','b>2']"),
        ("objective.subject_to=a<=1", "objective.subject_to=['a<=1']"),
        ("objective.subject_to=[ a <= 1 , b>2]", "objective.subject_to=['a <= 1','b>2']"),
        ("objective.maximize=x", "objective.maximize=['x']"),
        ("objective.maximize=x,y", "objective.maximize=['x','y']"),
        ("objective.maximize=[x]", "objective.maximize=['x']"),
        ("objective.maximize=[]", "objective.maximize=[]"),
        ("objective.maximize=null", "objective.maximize=null"),
        ('objective.subject_to=["a<=1"]', 'objective.subject_to=["a<=1"]'),
        ("objective.maximize=[x", "objective.maximize=[x"),
        ("objective.maximize=${y}", "objective.maximize=${y}"),
        ("workload.rate=1,2", "workload.rate=1,2"),
    ],
)
def test_objectives_need_no_quotes(given: str, full: str) -> None:
    """The shell takes quotes away that Hydra's grammar wants."""
    assert normal(given) == full


@pytest.mark.parametrize("text", ["objective.subject_to=[ttft_p99_s<=0.5]", 'objective.subject_to=["ttft_p99_s <= 0.5"]'])
def test_constraints_with_and_without_quotes(cli: Cli, text: str) -> None:
    write_sweep(Path("s"), rows())
    said = cli("pareto", "s", text, "plots=false")
    assert "subject to ttft_p99_s<=0.5\n" in said.out


def test_a_failed_command_leaves_nothing(cli: Cli) -> None:
    write_sweep(Path("s"), rows())
    line = one_line(cli("pareto", "s", "objective.maximize=[goodput]", "out=o"))
    assert line.startswith("objective.maximize: there is no column 'goodput'; did you mean goodput_per_gpu")
    assert not Path("o").exists()
    assert sorted(path.name for path in Path("s").iterdir()) == ["results.csv", "sweep.json"]
