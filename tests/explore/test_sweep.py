"""Plans and their execution: every row is its single run, whatever runs beside it and whatever goes wrong."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import simjax
from simjax.batch import execute, groups
from simjax.batch.workers import Workers, local_workers
from simjax.engine.programs import compile_count
from simjax.errors import SimjaxError
from simjax.explore.axes import axis
from simjax.explore.pareto.objective import parse_objective
from simjax.explore.plan import SweepPlan, plan_sweep
from simjax.explore.points import grid
from simjax.explore.run import run_plan
from simjax.metrics import Slo
from simjax.metrics.rows import METRICS, result_row

SMALL = ["workload.num_requests=24", "workload.prompt.mean=200", "workload.output.mean=60"]


def single_row(sweep: SweepPlan, point: int) -> dict:
    """The row of a point from `simjax.run`."""
    config = simjax.compose([*sweep.base, *sweep.points.overrides(point)])
    done = simjax.run(config)
    limits = {name: limit for name, limit in dataclasses.asdict(config.slo).items() if limit is not None}
    row = result_row(done.result, Slo(**limits) if limits else None, done.cluster.num_devices)
    return {"status": done.result.status.name.lower(), **row}


def assert_single(table: pd.DataFrame, sweep: SweepPlan, points: list[int]) -> None:
    rows = table.set_index("point")
    for point in points:
        for name, value in single_row(sweep, point).items():
            cell = rows.at[point, name]
            assert cell == value or (value is None and pd.isna(cell)), (point, name)


def test_a_mixed_sweep_is_its_single_runs_in_few_programs():
    """Models, devices, parallelism, engines (three padded to four), limits, routers, arrivals and seeds in one sweep."""
    axes = {
        "model": ["llama-3.1-8b", "qwen3-32b"],
        "device": ["h100", "h200"],
        "cluster.tensor_parallel_size": [1, 2],
        "cluster.instances": [1, 2, 3, 4],
        "scheduler.max_num_seqs": [4, 40, 200],
        "workload.rate": [5.0, 50.0],
    }
    before = compile_count()
    sweep = SweepPlan.of([*SMALL, "slo.ttft_s=0.2"], axes)
    table = simjax.run_sweep(sweep)
    assert compile_count() - before == len(sweep.groups) == 3  # one engine; two; three and four
    assert table["point"].tolist() == list(range(192)) and (table["status"] == "finished").all()
    assert table["device"].tolist() == [sweep.points.rows[point][1] for point in range(192)]
    assert_single(table, sweep, list(range(0, 192, 31)))
    again = compile_count()
    simjax.run_sweep(SweepPlan.of([*SMALL, "slo.ttft_s=0.1"], {**axes, "workload.rate": [7.0, 70.0]}))
    assert compile_count() == again  # values are traced


def test_workload_kinds_routers_and_seeds():
    axes = {"workload": ["gamma", "closed_loop"], "cluster.router": ["least_loaded", "round_robin"], "scheduler": ["vllm", "vllm_small"]}
    base = [*SMALL, "cluster.instances=2", "scheduler.num_gpu_blocks_override=120", "workload.prompt.max=900"]
    sweep = SweepPlan.of(base, axes, seeds=2)
    table = simjax.run_sweep(sweep)
    assert (table["status"] == "finished").all() and table["preemptions"].sum() > 0
    assert_single(table, sweep, list(range(0, 16, 3)))  # a loop and an open one, both routers, limits and seeds


def test_runs_that_do_not_finish_have_a_status():
    sweep = SweepPlan.of(SMALL, {"sim.max_ticks": [20, 5000], "workload.rate": [5.0, 50.0]})
    table = simjax.run_sweep(sweep)
    assert table["status"].tolist() == ["tick_limit", "tick_limit", "finished", "finished"]
    assert_single(table, sweep, [0, 1, 2, 3])


def test_engines_that_need_more_slots_than_expected_run_again(monkeypatch):
    """A forecast that is far too low costs time, and changes nothing."""
    guess = groups.forecast
    monkeypatch.setattr(groups, "forecast", lambda designs: guess(designs)._replace(held=guess(designs).held * 0 + 1))
    base = ["workload.num_requests=150", "workload.prompt.mean=200", "workload.output.mean=60", "workload.rate=150"]
    sweep = SweepPlan.of(base, {"scheduler.max_num_seqs": [8, 128, 100], "cluster.instances": [1, 2]})
    assert all(group.shape.tight and group.shape.slots == 32 for group in sweep.groups)
    rounds, again = [], execute.make_groups
    monkeypatch.setattr(execute, "make_groups", lambda *args, **options: (rounds.append(args[0]), again(*args, **options))[1])
    table = simjax.run_sweep(sweep)
    assert [sorted(designs) for designs in rounds] == [[2, 3, 4, 5]]  # those of eight seats had enough
    assert_single(table, sweep, [0, 3, 4])


def test_memory_that_runs_out_halves_the_batch(monkeypatch):
    tried, run = [], execute.Batches.run

    def little_memory(self, points, device):
        tried.append(len(points))
        if min(self.width, len(points)) > 3:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes")
        return run(self, points, device)

    monkeypatch.setattr(execute.Batches, "run", little_memory)
    sweep = SweepPlan.of(SMALL, {"workload.rate": [float(rate) for rate in range(1, 17)]}, width=16)
    table = simjax.run_sweep(sweep)
    assert (table["status"] == "finished").all() and max(tried) > 3
    assert_single(table, sweep, [0, 15])


def test_a_design_that_never_fits_is_a_row_with_the_reason(monkeypatch):
    run = execute.Batches.run

    def no_memory_for_point_3(self, points, device):
        if 3 in points:
            raise MemoryError
        return run(self, points, device)

    monkeypatch.setattr(execute.Batches, "run", no_memory_for_point_3)
    table = simjax.run_sweep(SweepPlan.of(SMALL, {"workload.rate": [1.0, 2.0, 3.0, 4.0, 5.0]}, width=4)).set_index("point")
    assert table.at[3, "status"] == "error" and table.at[3, "reason"].startswith("out of memory")
    assert (table.drop(index=3)["status"] == "finished").all()


def test_a_chunk_that_fails_says_why_and_the_rest_goes_on(monkeypatch, caplog):
    run = execute.Batches.run

    def broken(self, points, device):
        if 0 in points:
            raise RuntimeError("the compiler\n gave up")
        return run(self, points, device)

    monkeypatch.setattr(execute.Batches, "run", broken)
    with caplog.at_level("DEBUG", "simjax.errors"):
        table = simjax.run_sweep(SweepPlan.of(SMALL, {"workload.rate": [1.0, 2.0, 3.0, 4.0]}, width=1)).set_index("point")
    assert "in broken" in caplog.text, "the traceback, for developers"
    assert table.at[0, "status"] == "error" and table.at[0, "reason"] == "RuntimeError: the compiler gave up"
    assert (table.drop(index=0)["status"] == "finished").all()


def test_invalid_points_are_rows_with_their_reasons(tmp_path):
    sweep = SweepPlan.of(SMALL, {"scheduler.max_num_seqs": [8, 0, 16], "workload.rate": [1.0, 4.0]})
    assert sorted(sweep.invalid) == [2, 3]
    assert "4 to simulate, 2 invalid" in sweep.describe() and "2 x scheduler.max_num_seqs=0: it must be" in sweep.describe()
    table, _ = run_plan(sweep, tmp_path / "out")
    assert table["status"].tolist() == ["finished"] * 2 + ["invalid"] * 2 + ["finished"] * 2
    assert table.loc[2, "reason"].startswith("scheduler.max_num_seqs=0") and pd.isna(table.loc[2, "ttft_p99_s"])
    with pytest.raises(SimjaxError, match=r"none of the 2 points can be simulated; point 0: scheduler.max_num_seqs=0"):
        SweepPlan.of(SMALL, {"scheduler.max_num_seqs": [0, -1]})


def test_a_sweep_that_was_stopped_goes_on(tmp_path, monkeypatch):
    sweep = SweepPlan.of(SMALL, {"workload.rate": [float(rate) for rate in range(1, 25)]}, width=4)

    class Stop(BaseException):
        pass

    def stop(done: int, total: int) -> None:
        if done >= 8:
            raise Stop

    with pytest.raises(Stop):
        run_plan(sweep, tmp_path, parse_objective(["goodput_per_gpu"], []), on_progress=stop)
    there = pd.read_csv(tmp_path / "results.csv")
    assert 8 <= len(there) < 24
    with pytest.raises(SimjaxError, match="holds a sweep already"):
        run_plan(sweep, tmp_path)
    simulated, rows = [], execute._run_groups

    def watched(groups, designs, *others):
        simulated.extend(designs)
        return rows(groups, designs, *others)

    monkeypatch.setattr(execute, "_run_groups", watched)
    table, _ = run_plan(sweep, tmp_path, resume=True)
    assert sorted([*simulated, *there["point"]]) == list(range(24))
    assert table["point"].tolist() == list(range(24)) and (table["status"] == "finished").all()
    fresh = simjax.run_sweep(sweep)
    for name in METRICS:
        np.testing.assert_array_equal(table[name], fresh[name], err_msg=name)


def test_shards_are_the_whole_and_keep_seeds_together():
    parts = [SweepPlan.of(SMALL, {"workload.rate": [1.0, 2.0, 3.0]}, seeds=2, shard=f"{k}/2") for k in (1, 2)]
    found = [sorted(part.designs) for part in parts]
    assert sorted(found[0] + found[1]) == list(range(6)) and sorted(map(len, found)) == [2, 4]
    assert all(a % 2 == 0 and b == a + 1 for part in found for a, b in zip(part[::2], part[1::2], strict=True))


def test_parts_are_not_dealt_out_in_step_with_an_axis():
    """Two devices in two parts: each part has both."""
    parts = [SweepPlan.of(SMALL, {"workload.seed": list(range(20)), "device": ["h100", "h200"]}, shard=f"{k}/2") for k in (1, 2)]
    assert all({part.points.rows[point][1] for point in part.designs} == {"h100", "h200"} for part in parts)


def test_parts_may_be_empty_invalid_or_begun_late(tmp_path):
    axes = {"scheduler.max_num_seqs": [0, 8], "workload.rate": [4.0]}
    tables = [run_plan(SweepPlan.of(SMALL, axes, shard=f"{k}/3"), tmp_path)[0] for k in (1, 2)]
    last = SweepPlan.of(SMALL, axes, shard="3/3")
    assert not (tmp_path / "shard-3-of-3").exists()
    tables.append(run_plan(last, tmp_path, resume=True)[0])
    assert sorted(len(table) for table in tables) == [0, 1, 1]
    whole = pd.concat(table for table in tables if len(table)).sort_values("point")
    assert whole["status"].tolist() == ["invalid", "finished"]
    assert list(tables[0].columns) == list(tables[1].columns) == list(tables[2].columns)
    with pytest.raises(SimjaxError, match=r"sweep\.shard=4/3"):
        SweepPlan.of(SMALL, axes, shard="4/3")


def test_a_sweep_that_lacks_nothing_can_go_on(tmp_path):
    sweep = SweepPlan.of(SMALL, {"workload.rate": [1.0, 2.0]})
    table, _ = run_plan(sweep, tmp_path)
    again, _ = run_plan(sweep, tmp_path, resume=True)
    pd.testing.assert_frame_equal(table, again)


def test_what_the_base_may_not_say():
    for base, message in (
        (["slo.ttft_s=${profile.api_pre_s}", "profile.api_pre_s=0.1"], "profile.api_pre_s is swept|refers to it"),
        (["profile.api_pre_s=0.1"], "profile.api_pre_s is swept"),
        (["slo.ttft_s=${profile.api_pre_s}"], "refers to it"),
        (["sweep.seeds=3"], "leave it out of the base"),
        (["out=here"], "leave it out of the base"),
    ):
        with pytest.raises(SimjaxError, match=message):
            SweepPlan.of([*SMALL, *base], {"profile.api_pre_s": [0.01, 1.0]})
    with pytest.raises(SimjaxError, match=r"sweep\.width=0"):
        SweepPlan.of(SMALL, {"workload.rate": [1.0]}, width=0)


def test_a_row_that_cannot_be_made_is_of_one_design(monkeypatch):
    made = execute.batch_results

    def fails_for_one(batch, designs, state, going):
        if 1 in designs:
            raise ZeroDivisionError("no request")
        return made(batch, designs, state, going)

    monkeypatch.setattr(execute, "batch_results", fails_for_one)
    sweep = SweepPlan.of(SMALL, {"workload.rate": [1.0, 2.0, 3.0]}, width=3)
    table = simjax.run_sweep(sweep)
    assert (table["status"] == "error").sum() == sum(len(chunk) > 1 for chunk in sweep.groups[0].chunks) > 0
    assert set(table["reason"][table["status"] == "error"]) == {"ZeroDivisionError: no request"}


def test_batches_are_planned_for_the_devices():
    """Batches are such that the workers end together; long workloads share no program with short ones."""
    swept = grid([axis("workload.num_requests", [20, 30, 5000]), axis("workload.rate", [float(x) for x in range(1, 101)])])
    two, one = Workers(local_workers().devices, 2), Workers(local_workers().devices, 1)
    planned = plan_sweep([], swept, workers=two).groups
    assert [(group.shape.requests, group.designs, group.width) for group in planned] == [(16_384, 100, 56), (512, 200, 56)]
    assert sorted(point for group in planned for chunk in group.chunks for point in chunk) == list(range(300))
    assert all(len(chunk) >= 44 for group in planned for chunk in group.chunks)  # not one full batch and a rest
    few = grid([axis("workload.rate", [1.0, 2.0, 3.0])])
    assert [plan_sweep([], few, workers=workers).groups[0].width for workers in (one, two)] == [3, 2]
    assert plan_sweep([], few, width=1, workers=one).groups[0].width == 1


def test_seats_that_nobody_needs_are_not_simulated():
    """A sweep of many designs over seat limits is cut by the seats that its loads fill."""
    axes = {"workload.rate": [1.0, 400.0], "workload.seed": list(range(1500)), "scheduler.max_num_seqs": [512]}
    slots = [(group.shape.slots, group.designs) for group in SweepPlan.of([], axes).groups]
    assert len(slots) == 2 and slots[0][0] > 2 * slots[1][0] and slots[0][1] == slots[1][1] == 1500


def test_large_tables_of_workloads_are_cut_to_batches(monkeypatch):
    monkeypatch.setattr(groups, "TABLE_BYTES", 100_000)
    sweep = SweepPlan.of(SMALL, {"workload.seed": list(range(12)), "scheduler.max_num_seqs": [8, 7]}, width=4)
    assert [group.shared_table for group in sweep.groups] == [False]
    before = compile_count()
    assert_single(simjax.run_sweep(sweep), sweep, [0, 11, 23])
    assert compile_count() - before <= 3  # the batch, and start and ticks of the single run that it is compared with


def test_every_local_device_takes_batches():
    """Two devices, each with its own program, in a process of their own; the rows are those of one."""
    axes = {"workload.rate": [float(rate) for rate in range(1, 13)]}
    code = f"""
import simjax
from simjax.batch.workers import local_workers
from simjax.engine.programs import compile_count
table = simjax.run_sweep(simjax.SweepPlan.of({SMALL!r}, {axes!r}, width=2))
print(len(local_workers().devices), compile_count(), [x.hex() for x in table["e2e_p99_s"]])
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    said = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    alone = simjax.run_sweep(SweepPlan.of(SMALL, axes))
    assert said.strip() == f"2 2 {[x.hex() for x in alone['e2e_p99_s']]}"


def test_common_random_numbers():
    """Designs of one seed see the very same requests: only what they do with them differs."""
    sweep = SweepPlan.of(SMALL, {"scheduler.max_num_seqs": [2, 64], "device": ["h100", "l40s"]}, seeds=2)
    by_seed: dict[int, set[int]] = {}
    for point, design in sweep.designs.items():
        by_seed.setdefault(sweep.points.rows[point][-1], set()).add(id(design.lowered.params.requests))
    assert [len(found) for found in by_seed.values()] == [1, 1]
