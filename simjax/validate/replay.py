"""Simulating a measured run: the cluster that was measured, its arrivals, and what the configuration overrides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simjax.cluster.from_config import engine_limits, instance_link, latency_source
from simjax.cluster.spec import ClusterSpec, InstanceLimits, InstanceSpec
from simjax.config.calibrate import CalibrateConfig
from simjax.config.schema import ClusterConfig, ValidateConfig
from simjax.hardware import load_device
from simjax.job import Progress, Run, simulate_cluster
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from simjax.validate.contents import unknown_contents, with_contents
from simjax.validate.measured import read_measured
from simjax.validate.run import MeasuredRun


def validate(config: ValidateConfig, on_progress: Progress | None = None) -> tuple[MeasuredRun, Run]:
    """Read a measured run and simulate it.

    Raises:
        SimjaxError: the run or a profile is missing or malformed, or `workload.file` is not what was replayed.
    """
    measured = read_measured(Path(str(config.measured)), config.device)
    if config.workload.file is not None:
        (measured,) = with_contents([measured], [Path(config.workload.file)])
    cluster = measured_cluster(measured, config)
    run = simulate_cluster(
        cluster,
        measured.workload(),
        latency_source(config.profile),
        leap=config.sim.leap,
        max_ticks=config.sim.max_ticks,
        on_progress=on_progress,
    )
    unknown = unknown_contents(measured, cluster)
    return measured, run if unknown is None else replace(run, warnings=(unknown, *run.warnings))


def measured_cluster(measured: MeasuredRun, config: ValidateConfig | CalibrateConfig) -> ClusterSpec:
    """The cluster that was measured, with the configuration's overrides."""
    facts, wires = measured.engine, measured.hardware
    recorded = InstanceLimits(
        max_num_seqs=facts.max_num_seqs,
        max_num_batched_tokens=facts.max_num_batched_tokens,
        long_prefill_token_threshold=facts.long_prefill_token_threshold,
        enable_chunked_prefill=facts.enable_chunked_prefill,
        async_scheduling=facts.async_scheduling,
        enable_prefix_caching=facts.enable_prefix_caching,
        reserve_full_isl=facts.reserve_full_isl,
        max_model_len=facts.max_model_len,
        block_size=facts.block_size,
        gpu_memory_utilization=facts.gpu_memory_utilization or InstanceLimits.gpu_memory_utilization,
        num_gpu_blocks_override=facts.num_gpu_blocks,
        kv_cache_dtype=facts.kv_cache_dtype,
        enforce_eager=facts.enforce_eager,
    )
    device = load_device(config.device or measured.device)
    if wires.device_memory_bandwidth_bytes_per_s is not None:
        device = replace(device, memory_bandwidth_bytes_per_s=wires.device_memory_bandwidth_bytes_per_s)
    links = ClusterConfig(
        link_bandwidth_bytes_per_s=config.cluster.link_bandwidth_bytes_per_s or wires.link_bandwidth_bytes_per_s,
        link_latency_s=wires.link_latency_s if config.cluster.link_latency_s is None else config.cluster.link_latency_s,
    )
    instance = InstanceSpec(
        model=load_model(config.model or measured.model),
        device=device,
        parallelism=Parallelism(config.cluster.tensor_parallel_size or measured.tensor_parallel_size),
        limits=engine_limits(config.scheduler, recorded),
        link=instance_link(links, device),
    )
    return ClusterSpec((instance,) * measured.instances, config.cluster.router)
