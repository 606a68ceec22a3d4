"""Latencies as sums of parts: conserved for every request, and right where the parts are known without the log."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import simjax
from simjax.explain.explain import Explained, explain
from simjax.explain.parts import NAMES
from simjax.explain.timeline import trace_events
from simjax.metrics.latency import latencies
from tests.cli.conftest import Cli, one_line
from tests.cli.conftest import cli as cli  # the fixture

RUNS = {
    "one instance": ["workload.num_requests=80", "workload.rate=10", "workload.output.mean=30"],
    "short of blocks": [
        *("workload.num_requests=80", "workload.rate=30", "workload.output.mean=120"),
        *("workload.prompt.mean=400", "scheduler.num_gpu_blocks_override=200"),
    ],
    "prefill and decode apart": ["cluster=disaggregated", "workload.num_requests=60", "workload.output.mean=30"],
}


def of(*options: str) -> Explained:
    return explain(simjax.compose([*options]))


def part(table: np.ndarray, name: str) -> np.ndarray:
    return table[:, NAMES.index(name)]


@pytest.mark.parametrize("options", list(RUNS.values()), ids=list(RUNS))
def test_parts_add_up(options: list[str]) -> None:
    """To every request's latencies, and to every statistic; no part is negative."""
    found = of(*options)
    result, parts = found.run.result, found.parts
    lat = latencies(result.requests)
    np.testing.assert_allclose(parts.ttft_s.sum(axis=1), lat.ttft_s[parts.request], atol=1e-9, rtol=0)
    np.testing.assert_allclose(parts.e2e_s.sum(axis=1), lat.e2e_s[parts.request], atol=1e-9, rtol=0)
    some = lat.has_tpot[parts.request]
    np.testing.assert_allclose(parts.tpot_s[some].sum(axis=1), lat.tpot_s[parts.request][some], atol=1e-9, rtol=0)
    for table in (parts.ttft_s, parts.tpot_s[some], parts.e2e_s):
        assert table.min() > -1e-9
    summary = simjax.summarize(result)
    for row in found.statistics.to_dict("records"):
        assert row["value_s"] == pytest.approx(sum(row[name] for name in NAMES), abs=1e-12)
        assert row["value_s"] == pytest.approx(summary[f"{row['latency']}_s"][row["statistic"]], rel=1e-9)


def test_a_request_alone() -> None:
    """Its latency is API, prefill and decode; nobody else's, no queue, no wait."""
    alone = of("workload.num_requests=1", "workload.output.mean=20", "profile.step_s=0.001").parts
    mine = dict(zip(NAMES, alone.e2e_s[0], strict=True))
    assert {name for name, seconds in mine.items() if seconds > 1e-9} == {"api", "prefill", "decode", "host"}
    assert mine["api"] == pytest.approx(0.0057 + 0.0029)


def test_what_a_shortage_does() -> None:
    """Preempted requests, and those alone, have a part of that name; the queue of some has waited for blocks."""
    found = of(*RUNS["short of blocks"])
    again = found.run.result.requests.preemptions[found.parts.request] > 0
    assert again.any() and not again.all()
    assert (part(found.parts.e2e_s, "preempted")[again] > 0).all()
    assert not part(found.parts.e2e_s, "preempted")[~again].any()
    assert part(found.parts.ttft_s, "kv_shortage").max() > 0.0
    assert not part(of(*RUNS["one instance"]).parts.ttft_s, "kv_shortage").any()


def test_transfers_are_those_of_the_log() -> None:
    found = of(*RUNS["prefill and decode apart"])
    log = found.run.result.handovers
    assert log is not None
    place = found.parts.request
    np.testing.assert_allclose(part(found.parts.ttft_s, "transfer"), (log.transfer_end_s - log.transfer_start_s)[place], atol=1e-9)
    np.testing.assert_allclose(part(found.parts.ttft_s, "handover"), (log.transfer_start_s - log.prefill_finish_s)[place], atol=1e-9)


def test_the_trace() -> None:
    """Slices of a rank do not overlap and have all steps and tokens; what begins ends, and lies within its request."""
    found = of(*RUNS["one instance"])
    result, events = found.run.result, trace_events(found.run.result)
    slices = [x for x in events if x["ph"] == "X"]
    assert sum(x["args"]["steps"] for x in slices) == result.steps
    assert sum(x["args"]["output_tokens"] for x in slices) == result.requests.output_tokens.sum()
    ends = np.array([x["ts"] + x["dur"] for x in slices])
    assert (np.array([x["ts"] for x in slices])[1:] >= ends[:-1] - 1e-3).all()
    begins, stops = ([x for x in events if x["ph"] == kind] for kind in "be")
    assert len(begins) == len(stops) == 4 * len(result.requests.finished)
    assert all(stop["ts"] >= begin["ts"] - 1e-3 and stop["id"] == begin["id"] for begin, stop in zip(begins, stops, strict=True))


def test_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    said = cli("explain", *RUNS["one instance"], "out=x")
    assert said.code == 0, said.err
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"explain.csv", "parts.csv", "explain.png", "trace.json", "config.yaml"}
    table = pd.read_csv(tmp_path / "x" / "explain.csv")
    assert table[list(NAMES)].sum(axis=1).to_numpy() == pytest.approx(table["value_s"].to_numpy(), abs=1e-9)
    assert len(pd.read_csv(tmp_path / "x" / "parts.csv")) == 80
    assert json.loads((tmp_path / "x" / "trace.json").read_text())["traceEvents"]
    assert "others' prefill in the same steps" in said.out
    assert cli("explain", *RUNS["one instance"], "out=y", "plots=false", "trace=false").code == 0
    assert {path.name for path in (tmp_path / "y").iterdir()} == {"explain.csv", "parts.csv", "config.yaml"}


def test_what_is_not_divided_is_said(cli: Cli) -> None:
    drafts = ("speculation=ngram", "speculation.num_speculative_tokens=2", "speculation.synthetic_acceptance_rates=[0.5,0.3]")
    assert "drafts give several tokens" in one_line(cli("explain", "workload.num_requests=5", *drafts))


@pytest.mark.parametrize("option", ["slo.ttft_s=1", "price=rented", "power=three_state", "power.model=utilization"])
def test_what_no_latency_depends_on_is_refused(cli: Cli, option: str) -> None:
    assert "has no effect in simjax explain" in one_line(cli("explain", "workload.num_requests=5", option))
    assert "has no effect in simjax explain" not in one_line(
        cli("explain", "workload.num_requests=0", "power=utilization", "power.cap_w=500")
    )
