"""Searches on small designs, against single runs."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

import simjax
from simjax.config.capacity import SearchConfig
from simjax.engine.programs import compile_count
from simjax.errors import SimjaxError
from simjax.explore.points import Points
from simjax.metrics import Slo
from simjax.metrics.rows import result_row
from simjax.sizing.capacity import designs_of
from simjax.sizing.fleet import fewest_instances
from simjax.sizing.loads import loads_of
from simjax.sizing.metrics import PROBED
from simjax.sizing.verdict import Outcome, verdict
from simjax.workload import build_workload

SMALL = ["workload.prompt.mean=200", "workload.output.mean=40", "scheduler.max_num_seqs=8"]
SEARCH = ["capacity.num_requests=256", "capacity.seeds=2", "capacity.tolerance=0.05", "capacity.precision=inf"]
LIMITS = ["slo.ttft_s=0.5", "slo.tpot_s=0.05"]


def passes(overrides: list[str], rate: float, seeds: int, attainment: float = 0.99) -> bool:
    """The verdict on single runs by `simjax.run`."""
    outcomes = []
    for seed in range(seeds):
        config = simjax.compose([*overrides, f"workload.rate={rate!r}", "workload.num_requests=256", f"workload.seed={seed}"])
        slo = Slo(**{name: limit for name, limit in asdict(config.slo).items() if limit is not None})
        outcomes.append(Outcome.of(result_row(simjax.run(config).result, slo, 1, catalog=PROBED), slo))
    return verdict(outcomes, attainment, slo).passes


def test_a_capacity_is_where_single_runs_stop_passing() -> None:
    found = simjax.capacity([*SMALL[:2], *LIMITS, *SEARCH], {"device": ["h100", "l40s"], "scheduler.max_num_seqs": [4, 8]})
    assert len(found.designs) == 4 and found.keys == ("device", "scheduler.max_num_seqs")
    for one in found.designs:
        overrides = [*SMALL[:2], *LIMITS, *(f"{k}={v}" for k, v in one.design.items())]
        assert one.rate_per_s is not None and one.bracket is not None and one.limited_by
        assert passes(overrides, one.rate_per_s, 2) and not passes(overrides, one.bracket[1], 2)
        assert one.bracket[1] <= 1.05 * one.rate_per_s and one.low is not None and one.high is not None
        assert one.low <= one.bracket[0] < one.bracket[1] <= one.high
    by_design = {tuple(one.design.values()): one.rate_per_s or 0.0 for one in found.designs}
    assert by_design["h100", 8] > by_design["h100", 4] and by_design["h100", 8] > by_design["l40s", 8]


def test_metrics_are_those_of_single_runs_at_the_capacity() -> None:
    (one,) = simjax.capacity([*SMALL, *LIMITS, *SEARCH]).designs
    assert one.rate_per_s is not None
    rows = []
    for seed in range(2):
        config = simjax.compose(
            [*SMALL, *LIMITS, f"workload.rate={one.rate_per_s!r}", "workload.num_requests=256", f"workload.seed={seed}"]
        )
        rows.append(result_row(simjax.run(config).result, Slo(0.5, 0.05), 1))
    for name in ("ttft_p99_s", "requests_per_s", "slo_attainment", "tpot_mean_s"):
        assert one.metrics[name] == pytest.approx(np.mean([row[name] for row in rows]), rel=1e-9), name


def test_rounds_recompile_nothing() -> None:
    """All rates, and the workloads that are added, run through the program of the first round."""
    before = compile_count()
    words = [*SMALL, *LIMITS, "capacity.num_requests=320", "capacity.seeds=2", "capacity.precision=0.0001", "capacity.tolerance=0.02"]
    found = simjax.capacity(words, {"scheduler.max_num_batched_tokens": [256, 512, 1024]})
    assert found.rounds > 8 and {one.seeds for one in found.designs} == {32}, "no workloads were added"
    assert compile_count() - before == 1


@pytest.mark.parametrize("kind", ["poisson", "gamma", "weibull", "constant", "sessions"])
def test_a_load_at_a_rate_is_the_workload_of_that_rate(kind: str) -> None:
    words = ["workload.num_requests=64"] if kind != "sessions" else ["workload.num_sessions=64"]
    search = SearchConfig(seeds=2, num_requests=64)
    loads = loads_of([f"workload={kind}"], Points((), ((),)), [0], search).of[0]
    assert len(loads) == 2
    for seed, load in enumerate(loads):
        wanted = build_workload(simjax.compose([f"workload={kind}", "workload.rate=2.5", f"workload.seed={seed}", *words]).workload)
        found = load.at(2.5).lowered.params.requests
        count = len(wanted)
        assert load.requests == count and load.starts == (64 if kind == "sessions" else count)
        np.testing.assert_allclose(np.asarray(found.arrival_s)[0, :count], wanted.arrival_s, rtol=1e-12)
        np.testing.assert_array_equal(np.asarray(found.output_tokens)[0, :count], wanted.output_tokens)


def test_a_trace_is_replayed_faster(tmp_path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{0.5 * i + 0.1 * (i % 3)},{100 + i % 7},{20 + i % 5}" for i in range(120)]
    trace.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    words = ["workload=trace", f"workload.file={trace}", "scheduler.max_num_seqs=4", "slo.ttft_s=0.5"]
    (one,) = simjax.capacity([*words, "capacity.tolerance=0.05"]).designs
    assert one.seeds == 1 and one.num_requests == 120 and "one workload" in one.covers
    assert one.rate_per_s is not None and (one.low, one.high) == one.bracket
    config = simjax.compose([*words, f"workload.rate={one.rate_per_s!r}"])
    row = result_row(simjax.run(config).result, Slo(ttft_s=0.5), 1, catalog=PROBED)
    assert row["slo_attainment"] == one.tried[0].attained if one.tried[0].rate == one.rate_per_s else True
    assert verdict([Outcome.of(row, Slo(ttft_s=0.5))], 0.99, Slo(ttft_s=0.5)).passes


def test_no_number_where_no_rate_passes_or_all_do() -> None:
    none = simjax.capacity([*SMALL, *SEARCH, "slo.tpot_s=0.000001"]).designs[0]
    assert none.rate_per_s is none.low is none.high is None and none.limited_by.startswith("not even ")
    assert none.as_row()["capacity_requests_per_s"] is None and none.as_row()["reason"] == none.limited_by
    everywhere = simjax.capacity([*SMALL, *SEARCH, "slo.ttft_s=5", "capacity.high=0.5"]).designs[0]
    assert everywhere.rate_per_s is everywhere.high is None and everywhere.low == 0.5
    assert everywhere.limited_by == "all rates up to 0.5/s pass"


def test_a_design_that_cannot_be_simulated_is_a_row_with_the_reason() -> None:
    found = simjax.capacity([*SMALL, *LIMITS, *SEARCH], {"model": ["llama-3.1-8b", "llama-3.3-70b"]})
    assert [one.valid for one in found.designs] == [True, False]
    assert found.designs[1].as_row()["status"] == "invalid" and found.designs[1].limited_by
    assert list(found.frame()["status"]) == ["finished", "invalid"]


def test_without_limits_the_capacity_is_the_highest_steady_rate() -> None:
    words = [*SMALL, "capacity.num_requests=1024", "capacity.seeds=2", "capacity.tolerance=0.05", "capacity.precision=inf"]
    free, limited = (simjax.capacity([*words, *limits]).designs[0] for limits in ([], ["slo.ttft_s=0.2"]))
    assert free.limited_by == "not steady" and free.rate_per_s is not None and limited.rate_per_s is not None
    assert free.saturated_per_s is not None and 0.8 < free.rate_per_s / free.saturated_per_s < 1.1
    assert limited.rate_per_s < free.rate_per_s and limited.limited_by.startswith("TTFT: ")


def test_fewest_instances_of_designs() -> None:
    (one,) = simjax.capacity([*SMALL, *LIMITS, *SEARCH]).designs
    assert one.rate_per_s is not None
    search = SearchConfig(rate=2.6 * one.rate_per_s, num_requests=256, seeds=2)
    points = Points(("device",), (("h100",), ("l40s",)))
    found = fewest_instances([*SMALL, *LIMITS], points, search)
    fast, slow = found.designs
    assert fast.instances == fast.gpus and fast.instances is not None and slow.instances is not None
    assert 2 <= fast.instances <= 4 and slow.instances > fast.instances
    assert fast.tried[fast.instances].passes and not fast.tried[fast.instances - 1].passes
    assert [x.point for x in found.ranked] == [0, 1]
    few = fewest_instances([*SMALL, *LIMITS], points, SearchConfig(rate=1000.0, num_requests=256, seeds=1, max_instances=2))
    assert few.ranked == [] and few.designs[0].limited_by.startswith("not even 2 instances: ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["workload.rate=3"], "workload.rate=3 has no effect: the search sets the rate"),
        (["workload.num_requests=50"], "capacity.num_requests sets how long a workload is"),
        (["workload=closed_loop"], "workload.kind=closed_loop has no one rate to search for"),
        (["workload=pulse"], "workload.kind=pulse has no one rate to search for"),
        (["uncertainty.draws=16"], "unknown option"),
        (["capacity.low=3", "capacity.high=2"], "the first must be below the second"),
        (["capacity.attainment=99"], "capacity.attainment=99.0: it must be a share"),
        (["sweep.seeds=3"], "capacity.seeds sets on how many workloads a rate is tried"),
        (["sweep.shard=1/2"], "a search cannot be split"),
    ],
)
def test_mistakes(words: list[str], line: str) -> None:
    with pytest.raises(SimjaxError) as said:
        simjax.capacity(words)
    assert line in str(said.value) and "\n" not in str(said.value)


def test_swept_rates_and_seeds_are_refused() -> None:
    for axes, line in (({"workload.rate": [1, 2]}, "has no effect"), ({"workload.seed": [1, 2]}, "capacity.seeds tries every rate")):
        with pytest.raises(SimjaxError, match=line):
            simjax.capacity([], axes)
    with pytest.raises(SimjaxError, match=r"cluster\.instances=2 has no effect with capacity\.rate"):
        fewest_instances(["cluster.instances=2"], designs_of(simjax.compose([]).sweep), SearchConfig(rate=1.0))
