"""Intervals beside the numbers of a run: drawn runs side by side are those one by one, and what the command line makes of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

import simjax
from simjax.batch import execute
from simjax.batch.groups import make_groups
from simjax.cluster.configured.cluster import build_cluster
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming, cluster_timing
from simjax.config.schema import RunConfig, UncertaintyConfig
from simjax.engine.host.lower import lower
from simjax.engine.host.result import Result
from simjax.engine.programs import compile_count
from simjax.engine.simulate import simulate
from simjax.errors import SimjaxError
from simjax.latency.join import join_step_times
from simjax.metrics.rows import METRICS, Row, result_row
from simjax.metrics.slo import Slo
from simjax.uncertainty.intervals import Draws, run_draws, simulate_draws
from simjax.workload.workload import Workload
from tests.calibrate.calibrated import SEEN, calibrated, saved
from tests.cli.conftest import Cli, one_line
from tests.cli.conftest import cli as cli  # the fixture

SMALL = ["workload.num_requests=40", "scheduler.max_num_batched_tokens=1024", "plots=false"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("profiles") / "my.yaml", calibrated())


def config(path: Path | None, *more: str) -> RunConfig:
    rate = [] if "workload=closed_loop" in more else ["workload.rate=8"]  # one for all runs of one engine, so that they share programs
    return simjax.compose([*SMALL, *rate, *([] if path is None else [f"profile={path}"]), *more])


def one_by_one(asked: RunConfig, draws: Draws, path: Path, slo: Slo | None = None) -> list[Row]:
    """The rows of the draws, each simulated alone."""
    cluster, workload = build_cluster(asked.model, asked.device, asked.cluster, asked.scheduler), simjax.run(asked).workload
    rows = []
    for values in draws.values:
        alone = simulated_alone(cluster, workload, values, path)
        rows.append({"status": alone.status.name.lower(), **result_row(alone, slo, cluster.num_devices)})
    return rows


def simulated_alone(cluster: ClusterSpec, workload: Workload, values: dict[str, float], path: Path) -> Result:
    """A run whose engines are priced one by one, each with its own parameters where several kinds of engines have them."""
    if len(cluster.instances) == 1:
        source = LatencySource(profile=path, parameters=tuple(values.items()))
        return simjax.simulate_cluster(cluster, workload, source).result
    timings = []
    for one in cluster.instances:
        kind = f"{one.model.name} TP1 on {one.device.name}: "
        own = {name.removeprefix(kind): value for name, value in values.items() if name.startswith(kind)}
        timings.append(cluster_timing((one,), LatencySource(profile=path, parameters=tuple(own.items()))))
    with jax.enable_x64(True):
        step_time = jax.tree.map(np.asarray, join_step_times([timing.step_time for timing in timings]))
    pre, post = (np.concatenate([getattr(timing, name) for timing in timings]) for name in ("api_pre_s", "api_post_s"))
    lowered = lower(cluster, ClusterTiming(step_time, np.arange(len(timings), dtype=np.int32), pre, post, ()), workload)
    return replace(simulate(lowered.shape, lowered.params), stationary=workload.stationary)


def numbers(rows: tuple[Row, ...] | list[Row]) -> list[Row]:
    return [{name: row[name] for name in ("status", *METRICS)} for row in rows]


GROUPS = "cluster.groups=[{device: h100}, {device: h100, model: qwen3-8b}]"
LOOP = [GROUPS, "cluster.router=least_loaded", "workload=closed_loop", "workload.concurrency=6", "workload.think_s=0.1"]
CASES = {"one engine": ["slo.ttft_s=0.1"], "engines of two kinds behind a router, in a closed loop": LOOP}


@pytest.mark.parametrize("case", CASES)
def test_draws_side_by_side_are_those_one_by_one(path: Path, case: str) -> None:
    asked = config(path, *CASES[case], "uncertainty.draws=8", "uncertainty.load=false")
    draws = run_draws(asked)
    slo = Slo(ttft_s=0.1) if case == "one engine" else None
    assert numbers(draws.rows) == numbers(one_by_one(asked, draws, path, slo))
    assert len({row["e2e_mean_s"] for row in draws.rows}) == 8
    assert ("slo" in draws.intervals()) == (slo is not None)


@pytest.mark.parametrize("case", CASES)
def test_draws_have_requests_of_their_own(path: Path, case: str) -> None:
    asked = config(path, *CASES[case], "uncertainty.draws=8", "workload.seed=3")
    draws = run_draws(asked)
    assert draws.covers_load and draws.intervals()["covers_load"]
    slo = Slo(ttft_s=0.1) if case == "one engine" else None
    for i in (0, 5):
        other = replace(asked, workload=replace(asked.workload, seed=4 + i))
        alone = replace(draws, values=(draws.values[i],), rows=(draws.rows[i],))
        assert numbers(alone.rows) == numbers(one_by_one(other, alone, path, slo))


def test_intervals_of_a_certain_profile_are_those_of_the_load(tmp_path: Path) -> None:
    certain = replace(calibrated(sd=1e-10, discrepancy=0.0), host=replace(calibrated().host, step_s=3e-5))
    path = saved(tmp_path / "my.yaml", certain)
    low, high = run_draws(config(path, "uncertainty.draws=16")).intervals()["ttft_s"]["mean"]
    of_seeds = [simjax.summarize(simjax.run(config(path, f"workload.seed={seed}")).result)["ttft_s"]["mean"] for seed in range(1, 17)]
    assert [low, high] == pytest.approx(np.quantile(of_seeds, [0.05, 0.95], method="median_unbiased"), rel=1e-6)


def test_draws_that_hold_more_requests_than_expected_are_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []

    def with_note(designs: dict, *others: object, **options: object) -> object:
        again.extend(designs)
        return make_groups(designs, *others, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(execute, "make_groups", with_note)
    path = saved(tmp_path / "my.yaml", calibrated(sd=0.5))
    asked = config(
        path, "workload.num_requests=200", "workload.rate=4", "uncertainty.draws=8", "uncertainty.seed=2", "uncertainty.load=false"
    )
    draws = run_draws(asked)
    assert again, "this test is about draws with several times the load of the run"
    chosen = [again[0], 0]
    few = replace(draws, values=tuple(draws.values[i] for i in chosen), rows=tuple(draws.rows[i] for i in chosen))
    assert numbers(few.rows) == numbers(one_by_one(asked, few, path))


def test_no_uncertainty_gives_the_numbers_of_the_run(tmp_path: Path) -> None:
    certain = replace(calibrated(sd=1e-10, discrepancy=0.0), host=replace(calibrated().host, step_s=3e-5))
    asked = config(saved(tmp_path / "my.yaml", certain), "uncertainty.draws=16", "uncertainty.load=false")
    run = simjax.run(asked)
    summary, intervals = simjax.summarize(run.result), run_draws(asked, run).intervals()
    for metric in ("ttft_s", "tpot_s", "e2e_s", "throughput"):
        assert set(intervals[metric]) == set(summary[metric])
        for name, (low, high) in intervals[metric].items():
            assert (low, high) == pytest.approx((summary[metric][name],) * 2, rel=1e-7), (metric, name)
    assert intervals["duration_s"] == pytest.approx([summary["duration_s"]] * 2, rel=1e-7)


def test_more_uncertainty_widens_and_the_domain_does_too(path: Path, tmp_path: Path) -> None:
    def width(profile: Path) -> float:
        low, high = run_draws(config(profile, "uncertainty.draws=32")).intervals()["tpot_s"]["mean"]
        return (high - low) / low

    wide = saved(tmp_path / "wide.yaml", calibrated(sd=0.1))
    left = saved(tmp_path / "left.yaml", calibrated(seen=replace(SEEN, sequences=(1, 4))))
    assert width(wide) > 1.4 * width(path)
    assert width(left) > 1.1 * width(path)


def test_one_program_whatever_the_number_of_draws(path: Path) -> None:
    run, source = simjax.run(config(path)), LatencySource(profile=path)
    assert len(simulate_draws(run, source, UncertaintyConfig(draws=8))) == 8
    before = compile_count()
    for draws in (20, 70):
        assert len(simulate_draws(run, source, UncertaintyConfig(draws=draws))) == draws
    assert compile_count() == before


def test_parameters_of_the_user_move_the_middle_and_host_times_are_known(path: Path) -> None:
    asked = config(path, "profile.parameters={gemm_bandwidth: 0.5, api_pre_s: 0.2}", "profile.step_s=0", "uncertainty.draws=16")
    draws = run_draws(asked)
    assert np.mean([values["api_pre_s"] for values in draws.values]) == pytest.approx(0.2, rel=0.03)
    assert all("step_s" not in values for values in draws.values)
    summary, (low, high) = simjax.summarize(simjax.run(asked).result), draws.intervals()["tpot_s"]["mean"]
    assert low < summary["tpot_s"]["mean"] < high
    assert low > 1.3 * simjax.summarize(simjax.run(config(path)).result)["tpot_s"]["mean"]


def test_engines_of_several_kinds_have_draws_of_their_own(path: Path) -> None:
    draws = run_draws(config(path, *LOOP, "uncertainty.draws=8"))
    llama, qwen = "meta-llama/Llama-3.1-8B TP1 on h100: ", "Qwen/Qwen3-8B TP1 on h100: "
    for values in draws.values:
        assert values[f"{llama}gemm_bandwidth"] == values[f"{qwen}gemm_bandwidth"], "one device, one posterior"
        assert values[f"{llama}step_8"] != values[f"{qwen}step_8"]


def drawn(level: float, values: list[float | None]) -> Draws:
    rows = tuple({"status": "finished", **dict.fromkeys(METRICS), "e2e_mean_s": value} for value in values)
    return Draws(level, ({},) * len(rows), rows, False, False, ())


def test_intervals_are_quantiles_with_equal_tails() -> None:
    values = list(np.random.default_rng(0).permutation(np.arange(1000.0)))
    assert drawn(0.9, values).interval("e2e_mean_s") == pytest.approx([49.35, 949.65], abs=1e-9)
    assert drawn(0.5, values).interval("e2e_mean_s") == pytest.approx([249.417, 749.583], abs=1e-3)
    assert drawn(0.9, [None, 1.0, 2.0]).interval("e2e_mean_s") == [1.0, 2.0]
    assert drawn(0.9, [None, None]).interval("e2e_mean_s") is None


def test_what_a_reader_must_know(path: Path) -> None:
    (line,) = run_draws(config(path, "uncertainty.draws=8", "uncertainty.level=0.5", "sim.max_ticks=70")).warnings
    assert line == "8 of 8 draws did not finish; their numbers cover the requests that did"
    few, priors = sorted(run_draws(config(None, "uncertainty.draws=8")).warnings, reverse=True)
    assert few == "uncertainty.draws=8 is too few for level=0.9, which needs 13; intervals are their range"
    assert priors.startswith("latency/h100/generic.yaml: not calibrated, so intervals are those of its priors")


def test_run_from_the_command_line(cli: Cli, path: Path) -> None:
    shutil.copy(path, "my.yaml")
    said = cli(
        "run", *SMALL, "workload.rate=8", "profile=my.yaml", "uncertainty.draws=16", "uncertainty.level=0.8", "slo.ttft_s=0.06", "out=r"
    )
    assert said.code == 0, said.err
    summary, table = json.loads(Path("r/summary.json").read_text()), pd.read_csv("r/draws.csv")
    intervals = summary["intervals"]
    assert (intervals["level"], intervals["draws"]) == (0.8, 16)
    assert table["draw"].tolist() == list(range(16))
    assert {"gemm_bandwidth", "step_2048", "status", *METRICS} <= set(table.columns)
    for metric in ("ttft", "tpot", "e2e"):
        assert set(intervals[f"{metric}_s"]) == {"mean", "p50", "p90", "p95", "p99", "max"}
        for name, (low, high) in intervals[f"{metric}_s"].items():
            assert low <= high
            assert [low, high] == pytest.approx(np.quantile(table[f"{metric}_{name}_s"], [0.1, 0.9], method="median_unbiased"))
    assert "itl_s" not in intervals
    assert len(intervals["slo"]["attainment_fraction"]) == len(intervals["duration_s"]) == 2
    assert "in brackets: 80 % intervals from 16 draws of the profile's parameters and of the requests" in said.out
    lines = said.out.splitlines()
    below = {name: lines[n + 1] for n, line in enumerate(lines) if (name := line.split(" ")[0]) in ("TTFT", "TPOT", "ITL", "E2E")}
    low, high = intervals["ttft_s"]["mean"]
    shown = [float(x.replace(",", "")) for x in below["TTFT"].split("[")[1].split("]")[0].split(", ")]
    assert shown == pytest.approx([low * 1e3, high * 1e3], rel=0.03)
    assert below["ITL"].startswith("E2E"), "draws know of no inter-token latency"
    assert [below[name].count("[") for name in ("TTFT", "TPOT", "E2E")] == [6, 6, 6]
    assert next(line for line in lines if line.startswith("throughput")).count("[") == 3
    again = cli(
        "run", *SMALL, "workload.rate=8", "profile=my.yaml", "uncertainty.draws=16", "uncertainty.level=0.8", "slo.ttft_s=0.06", "out=s"
    )
    assert again.code == 0 and Path("s/draws.csv").read_bytes() == Path("r/draws.csv").read_bytes()


def test_leaving_the_domain_is_told_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    saved(tmp_path / "my.yaml", calibrated(seen=replace(SEEN, sequences=(1, 2))))
    said = cli("run", *SMALL, "workload.rate=8", "profile=my.yaml", "out=r")
    assert said.code == 0
    (line,) = [line for line in said.err.splitlines() if "sequences a step" in line]
    assert line.startswith("warning: my.yaml: calibrated on 1 to 2 sequences a step, this run went to ")
    assert line.removeprefix("warning: ") in json.loads(Path("r/summary.json").read_text())["warnings"]
    assert not Path("r/draws.csv").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["uncertainty.draws=7"], "uncertainty.draws=7: it must be 8 to 4,096, or 0 for no intervals"),
        (["uncertainty.draws=5000"], "uncertainty.draws=5000: it must be 8 to 4,096"),
        (["uncertainty.level=1", "uncertainty.draws=8"], "uncertainty.level=1.0: it must lie in (0, 1)"),
        (["uncertainty.seed=-1"], "uncertainty.seed=-1: it must not be negative"),
        (["uncertainty.draws=8", "profile.bundle_root=x"], "uncertainty.draws needs a latency profile"),
        (["-m", "uncertainty.draws=8", "device=h100,h200"], "uncertainty.draws: a sweep has no intervals"),
        (["-m", "uncertainty.draws=8,16"], "uncertainty.draws cannot be swept: a sweep has no intervals"),
    ],
)
def test_mistakes(cli: Cli, words: list[str], part: str) -> None:
    assert part in one_line(cli("run", *words))


def test_tables_have_nothing_to_draw() -> None:
    with pytest.raises(SimjaxError, match=r"uncertainty.draws needs a latency profile.*simjax calibrate"):
        run_draws(simjax.compose(["profile.bundle_root=anywhere"]))
