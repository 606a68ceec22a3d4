"""The warnings of a profile's calibration are the same from Python, from the command line and from sweeps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import simjax
from simjax.caveat import Estimate
from simjax.engine.host.result import Result
from simjax.explore.plan import SweepPlan
from simjax.latency.profiles.profile import Seen
from simjax.validity import reach
from simjax.validity.groups import calibrated_groups
from simjax.validity.left import LeftRanges
from simjax.validity.reach import StepExtremes, step_extremes
from tests.calibrate.calibrated import LLAMA, SEEN, calibrated, saved
from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli  # the fixture

LENGTHS = ["workload.prompt.dist=fixed", "workload.prompt.tokens=300", "workload.output.dist=fixed", "workload.output.tokens=40"]
SMALL = [*LENGTHS, "scheduler.max_num_seqs=16", "scheduler.max_num_batched_tokens=512", "workload.num_requests=40"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    seen = replace(SEEN, tokens=(2, 128), sequences=(1, 4), context=(5, 200))
    return saved(tmp_path_factory.mktemp("profiles") / "my.yaml", calibrated(seen=seen))


def lines(path: Path) -> tuple[str, ...]:
    return (
        f"{path}: calibrated on steps of 2 to 128 tokens, this run went down to 1 and to 512; intervals are widened",
        f"{path}: calibrated on 1 to 4 sequences a step, this run went to 16; intervals are widened",
        f"{path}: calibrated on requests of 5 to 200 tokens, this run went to 340; intervals are widened",
    )


def test_python_and_the_command_line_say_the_same(path: Path, cli: Cli) -> None:
    asked = [f"profile={path}", *SMALL, "workload.rate=200"]
    assert simjax.run(simjax.compose(asked)).warnings == lines(path)
    said = cli("run", *asked, "plots=false", "out=run")
    assert said.code == 0
    assert [line for line in said.err.splitlines() if "calibrated on" in line] == [f"warning: {line}" for line in lines(path)]


def test_extremes_of_a_leap_log_are_by_instance(path: Path) -> None:
    """Both instances of a cluster by their own steps; an instance that takes no step has zeros and no reach."""
    done = simjax.run(simjax.compose([f"profile={path}", *SMALL, "workload.num_requests=1", "cluster.instances=2"]))
    steps = step_extremes(done.result)
    assert [x.tolist() for x in steps] == [[1, 0], [300, 0], [1, 0], [1, 0]]
    assert reach.reach(done.cluster.instances, done.result, [1]) is None
    assert reach.reach(done.cluster.instances, done.result) == Seen((1, 300), (1, 1), (340, 340), (LLAMA,), (1,))


def test_a_record_in_place_of_the_log_gives_the_same_reach(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = simjax.run(simjax.compose([f"profile={path}", *SMALL, "workload.rate=200", "cluster.instances=2"]))
    without = replace(done.result, leaps=None)
    assert reach.reach(done.cluster.instances, without) is None, "nothing is recorded"
    monkeypatch.setattr(reach, "recorded_extremes", lambda _: step_extremes(done.result))
    for indices in (None, [0], [1]):
        assert reach.reach(done.cluster.instances, without, indices) == reach.reach(done.cluster.instances, done.result, indices)


def test_a_sweep_gives_the_lines_of_its_single_run(path: Path) -> None:
    base = [f"profile={path}", *SMALL]
    single = simjax.run(simjax.compose([*base, "workload.rate=200"])).warnings
    table = simjax.run_sweep(SweepPlan.of(base, {"workload.rate": [200.0]}))
    assert len(single) == 3
    expected = [line.replace("this run went", "1 of 1 point went").removesuffix("; intervals are widened") for line in single]
    assert sorted(table.attrs["warnings"]) == sorted(expected)


def recorded(result: Result) -> StepExtremes:
    """A record made by hand: steps of 1 to 512 tokens where 16 requests or more ran, of 2 to 100 where fewer did; 3 sequences a step."""
    count, most = len(result.instances.num_blocks), 512 if len(result.requests.finished) > 16 else 100
    least = 1 if most == 512 else 2
    return StepExtremes(*(np.full(count, x) for x in (least, most, 1, 3)))


def test_a_sweep_has_one_line_for_each_range(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "recorded_extremes", recorded)
    axes = {"workload.num_requests": [8, 16, 40], "workload.rate": [20.0, 200.0], "profile.parameters.step_s": [2e-4, 1e-4]}
    plan = SweepPlan.of([f"profile={path}", *SMALL[:-1]], axes)
    table = simjax.run_sweep(plan)
    assert table["status"].tolist() == ["finished"] * 12
    assert table.attrs["warnings"] == [
        f"{path}: calibrated on steps of 2 to 128 tokens, 4 of 12 points went down to 1 and to 512",
        f"{path}: calibrated on requests of 5 to 200 tokens, 12 of 12 points went to 340",
    ]


def test_a_sweep_replaces_the_lines_that_spoke_of_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "recorded_extremes", recorded)
    narrow = replace(calibrated(), valid=replace(calibrated().valid, tokens=(1, 256), sequences=(1, 8)))
    narrow = replace(narrow, calibration=replace(narrow.calibration, seen=replace(SEEN, tokens=(1, 256), sequences=(1, 64))))
    path = saved(tmp_path / "my.yaml", narrow)
    plan = SweepPlan.of(
        [f"profile={path}", *LENGTHS, "scheduler.max_num_seqs=16", "workload.num_requests=40"],
        {"scheduler.max_num_batched_tokens": [512, 1024]},
    )
    limits = f"{path}: max_num_batched_tokens=1024 exceeds the measured 256; larger steps are extrapolated"
    seats = f"{path}: max_num_seqs=16 exceeds the measured 8; larger steps are extrapolated"
    assert sorted(plan.warnings) == [limits, seats]
    assert simjax.run_sweep(plan).attrs["warnings"] == [
        f"{path}: calibrated on steps of 1 to 256 tokens, 2 of 2 points went to 512",
        seats,  # no point left the range of sequences: what is known of the limits stays
    ]


def test_a_point_counts_once_however_often_it_is_added(path: Path) -> None:
    done = simjax.run(simjax.compose([f"profile={path}", *SMALL, "workload.rate=200"]))
    groups, left = calibrated_groups(done.cluster, simjax.LatencySource(profile=path)), LeftRanges()
    for point in (3, 3, 5):
        left.add(groups, done.result, point)
    assert left.warnings_of_sweep([])[1] == f"{path}: calibrated on 1 to 4 sequences a step, 2 of 2 points went to 16"


def test_profiles_without_a_calibration_and_tables_have_no_ranges() -> None:
    cluster = simjax.run(simjax.compose([*SMALL, "workload.num_requests=2"])).cluster
    assert calibrated_groups(cluster, simjax.LatencySource()) == ()
    assert calibrated_groups(cluster, simjax.LatencySource(bundle_root=Path("nowhere"))) == ()


def test_warnings_of_the_configuration_are_the_same_in_a_run_and_in_a_sweep() -> None:
    """What is in doubt or without effect comes first, what is true of nearly every run last, in one line."""
    base = ["device=h200", *SMALL, "cluster.tensor_parallel_size=16", "model=llama-3.1-405b", "slo.ttft_s=500", "cluster.router=least_kv"]
    single = simjax.run(simjax.compose([*base, "workload.rate=2"])).warnings
    swept = simjax.run_sweep(SweepPlan.of(base, {"workload.rate": [2.0]})).attrs["warnings"]
    assert sorted(single) == sorted(swept)
    parts = ("cluster.router=least_kv has no effect", "slo.ttft_s=500 is implausible", "tensor_parallel_size=16 exceeds the 8 devices")
    assert all(line.startswith(part) for line, part in zip(single, parts, strict=False))
    estimates = [line for line in single if isinstance(line, Estimate)]
    assert estimates == [single[-1]] == [swept[-1]] and "coefficients for any model" in single[-1] and "extrapolated" in single[-1]


def test_what_has_an_effect_at_a_point_of_a_sweep_is_not_named() -> None:
    plan = SweepPlan.of([*SMALL, "cluster.router=least_loaded"], {"cluster.instances": [1, 2], "slo.ttft_s": [0.5, 500.0]})
    own = [line for line in plan.warnings if not isinstance(line, Estimate)]
    assert own == ["slo.ttft_s=500 is implausible: it is in seconds (not ms), usually 0.001 to 120"]
