"""The measured runs of the study, and how their steps are priced."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from experiments.validation.blocks import Chain, chain_of
from experiments.validation.replay import Late, Limits, Measured, Price
from simjax.cluster.pricing import ClusterPrices, price_cluster
from simjax.cluster.spec import ClusterSpec
from simjax.config.schema import ProfileConfig, ValidateConfig
from simjax.latency.cost import StepCost, mixed_step_s, row
from simjax.validate import MeasuredRun, read_measured
from simjax.validate.replay import cost_source, measured_cluster

DATA = Path(os.environ.get("SIMJAX_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
TABLES = DATA / "llmservingsim" / "profiles"


@dataclass(frozen=True)
class Case:
    """A measured run.

    Attributes:
        name, folder: for us, and under the data folder.
        tables: whether its kernels were measured.
        workload: what was replayed, with token ids.
        startup_s: time the very first step waited to be launched, read off the first stamps.
        by_count: whether steps can be counted from the start (`guided.follow`).
    """

    name: str
    folder: str
    tables: bool = True
    workload: str | None = None
    startup_s: float = 0.0
    by_count: bool = True

    @property
    def path(self) -> Path:
        return DATA / self.folder


SAME_S = 2e-3  # stamps this close are of the same moment
BENCH = "llmservingsim/bench"
LLAMA_WORKLOAD = "llmservingsim/workloads/sharegpt-llama-3.1-8b-300-sps10.jsonl"
QWEN_WORKLOAD = "llmservingsim/workloads/sharegpt-qwen3-32b-300-sps10.jsonl"
CASES = {
    case.name: case
    for case in (
        Case("pro6000-llama-8b", f"{BENCH}/RTXPRO6000/Llama-3.1-8B", workload=LLAMA_WORKLOAD, startup_s=0.067, by_count=False),
        Case("pro6000-qwen3-32b", f"{BENCH}/RTXPRO6000/Qwen3-32B", workload=QWEN_WORKLOAD, startup_s=0.072),
        Case("rtx4090-llama-8b", f"{BENCH}/RTX4090/Llama-3.1-8B", workload=LLAMA_WORKLOAD, startup_s=0.387),
    )
}


def config_of(case: Case, tables: bool) -> ValidateConfig:
    """The configuration of `simjax validate measured=...`, with the op tables as they are or with the shipped profiles."""
    profile = ProfileConfig(bundle_root=str(TABLES)) if tables else ProfileConfig()
    return ValidateConfig(measured=str(case.path), profile=profile)


@dataclass(frozen=True)
class Setup:
    """A case made ready: the measured run, the cluster, its prices."""

    case: Case
    measured: MeasuredRun
    cluster: ClusterSpec
    prices: ClusterPrices

    @property
    def limits(self) -> Limits:
        spec = self.cluster.instances[0]
        flags = spec.limits
        return Limits(
            num_blocks=spec.usable_blocks,
            block_size=flags.block_size,
            max_num_seqs=flags.max_num_seqs,
            max_num_batched_tokens=flags.max_num_batched_tokens,
            async_scheduling=flags.async_scheduling,
        )


def setup(case: Case, tables: bool = True, config: ValidateConfig | None = None) -> Setup:
    """Read a case and price its engine."""
    config = config or config_of(case, tables)
    measured = read_measured(case.path, config.device)
    cluster = measured_cluster(measured, config)
    return Setup(case, measured, cluster, price_cluster(cluster.instances, cost_source(config.profile)))


def pricer(cost: StepCost, slots: int = 256) -> Price:
    """`Price` of a step under the first cost model of `cost`."""
    tokens_s, sequences_s, host_s = (np.asarray(x[0]) for x in (cost.tokens_s, cost.sequences_s, cost.host_s))

    @jax.jit
    def step_s(new: jax.Array, computed: jax.Array) -> jax.Array:
        return mixed_step_s(row(cost, 0), new, computed)

    def price(work: list[tuple[int, int]]) -> tuple[float, float]:
        padded = np.zeros((2, slots), np.int32)
        padded[:, : len(work)] = np.asarray(work, np.int32).T
        with jax.enable_x64(True):
            seconds = float(step_s(padded[0], padded[1]))
        shared = tokens_s[padded[0].sum()] + sequences_s[len(work)] + host_s
        return seconds, seconds - float(shared)

    return price


def chains(case: Case, measured: MeasuredRun, with_outputs: bool = True) -> list[Chain]:
    """Block hashes of every request of a case; the workload's token ids are read, never shown."""
    assert case.workload is not None
    rows = [json.loads(line) for line in (DATA / case.workload).open()]
    lengths = [(len(row["input_tok_ids"]), row["output_toks"]) for row in rows]
    assert lengths == list(zip(measured.prompt_tokens.tolist(), measured.output_tokens.tolist(), strict=True)), "another workload"
    size = measured.engine.block_size
    return [chain_of(row["input_tok_ids"] + (row["output_tok_ids"] if with_outputs else []), size) for row in rows]


def stamps(measured: MeasuredRun, startup_s: float, by_count: bool, late_s: Late) -> Measured:
    """The measured times of first and last tokens on the clock of the first arrival, and the other known ends of steps.

    Where steps are counted, the stamps of tokens belong to the steps that the count gives; the known ends then are the queue stamps only.
    """
    assert measured.queue_delay_s is not None
    first, last = measured.arrival_s + measured.ttft_s, measured.arrival_s + measured.e2e_s
    queued = measured.arrival_s + measured.queue_delay_s
    tokens = np.unique(np.concatenate([first, last]))
    # queue stamps are taken right after the end of a step, if the engine was busy
    late = queued - tokens[np.maximum(np.searchsorted(tokens, queued, side="right") - 1, 0)]
    queued = queued[(late < 0.0) | (late > SAME_S)]
    ends = np.unique(queued if by_count else np.concatenate([tokens, queued]))
    return Measured(first, last, ends[np.append(True, np.diff(ends) > SAME_S)], late_s, startup_s, by_count=by_count)
