"""The measured runs of the study, the times of their steps, and result files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from blocks import Chain, chain_of
from clock import Late, Measured, Work
from replay import Limits, Timing

from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming, cluster_timing
from simjax.config.scheduler import SchedulerConfig
from simjax.config.schema import MeasuredWorkloadConfig, ProfileConfig, ValidateConfig
from simjax.latency.step_time import StepTime, mixed_step_s, row
from simjax.validate import MeasuredRun, read_measured
from simjax.validate.contents import with_contents
from simjax.validate.replay import latency_source, measured_cluster

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DATA = Path(os.environ.get("SIMJAX_DATA", HERE.parents[2] / "shared" / "data"))
TABLES = DATA / "llmservingsim" / "profiles"
SAME_S = 2e-3  # stamps within this many seconds belong to the same moment


@dataclass(frozen=True)
class Case:
    """A measured run.

    Attributes:
        name, folder: name of the run here, and its folder under the data folder.
        workload: the trace that was replayed, with token ids; None if at most the equality of prompts with the same key is known.
        startup_s: seconds that the very first step waited to be launched, taken from the first stamps.
        by_count: whether its steps can be counted from the start (`guided.follow`).
    """

    name: str
    folder: str
    workload: str | None = None
    startup_s: float = 0.0
    by_count: bool = True

    @property
    def path(self) -> Path:
        return DATA / self.folder

    @property
    def trace(self) -> str | None:
        return None if self.workload is None else str(DATA / self.workload)


BENCH, WORKLOADS = "llmservingsim/bench", "llmservingsim/workloads"
LLAMA, QWEN = f"{WORKLOADS}/sharegpt-llama-3.1-8b-300-sps10.jsonl", f"{WORKLOADS}/sharegpt-qwen3-32b-300-sps10.jsonl"
WITH_TABLES = (
    Case("RTX PRO 6000, Llama-3.1-8B", f"{BENCH}/RTXPRO6000/Llama-3.1-8B", LLAMA, startup_s=0.067, by_count=False),
    Case("2 x RTX PRO 6000, Qwen3-32B", f"{BENCH}/RTXPRO6000/Qwen3-32B", QWEN, startup_s=0.072),
    Case("RTX 4090, Llama-3.1-8B", f"{BENCH}/RTX4090/Llama-3.1-8B", LLAMA, startup_s=0.387),
)
ON_H100 = (
    Case("H100, Qwen3-14B, 2 req/s", "vllm_qwen3_14b_h100/agg_2rps"),
    Case("H100, Qwen3-14B, 6 req/s", "vllm_qwen3_14b_h100/agg_6rps"),
    Case("H100, Llama-2-7B", "vllm_h100_0.15/20260217-155451-llama-2-7b-tp1-codegen"),
    Case("2 x H100, Mixtral-8x7B", "vllm_h100_0.15/20260218-130541-mixtral-8x7b-v0-1-tp2-general"),
)


def config_of(case: Case, tables: bool, caching: bool = True) -> ValidateConfig:
    """`simjax validate measured=... workload.file=...`, with the measured op tables or with the shipped profiles.

    caching: whether prefix caching is on, as it was in all of these runs.
    """
    if not case.path.exists():
        sys.exit(f"{case.path}: no such folder; set SIMJAX_DATA to the folder of the measured runs")
    profile = ProfileConfig(bundle_root=str(TABLES)) if tables else ProfileConfig()
    return ValidateConfig(
        measured=str(case.path),
        workload=MeasuredWorkloadConfig(file=case.trace),
        scheduler=SchedulerConfig(enable_prefix_caching=None if caching else False),
        profile=profile,
    )


@dataclass(frozen=True)
class Setup:
    """A prepared case: the measured run, the cluster, its step times."""

    case: Case
    run: MeasuredRun
    cluster: ClusterSpec
    timings: ClusterTiming

    @property
    def limits(self) -> Limits:
        spec = self.cluster.instances[0]
        flags = spec.limits
        return Limits(spec.usable_blocks, flags.block_size, flags.max_num_seqs, flags.max_num_batched_tokens, flags.async_scheduling)


def setup(case: Case, tables: bool = True) -> Setup:
    """Read a case and compute its step times."""
    config = config_of(case, tables)
    run = read_measured(case.path, config.device)
    if case.trace is not None:
        (run,) = with_contents([run], [Path(case.trace)])
    cluster = measured_cluster(run, config)
    return Setup(case, run, cluster, cluster_timing(cluster.instances, latency_source(config.profile)))


def timing_of(step_time: StepTime, slots: int = 256) -> Timing:
    """`Timing` of a step from the first row of `step_time`."""
    with jax.enable_x64(True):
        step_time = jax.tree.map(jnp.asarray, step_time)  # step times are host arrays, which a traced index cannot look into

    @jax.jit
    def step_s(new: jax.Array, computed: jax.Array) -> jax.Array:
        return mixed_step_s(row(step_time, 0), new, computed)

    def timing(work: Work) -> float:
        padded = np.zeros((2, slots), np.int32)
        padded[:, : len(work)] = np.asarray(work, np.int32).T
        with jax.enable_x64(True):
            return float(step_s(padded[0], padded[1]))

    return timing


def chains(case: Case, run: MeasuredRun) -> list[Chain]:
    """Block hashes of every request of a case, prompt and output, from the workload's token ids."""
    size = run.engine.block_size
    if case.workload is None:
        assert run.prefix_key is not None
        keys = zip(run.prefix_key, run.prompt_tokens, strict=True)
        return [[f"{key} {at}".encode() for at in range(int(prompt) // size)] for key, prompt in keys]
    rows = [json.loads(line) for line in (DATA / case.workload).open()]
    lengths = [(len(row["input_tok_ids"]), row["output_toks"]) for row in rows]
    assert lengths == list(zip(run.prompt_tokens.tolist(), run.output_tokens.tolist(), strict=True)), "another workload"
    return [chain_of(row["input_tok_ids"] + row["output_tok_ids"], size) for row in rows]


def stamps(run: MeasuredRun, startup_s: float, by_count: bool, late_s: Late) -> Measured:
    """The measured times of first and last tokens, in seconds from the first arrival, and the other known ends of steps.

    If steps are counted, the stamps of tokens belong to the steps given by the count, and only queue stamps are further known ends.
    """
    assert run.queue_delay_s is not None
    first, last = run.arrival_s + run.ttft_s, run.arrival_s + run.e2e_s
    queued = run.arrival_s + run.queue_delay_s
    tokens = np.unique(np.concatenate([first, last]))
    # queue stamps are taken right after the end of a step, if the instance was busy
    late = queued - tokens[np.maximum(np.searchsorted(tokens, queued, side="right") - 1, 0)]
    queued = queued[(late < 0.0) | (late > SAME_S)]
    ends = np.unique(queued if by_count else np.concatenate([tokens, queued]))
    return Measured(first, last, ends[np.append(True, np.diff(ends) > SAME_S)], late_s, startup_s, by_count=by_count)


Row = dict[str, str | float | int]
PERCENTILES = (50, 90, 95, 99)
ERRORS = (*(f"{metric} {of}" for metric in ("TTFT", "TPOT", "E2E") for of in ("mean", *(f"p{q}" for q in PERCENTILES))), "makespan")
MAPES = ("TTFT each", "TPOT each", "E2E each")


def errors(run: MeasuredRun, first_s: np.ndarray, last_s: np.ndarray) -> dict[str, float]:
    """Errors of the statistics of simulated times in percent of the measured ones, and mean absolute errors of the requests."""
    several = run.has_tpot
    ttft, e2e = first_s - run.arrival_s, last_s - run.arrival_s
    tpot = (e2e - ttft)[several] / (run.output_tokens[several] - 1)
    pairs = {"TTFT": (ttft, run.ttft_s), "TPOT": (tpot, run.tpot_s[several]), "E2E": (e2e, run.e2e_s)}
    found = {}
    for name, (ours, theirs) in pairs.items():
        found[f"{name} mean"] = 100.0 * float(np.mean(ours) / np.mean(theirs) - 1.0)
        for q in PERCENTILES:
            found[f"{name} p{q}"] = 100.0 * float(np.percentile(ours, q) / np.percentile(theirs, q) - 1.0)
    found["makespan"] = 100.0 * float(last_s.max() / run.makespan_s - 1.0)
    return found | {f"{name} each": 100.0 * float(np.mean(np.abs(ours / theirs - 1.0))) for name, (ours, theirs) in pairs.items()}


def write(name: str, rows: Sequence[Row], shown: bool = True) -> None:
    """Write rows with the same keys to results/<name>.tsv and print them if `shown`; floats with two digits after the point."""
    cells = [[f"{x:.2f}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows]
    text = "\n".join("\t".join(line) for line in [list(rows[0]), *cells])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.tsv").write_text(text + "\n")
    if shown:
        print(text)
