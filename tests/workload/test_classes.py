"""Classes of service: in traces, drawn by shares, with priorities and limits; and what results say of each."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import simjax
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.cluster.warnings import about_requests
from simjax.engine.host.lower import lower
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.metrics.files import requests_frame
from simjax.metrics.rows import result_row
from simjax.metrics.slo import Slo, by_class
from simjax.metrics.summary import summarize
from simjax.metrics.table import summary_table
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from simjax.sizing.loads import loads_of
from simjax.workload import build_workload, read_trace
from simjax.workload.classes import NONE, RequestClasses
from simjax.workload.config import LengthConfig, PrefixConfig, WorkloadConfig
from simjax.workload.transform import arrange, cap_requests
from simjax.workload.workload import Workload
from tests.metrics.factory import tiny

CHAT, BATCH = {"share": 3, "priority": -1, "ttft_s": 0.5, "tpot_s": 0.05}, {"share": 1, "priority": 10}
TRACE = "arrival_s,prompt_tokens,output_tokens,priority,class\n0,9,3,2,batch\n1,9,3,,chat\n2,9,3,-5,\n"


def synthetic(**options) -> Workload:
    given = {"kind": "poisson", "rate": 5.0, "num_requests": 4000, "prompt": LengthConfig("fixed", 9), "output": LengthConfig("fixed", 3)}
    return build_workload(WorkloadConfig(**given | options))


def trace(tmp_path, text: str = TRACE, name: str = "t.csv", **options) -> Workload:
    (path := tmp_path / name).write_text(text)
    return build_workload(WorkloadConfig(kind="trace", file=str(path), **options))


def test_drawn_by_shares_without_moving_anything_else():
    plain, workload = synthetic(), synthetic(classes={"chat": CHAT, "batch": BATCH})
    classes = workload.classes
    assert classes is not None and workload.priority is not None and plain.classes is plain.priority is None
    assert classes.names == ("chat", "batch")
    assert np.mean(classes.index == 0) == pytest.approx(0.75, abs=0.02)
    np.testing.assert_array_equal(workload.priority, np.where(classes.index == 0, -1, 10))
    np.testing.assert_array_equal(workload.arrival_s, plain.arrival_s)
    np.testing.assert_array_equal(classes.limit("ttft_s"), np.where(classes.index == 0, 0.5, np.inf))


def test_calls_of_a_session_have_one_class():
    sessions = {
        "kind": "sessions",
        "rate": 2.0,
        "num_requests": None,
        "num_sessions": 50,
        "think_s": 1.0,
        "turns": LengthConfig("fixed", 3),
    }
    workload = synthetic(**sessions, followup=LengthConfig("fixed", 4), classes={"a": {"share": 1}, "b": {"share": 1}})
    assert workload.classes is not None and workload.sessions is not None
    of_session = set(zip(workload.sessions.session.tolist(), workload.classes.index.tolist(), strict=True))
    assert len(of_session) == 50 and len({k for _, k in of_session}) == 2


def test_columns_of_a_trace(tmp_path):
    workload = trace(tmp_path)
    assert workload.priority is not None and workload.priority.tolist() == [2, 0, -5]
    assert workload.classes is not None and workload.classes.names == ("batch", "chat")
    assert workload.classes.index.tolist() == [0, 1, NONE]
    rows = [
        {"arrival_s": i, "prompt_tokens": 9, "output_tokens": 3, "SLO_class": c, "Priority": p} for i, (c, p) in enumerate(["a7", "b1"])
    ]
    lines = trace(tmp_path, "\n".join(map(json.dumps, rows)), "t.jsonl")
    assert lines.classes is not None and lines.priority is not None
    assert lines.classes.names == ("a", "b") and lines.priority.tolist() == [7, 1]
    (tmp_path / "plain.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,9,3\n")
    plain = read_trace(tmp_path / "plain.csv").workload
    assert plain.classes is plain.priority is None


def test_a_trace_names_classes_and_the_configuration_says_what_they_are(tmp_path):
    text = TRACE.replace(",priority", "").replace(",2,batch", ",batch").replace(",,chat", ",chat").replace(",-5,", ",")
    workload = trace(tmp_path, text, classes={"chat": {"priority": 1, "ttft_s": 0.5}})
    assert workload.classes is not None and workload.priority is not None
    assert workload.classes.names == ("chat", "batch") and workload.classes.index.tolist() == [1, 0, NONE]
    assert workload.priority.tolist() == [0, 1, 0]
    assert workload.classes.limit("ttft_s").tolist() == [np.inf, 0.5, np.inf]
    assert trace(tmp_path, classes={"chat": {"e2e_s": 3}}).priority.tolist() == [2, 0, -5]  # pyright: ignore[reportOptionalMemberAccess]


def test_classes_and_priorities_follow_their_requests():
    known = RequestClasses(("a", "b"), np.array([0, 1, 0], np.int32), ({}, {}))
    lengths = (np.array([2.0, 0.0, 1.0]), np.full(3, 9, np.int32), np.full(3, 3, np.int32))
    workload, order = arrange(Workload(*lengths, priority=np.array([7, 8, 9], np.int32), classes=known))
    assert order.tolist() == [1, 2, 0]
    assert workload.classes is not None and workload.classes.index.tolist() == [1, 0, 0]
    assert workload.priority is not None and workload.priority.tolist() == [8, 9, 7]
    few = cap_requests(workload, 2)
    assert few.classes is not None and few.classes.index.tolist() == [1, 0] and len(few.priority) == 2  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "classes, said",
    [
        ({"a": 3}, "workload.classes.a: a class is a mapping like"),
        ({"a": {"share": 1, "prority": 2}}, "workload.classes.a.prority: there is no such key; .*priority"),
        ({"a": {"share": 0}}, "workload.classes.a.share=0: it must be a positive number"),
        ({"a": {"share": 1, "ttft_s": -1}}, "workload.classes.a.ttft_s=-1: it must be a positive number of seconds"),
        ({"a": {"share": 1, "priority": 0.5}}, "workload.classes.a.priority=0.5: it must be a whole number"),
        ({"a": {"priority": 1}}, "workload.classes.a.share is not set"),
    ],
)
def test_a_malformed_class_is_one_line(classes, said):
    with pytest.raises(SimjaxError, match=said):
        synthetic(classes=classes)


def test_what_a_trace_says_is_not_overruled(tmp_path):
    with pytest.raises(SimjaxError, match=r"workload.classes.chat.share has no effect: the requests of t.csv name their classes already"):
        trace(tmp_path, classes={"chat": {"share": 1}})
    with pytest.raises(SimjaxError, match=r"workload.classes.chat.priority has no effect: the requests of t.csv have priorities already"):
        trace(tmp_path, classes={"chat": {"priority": 1}})
    with pytest.raises(SimjaxError, match=r"t.csv:2: priority=high is not a whole number"):
        trace(tmp_path, TRACE.replace(",2,batch", ",high,batch"))


def classed() -> simjax.Result:
    """`tiny` with A and C in class x, B in y."""
    return dataclasses.replace(tiny(), classes=RequestClasses(("x", "y"), np.array([0, 1, 0], np.int32), ({"tpot_s": 0.7}, {})))


def test_summary_by_class():
    # TTFT 1, 1, 0.5; TPOT 0.75, 0.5, none; duration 20.5 s. A misses the limit of its class.
    summary = summarize(classed())
    classes, slo = summary["classes"], summary["slo"]
    assert isinstance(classes, dict) and isinstance(slo, dict)
    assert [classes[name]["requests"] for name in "xy"] == [2, 1]
    assert classes["x"]["ttft_s"]["mean"] == pytest.approx(0.75) and classes["x"]["tpot_s"]["max"] == pytest.approx(0.75)
    assert (classes["x"]["limits"], classes["x"]["attained"], classes["x"]["attainment_fraction"]) == ({"tpot_s": 0.7}, 1, 0.5)
    assert classes["x"]["goodput_requests_per_s"] == pytest.approx(1 / 20.5)
    assert "limits" not in classes["y"]
    assert slo["limits"] == {} and slo["attainment_by_limit"] == {"tpot_s": pytest.approx(2 / 3)}
    row = result_row(classed(), None, 1)
    assert row["slo_attainment"] == pytest.approx(2 / 3) and row["goodput_requests_per_s"] == pytest.approx(2 / 20.5)
    assert requests_frame(tiny().requests, classes=classed().classes)["class"].tolist() == ["x", "y", "x"]
    assert summary_table(summary) is not None


def test_the_lower_of_two_limits_counts():
    both = summarize(classed(), Slo(tpot_s=0.6, ttft_s=0.9))["classes"]
    assert isinstance(both, dict)
    assert both["x"]["limits"] == {"tpot_s": 0.6, "ttft_s": 0.9} and both["y"]["limits"] == {"tpot_s": 0.6, "ttft_s": 0.9}
    assert [both[name]["attained"] for name in "xy"] == [1, 0]
    assert by_class.__doc__


H100, LLAMA = load_device("h100"), load_model("llama-3.1-8b")
ONE = InstanceSpec(LLAMA, H100, limits=InstanceLimits(max_num_seqs=8, scheduling_policy="priority", enable_prefix_caching=False))


def lowered(workload: Workload, *instances: InstanceSpec, router: str = "round_robin"):
    cluster = ClusterSpec(instances or (ONE,), router)
    return lower(cluster, cluster_timing(cluster.instances, LatencySource()), workload, log=False)


def test_only_priorities_that_differ_are_another_program():
    workload = synthetic(num_requests=20, classes={"chat": CHAT, "batch": BATCH})
    fcfs = dataclasses.replace(ONE, limits=dataclasses.replace(ONE.limits, scheduling_policy="fcfs"))
    by_priority = lowered(workload)
    assert by_priority.shape.priorities and by_priority.shape.window == 2
    assert np.asarray(by_priority.params.requests.priority)[0, :20].tolist() == workload.priority.tolist()  # pyright: ignore[reportOptionalMemberAccess]
    assert np.asarray(by_priority.params.ranks.leaves_out).tolist() == [True]
    plain = lowered(workload, fcfs)
    assert plain.shape == lowered(synthetic(num_requests=20)).shape
    assert plain.params.requests.priority is None and plain.params.ranks.by_priority is None
    mixed = lowered(workload, fcfs, ONE)
    assert np.asarray(mixed.params.ranks.by_priority).tolist() == [False, True]


def test_priorities_without_the_policy_and_the_policy_without_priorities_are_said():
    workload = synthetic(num_requests=20, classes={"chat": CHAT, "batch": BATCH})
    fcfs = dataclasses.replace(ONE, limits=dataclasses.replace(ONE.limits, scheduling_policy="fcfs"))
    assert about_requests(ClusterSpec((ONE,)), workload) == about_requests(ClusterSpec((fcfs,)), synthetic(num_requests=20)) == []
    assert "no effect without scheduler.scheduling_policy=priority" in about_requests(ClusterSpec((fcfs,)), workload)[0]
    assert "so that it acts as fcfs" in about_requests(ClusterSpec((ONE,)), synthetic(num_requests=20))[0]


def test_what_is_not_simulated_together_is_one_line():
    workload = synthetic(num_requests=20, classes={"chat": CHAT, "batch": BATCH})
    for instances, router, what in (
        ((dataclasses.replace(ONE, parallelism=Parallelism(pipeline=2)),), "round_robin", "pipeline_parallel_size=2 is not simulated yet"),
        ((ONE, ONE), "dynamo", "cluster.router=dynamo is not simulated yet; another router"),
    ):
        with pytest.raises(SimjaxError, match=f"scheduler.scheduling_policy=priority together with {what}"):
            lowered(workload, *instances, router=router)
    shared = synthetic(num_requests=20, classes={"a": {"share": 1}}, prefix=PrefixConfig(groups=2, tokens=4))
    assert not lowered(
        shared, dataclasses.replace(ONE, limits=dataclasses.replace(ONE.limits, enable_prefix_caching=None))
    ).shape.priorities
    with pytest.raises(SimjaxError, match=r"scheduler.scheduling_policy=urgent: there is no such policy"):
        InstanceLimits(scheduling_policy="urgent")


def test_a_search_has_limits_for_all_only():
    from simjax.config.capacity import SearchConfig
    from simjax.explore.points import Points

    base = ["workload.classes={a: {share: 1, ttft_s: 0.5}}", "model=llama-3.1-8b", "device=h100"]
    found = loads_of(base, Points((), ((),)), [0], SearchConfig())
    assert "workload.classes.a.ttft_s: a search holds all requests to slo.*" in str(found.invalid[0])
