"""Small clusters, and runs that were "measured" on them by simulating a profile with known parameters."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.hardware import load_device
from simjax.job import simulate_cluster
from simjax.latency.profiles.file import generic_profile
from simjax.latency.profiles.profile import LatencyProfile
from simjax.metrics.latency import latencies
from simjax.model import load_model
from simjax.validate.run import EngineFacts, MeasuredRun, finish_run
from simjax.workload.workload import Workload

MODEL, DEVICE = "llama-3.1-8b", "h100"


@functools.cache
def profile() -> LatencyProfile:
    """What is shipped for the device, for any model."""
    return generic_profile(load_device(DEVICE))


@functools.cache
def cluster(max_num_seqs: int = 32) -> ClusterSpec:
    """One engine."""
    limits = InstanceLimits(max_num_seqs=max_num_seqs, max_num_batched_tokens=1024, num_gpu_blocks_override=4000)
    return ClusterSpec((InstanceSpec(load_model(MODEL), load_device(DEVICE), limits=limits),))


def poisson(rate: float, n: int, seed: int = 0) -> Workload:
    """Requests of 50 to 800 prompt tokens and 20 to 120 output tokens."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1.0 / rate, n))
    return Workload(arrival_s - arrival_s[0], rng.integers(50, 800, n).astype(np.int32), rng.integers(20, 120, n).astype(np.int32))


def measured(workload: Workload, truth: Mapping[str, float], of: ClusterSpec | None = None) -> MeasuredRun:
    """A run with these parameters in place of the shipped profile's."""
    of = of or cluster()
    log = simulate_cluster(of, workload, LatencySource(parameters=tuple(truth.items()))).result.requests
    assert log.finished.all()
    lat, limits = latencies(log), of.instances[0].limits
    run = MeasuredRun(
        name="known",
        source=Path("known"),
        model=MODEL,
        device=DEVICE,
        tensor_parallel_size=1,
        engine=EngineFacts(limits.max_num_seqs, limits.max_num_batched_tokens, vllm_version="0.19.0"),
        arrival_s=log.arrival_s,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        ttft_s=lat.ttft_s,
        tpot_s=lat.tpot_s,
        e2e_s=lat.e2e_s,
    )
    return finish_run(run)
