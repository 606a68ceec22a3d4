"""Common parts of the benchmarks: clusters and workloads, compiled programs, interleaved timing, result tables."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.engine.host.lower import Lowered, lower
from simjax.engine.shape import EngineShape
from simjax.engine.simulate import advance, start
from simjax.hardware import load_device
from simjax.model import load_model
from simjax.workload import LengthConfig, WorkloadConfig, build_workload, read_trace
from simjax.workload.workload import Workload

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
LLAMA_TRACE = "llmservingsim/workloads/sharegpt-llama-3.1-8b-300-sps10.jsonl"
AZURE_TRACE = "traces/azure2023/AzureLLMInferenceTrace_conv.csv"
ALL_TICKS = 2**30


# ---- clusters and workloads


def measured_cluster() -> ClusterSpec:
    """The instance on which the 300-request Llama trace was measured: RTX PRO 6000, vLLM 0.19, 128 seats, steps of 2,048 tokens."""
    limits = InstanceLimits(max_num_seqs=128, max_num_batched_tokens=2048, num_gpu_blocks_override=36_579)
    return ClusterSpec((InstanceSpec(load_model("llama-3.1-8b"), load_device("rtx_pro_6000"), limits=limits),))


def h100_cluster(instances: int = 1, router: str = "round_robin") -> ClusterSpec:
    """Llama-3.1-8B on H100s with the limits of conf/scheduler/vllm.yaml: 256 seats, steps of 8,192 tokens."""
    return ClusterSpec((InstanceSpec(load_model("llama-3.1-8b"), load_device("h100")),) * instances, router)


def synthetic(requests: int, rate: float, seed: int = 0) -> Workload:
    """Poisson arrivals with the chat-like lengths of conf/workload/poisson.yaml (means of 860 prompt and 650 output tokens)."""
    prompt = LengthConfig(dist="lognormal", mean=860, cv=0.9, min=16, max=4000)
    output = LengthConfig(dist="lognormal", mean=650, cv=0.3, min=1, max=1024)
    return build_workload(WorkloadConfig(kind="poisson", rate=rate, num_requests=requests, seed=seed, prompt=prompt, output=output))


def data_path(relative: str) -> Path:
    """A file of the data folder (SIMJAX_DATA)."""
    root = Path(os.environ.get("SIMJAX_DATA", ROOT.parent / "shared" / "data"))
    if not (root / relative).exists():
        sys.exit(f"{root / relative}: no such file; set SIMJAX_DATA to the folder that holds the traces")
    return root / relative


def trace(relative: str) -> Workload:
    return read_trace(data_path(relative)).workload


def lowered(cluster: ClusterSpec, workload: Workload, source: LatencySource | None = None, **options: Any) -> Lowered:
    """Step times and arrays of a simulation; `options` as in `simjax.engine.host.lower.lower` (leap, log)."""
    return lower(cluster, cluster_timing(cluster.instances, source or LatencySource()), workload, **options)


# ---- compiled programs


@dataclass(frozen=True)
class Program:
    """A compiled simulation without a log, started and run to its end by one call.

    Attributes:
        shape, params: shape that it was compiled for, and parameters on the device.
        start, advance: compiled functions.
        trace_s, compile_s: times of tracing and compiling both, in seconds.
    """

    shape: EngineShape
    params: Any
    start: Any
    advance: Any
    trace_s: float
    compile_s: float

    def __call__(self, ticks: int = ALL_TICKS) -> Any:
        """The final state, ready on the device."""
        state = self.start(self.params)
        return jax.block_until_ready(self.advance(self.params, state, np.int32(ticks)).state)


def compile_program(shape: EngineShape, params: Any, device: Any = None) -> Program:
    """Compile a simulation for a device (None: the default one). Call it, and its result, inside `jax.enable_x64(True)`."""
    params = jax.device_put(params, device)
    begin, run = partial(start, shape), partial(advance, shape)
    t0 = time.perf_counter()
    traced_start = jax.jit(begin).lower(params)
    t1 = time.perf_counter()
    compiled_start = traced_start.compile()
    state = compiled_start(params)
    t2 = time.perf_counter()
    traced_run = jax.jit(run).lower(params, state, np.int32(0))
    t3 = time.perf_counter()
    compiled_run = traced_run.compile()
    t4 = time.perf_counter()
    return Program(shape, params, compiled_start, compiled_run, (t1 - t0) + (t3 - t2), (t2 - t1) + (t4 - t3))


@dataclass(frozen=True)
class Prototype:
    """The design's prototype, compiled for one run: `run(params)` is not yet jitted, `compiled(params)` is."""

    Params: Any
    run: Any
    compiled: Any
    params: Any
    compile_s: float

    def __call__(self) -> Any:
        """(final state, ticks), ready on the device."""
        return jax.block_until_ready(self.compiled(self.params))


def load_prototype(folder: Path, workload: Workload, slots: int) -> Prototype:
    """The prototype for a workload on the limits of `measured_cluster`. Call it inside `jax.enable_x64(True)`."""
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    spec = importlib.util.spec_from_file_location("prototype", folder / "prototype.py")
    if spec is None or spec.loader is None or not (folder / "prototype.py").exists():
        sys.exit(f"{folder}: no prototype.py in this folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    jax.config.update("jax_enable_x64", before)  # importing it turned the flag on globally
    theta = jnp.array([0.012, 3.84e-5, 4.5e-8, 5.6e-9, 6.3e-5, 1.9e-3], jnp.float64)  # as in its bench.py
    params = module.Params(jnp.int32(128), jnp.int32(2048), jnp.int32(36_578), theta)
    run = module.build(workload.arrival_s, workload.prompt_tokens, workload.output_tokens, slots=slots)
    began = time.perf_counter()
    compiled = jax.jit(run).lower(params).compile()
    return Prototype(module.Params, run, compiled, params, time.perf_counter() - began)


# ---- timing


@dataclass(frozen=True)
class Times:
    """Wall times of repeated calls, in seconds; `first` is the time of the first call."""

    first: float
    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int, fewer: dict[str, int] | None = None) -> dict[str, Times]:
    """Time the calls in turn, round after round, so that a slowdown of the machine affects all of them.

    `fewer` gives a separate number of rounds for calls that are too slow for `repeats`; with 1, the first call is the measurement.
    """
    counts = {name: (fewer or {}).get(name, repeats) for name in runs}
    first = {name: seconds_of(run) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [first[name]] if counts[name] == 1 else [] for name in runs}
    for turn in range(repeats):
        for name, run in runs.items():
            if counts[name] > 1 and turn < counts[name]:
                seconds[name].append(seconds_of(run))
    return {name: Times(first[name], tuple(seconds[name])) for name in runs}


def seconds_of(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def peak_rss_mib() -> float:
    """Largest resident size of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Maximum of |a - b| / |b| where b is not 0; infinite times must be infinite in both."""
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    inside = np.isfinite(b) & (b != 0)
    return float(np.max(np.abs(a[inside] - b[inside]) / np.abs(b[inside]), initial=0.0))


# ---- tables


def records(table: Any) -> list[dict[str, Any]]:
    """The rows of a sweep's table (a pandas DataFrame), None for empty cells."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def facts(device: Any = None) -> str:
    """The machine and the versions, one line."""
    device = device or jax.devices()[0]
    load = os.getloadavg()[0]
    kind = "CPU" if device.platform == "cpu" else device.device_kind
    python = platform.python_version()
    return f"device {kind}, jax {jax.__version__}, Python {python}, {cpu_model()}, {core_count()} cores, load {load:.1f} when it started"


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown CPU")
    family = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines[:30]}
    return f"{name} (family {family['cpu family']} model {family['model']})" if "cpu family" in family else name


def write_table(name: str, rows: Sequence[dict[str, Any]], about: str) -> None:
    """Write results/<name>.tsv, with `about` as its first line, and print it. Floats are rounded to four digits; None is an empty cell."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    RESULTS.mkdir(exist_ok=True)
    text = "\n".join("\t".join(line) for line in [columns, *cells])
    (RESULTS / f"{name}.tsv").write_text(f"# {about}\n{text}\n")
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
    print(f"\n{name}: {about}")
    for line in [columns, *cells]:
        print("  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)


def arguments(about: str | None, repeats: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help="timed calls of everything (best and median are reported)")
    parser.add_argument("--prototype", type=Path, metavar="DIR", help="folder of the design's prototype.py, to quote ratios against it")
    return parser


def in_process(script: str, case: Any, options: argparse.Namespace, *more: Any) -> dict[str, Any]:
    """The row that `script --one CASE` prints, measured in a process of its own."""
    command = [sys.executable, script, "--one", case, "--repeats", options.repeats, *more]
    if options.prototype is not None:
        command += ["--prototype", options.prototype]
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    print(f"{Path(script).stem} {case}: done", flush=True)
    return json.loads(done.stdout.splitlines()[-1])
