"""simjax: a simulator of LLM-serving clusters in which the whole cluster is one JAX program.

    import simjax

    config = simjax.compose(["model=llama-3.1-8b", "device=h100", "workload.rate=6"])
    run = simjax.run(config)
    simjax.summarize(run.result)["ttft_s"]["p99"]

Importing simjax starts no JAX backend and changes no JAX setting; names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from simjax.renamed import renamed

if TYPE_CHECKING:
    from simjax.cluster.instance import InstanceLimits as InstanceLimits
    from simjax.cluster.instance import InstanceSpec as InstanceSpec
    from simjax.cluster.latency_source import LatencySource as LatencySource
    from simjax.cluster.spec import ClusterSpec as ClusterSpec
    from simjax.config.schema import RunConfig as RunConfig
    from simjax.engine.control.whole_loops import make_loops_whole as make_loops_whole
    from simjax.engine.host.result import Result as Result
    from simjax.errors import SimjaxError as SimjaxError
    from simjax.explore.pareto.front import pareto as pareto
    from simjax.explore.pareto.objective import parse_objective as parse_objective
    from simjax.explore.pareto.replicates import aggregate as aggregate
    from simjax.explore.pareto.replicates import paired_difference as paired_difference
    from simjax.explore.plan import SweepPlan as SweepPlan
    from simjax.explore.run import run_sweep as run_sweep
    from simjax.hardware import load_device as load_device
    from simjax.job import run as run
    from simjax.job import simulate_cluster as simulate_cluster
    from simjax.library.metrics import Metrics as Metrics
    from simjax.library.prepare import prepare as prepare
    from simjax.library.simulate import simulate as simulate
    from simjax.library.stack import stack as stack
    from simjax.library.system import System as System
    from simjax.library.total import total as total
    from simjax.metrics import summarize as summarize
    from simjax.model import load_model as load_model
    from simjax.sizing.capacity import capacity as capacity
    from simjax.uncertainty.intervals import run_draws as run_draws
    from simjax.workload import read_trace as read_trace
    from simjax.workload.workload import Workload as Workload

_RENAMED = {"CostSource": "LatencySource", "EngineLimits": "InstanceLimits"}  # old names that keep working
_PUBLIC = {
    "ClusterSpec": "simjax.cluster.spec",
    "LatencySource": "simjax.cluster.latency_source",
    "InstanceLimits": "simjax.cluster.instance",
    "InstanceSpec": "simjax.cluster.instance",
    "Metrics": "simjax.library.metrics",
    "Result": "simjax.engine.host.result",
    "RunConfig": "simjax.config.schema",
    "SimjaxError": "simjax.errors",
    "SweepPlan": "simjax.explore.plan",
    "System": "simjax.library.system",
    "Workload": "simjax.workload.workload",
    "aggregate": "simjax.explore.pareto.replicates",
    "capacity": "simjax.sizing.capacity",
    "load_device": "simjax.hardware",
    "load_model": "simjax.model",
    "make_loops_whole": "simjax.engine.control.whole_loops",
    "paired_difference": "simjax.explore.pareto.replicates",
    "pareto": "simjax.explore.pareto.front",
    "parse_objective": "simjax.explore.pareto.objective",
    "prepare": "simjax.library.prepare",
    "read_trace": "simjax.workload",
    "run": "simjax.job",
    "run_draws": "simjax.uncertainty.intervals",
    "run_sweep": "simjax.explore.run",
    "simulate": "simjax.library.simulate",
    "simulate_cluster": "simjax.job",
    "stack": "simjax.library.stack",
    "summarize": "simjax.metrics",
    "total": "simjax.library.total",
}
__all__ = [
    "ClusterSpec",
    "LatencySource",
    "InstanceLimits",
    "InstanceSpec",
    "Metrics",
    "Result",
    "RunConfig",
    "SimjaxError",
    "SweepPlan",
    "System",
    "Workload",
    "aggregate",
    "capacity",
    "compose",
    "load_device",
    "load_model",
    "make_loops_whole",
    "paired_difference",
    "pareto",
    "parse_objective",
    "prepare",
    "read_trace",
    "run",
    "run_draws",
    "run_sweep",
    "simulate",
    "simulate_cluster",
    "stack",
    "summarize",
    "total",
]


def compose(overrides: list[str] | None = None) -> RunConfig:
    """The configuration of `simjax run` with the given overrides, such as `["device=h200", "scheduler.max_num_seqs=64"]`.

    Raises:
        SimjaxError: an override is malformed or names an unknown key.
    """
    from simjax.config.compose import compose_config, typed

    return typed(compose_config("run", overrides or []))


def _public(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'simjax' has no attribute '{name}'")


__getattr__ = renamed("simjax", _RENAMED, _public)


def __dir__() -> list[str]:
    return sorted(__all__)
