"""Models that requests name: in traces, drawn by weights, and where they go."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.deployment import Role
from simjax.engine.host.batch import make_batch, program_key
from simjax.engine.host.lower import Lowered, lower
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.job import simulate_cluster
from simjax.model import load_model
from simjax.workload import build_workload, read_trace
from simjax.workload.config import LengthConfig, WorkloadConfig
from simjax.workload.models import ANY, RequestModels
from simjax.workload.transform import arrange, cap_requests, jitter
from simjax.workload.workload import Workload

H100 = load_device("h100")
LLAMA, QWEN = (InstanceSpec(load_model(x), H100, limits=InstanceLimits(max_num_seqs=8)) for x in ("llama-3.1-8b", "qwen3-8b"))
MIXED = ClusterSpec((LLAMA, QWEN, LLAMA))


def requests(names, prompt: int = 8) -> Workload:
    n = len(names)
    return Workload(np.arange(n) * 1.0, np.full(n, prompt, np.int32), np.full(n, 3, np.int32), models=RequestModels.of(names)).validate()


def lowered(cluster: ClusterSpec, workload: Workload) -> Lowered:
    return lower(cluster, cluster_timing(cluster.instances, LatencySource()), workload, log=False)


def synthetic(**options) -> Workload:
    given = {"kind": "poisson", "rate": 5.0, "num_requests": 4000, "prompt": LengthConfig("fixed", 9), "output": LengthConfig("fixed", 3)}
    return build_workload(WorkloadConfig(**given | options))


def test_names_of_one_model_are_one():
    models = RequestModels.of(["meta-llama/Llama-3.1-8B", None, "llama-3.1-8b", "My/Own", "own", ""])
    assert models is not None
    assert models.names == ("meta-llama/Llama-3.1-8B", "My/Own")
    assert models.index.tolist() == [0, ANY, 0, 1, 1, ANY]
    assert models.served_by(["llama-3.1-8b", "qwen3-8b", "x/OWN"]).tolist() == [0, 2, 1]
    assert RequestModels.of([None, ""]) is None is RequestModels.of(None)


def test_a_traces_column_is_kept_in_the_order_of_arrivals(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens,model\n2,5,6,qwen3-8b\n0,7,8,llama-3.1-8b\n1,9,2,\n")
    models = read_trace(path).workload.models
    assert models is not None
    assert [models.names[i] if i >= 0 else None for i in models.index] == ["llama-3.1-8b", None, "qwen3-8b"]
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,6\n")
    assert read_trace(path).workload.models is None


def test_models_follow_their_requests():
    workload = requests(["a", "b", "a", "c"])
    late_first = arrange(replace(workload, arrival_s=np.array([9.0, 1.0, 0.0, 2.0])))[0]
    assert late_first.models is not None and late_first.models.index.tolist() == [0, 1, 2, 0]
    assert cap_requests(workload, 2).models.index.tolist() == [0, 1]
    assert len(jitter(workload, 3.0).models.index) == 4


def test_weights_are_shares():
    workload = synthetic(models={"llama-3.1-8b": 3.0, "qwen3-8b": 1.0})
    models = workload.models
    assert models is not None and set(models.names) == {"llama-3.1-8b", "qwen3-8b"}
    assert np.mean(models.index == models.names.index("llama-3.1-8b")) == pytest.approx(0.75, abs=0.02)
    plain = synthetic()
    assert plain.models is None
    np.testing.assert_array_equal(plain.arrival_s, workload.arrival_s)


def test_calls_of_a_session_name_the_same_model():
    sessions = {
        "kind": "sessions",
        "rate": 5.0,
        "num_requests": None,
        "num_sessions": 200,
        "think_s": 1.0,
        "turns": LengthConfig("fixed", 3),
    }
    workload = synthetic(**sessions, followup=LengthConfig("fixed", 4), models={"a": 1.0, "b": 1.0})
    assert workload.models is not None and workload.sessions is not None
    of_session = {(s, m) for s, m in zip(workload.sessions.session.tolist(), workload.models.index.tolist(), strict=True)}
    assert len(of_session) == 200 and len({m for _, m in of_session}) == 2


@pytest.mark.parametrize("weight, said", [(0.0, "0"), (-1.0, "-1"), (float("inf"), "inf"), (float("nan"), "nan")])
def test_impossible_weights(weight: float, said: str):
    with pytest.raises(SimjaxError, match=f"workload.models: a has the weight {said}; it must be positive"):
        synthetic(models={"a": weight, "b": 1.0})


def test_a_trace_that_names_models_needs_no_weights(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens,model\n0,5,6,a\n1,7,8,b\n")
    with pytest.raises(SimjaxError, match=r"the requests of t\.csv name their models already"):
        build_workload(WorkloadConfig(kind="trace", file=str(path), models={"a": 1.0}))


def test_requests_go_to_instances_of_their_model():
    names = ["qwen3-8b", "llama-3.1-8b", "Qwen/Qwen3-8B", "llama-3.1-8b", None, None, None]
    run = simulate_cluster(MIXED, requests(names))
    instance = run.result.requests.instance
    assert instance[[0, 2]].tolist() == [1, 1]
    assert sorted(instance[[1, 3]].tolist()) == [0, 2], "in turn among the two of its model"
    assert set(instance[4:].tolist()) == {0, 1, 2}


def test_a_model_that_no_instance_serves():
    with pytest.raises(SimjaxError, match="request 1 names the model gpt-9, which no instance serves; the cluster has meta-llama/Llama"):
        lowered(MIXED, requests(["qwen3-8b", "gpt-9"]))


def test_two_legs_need_a_model():
    instances = tuple(replace(one, role=role) for one in (LLAMA, QWEN) for role in (Role.PREFILL, Role.DECODE))
    with pytest.raises(SimjaxError, match="request 1 names no model, and the prefill and decode instances have several"):
        lowered(ClusterSpec(instances), requests(["qwen3-8b", None]))
    run = simulate_cluster(ClusterSpec(instances), requests(["qwen3-8b", "llama-3.1-8b", "qwen3-8b"]))
    assert run.result.handovers is not None
    assert run.result.handovers.prefill_instance.tolist() == [2, 0, 2]
    assert run.result.requests.instance.tolist() == [3, 1, 3]


def test_a_request_too_long_for_its_model_only():
    short = replace(QWEN, limits=replace(QWEN.limits, max_model_len=64))
    cluster = ClusterSpec((LLAMA, short))
    assert lowered(cluster, requests(["llama-3.1-8b"], prompt=100))
    with pytest.raises(SimjaxError, match=r"request 0 \(100 prompt \+ 3 output tokens\) can never be served: max_model_len is 64"):
        lowered(cluster, requests(["qwen3-8b"], prompt=100))


def test_a_cluster_of_one_model_serves_all_as_it_did():
    alone = ClusterSpec((LLAMA, replace(LLAMA, limits=InstanceLimits(max_num_seqs=9))))
    plain, named = lowered(alone, replace(requests(["a", "b"]), models=None)), lowered(alone, requests(["a", "b"]))
    assert named.shape == plain.shape
    assert jax.tree.structure(named.params) == jax.tree.structure(plain.params)


def test_a_batch_of_clusters_that_serve_several_models():
    workload = requests(["qwen3-8b", "llama-3.1-8b", None])
    designs = [lowered(cluster, workload) for cluster in (MIXED, ClusterSpec((QWEN, LLAMA, QWEN)))]
    assert program_key(designs[0]) == program_key(designs[1]) != program_key(lowered(MIXED, replace(workload, models=None)))
    with jax.enable_x64(True):
        batch = make_batch(designs)
    assert batch.params.ranks.model is not None and batch.params.requests.model is not None
    assert batch.params.ranks.model[:, :3].tolist() == [[1, 0, 1], [0, 1, 0]]
    assert batch.params.requests.model[0, :4].tolist() == [0, 1, ANY, ANY]
