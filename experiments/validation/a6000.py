"""Runs of LLMServingSim 2.0's artifact on an RTX A6000: how the client sent the trace, and how long steps were in vLLM's logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from cases import DATA

from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.latency_source import latency_source
from simjax.config.compose import compose_config, typed
from simjax.engine.host.result import Result
from simjax.job import simulate_cluster
from simjax.workload import Workload, build_workload

ARTIFACT = DATA / "ispass26"
FLAGS = ("max_num_seqs=128", "max_num_batched_tokens=2048", "async_scheduling=false", "enforce_eager=true")


@dataclass(frozen=True)
class LoggedRun:
    """A run on one GPU with vLLM's own log, a line a second.

    Attributes:
        name: the figure that it is for.
        log, trace: the lines as a table, and the requests.
    """

    name: str
    log: Path
    trace: Path


LOGGED = (
    LoggedRun("figure 6", ARTIFACT / "figure_6/derived/vllm_1hz_tp1.csv", ARTIFACT / "datasets/sharegpt_pulse_req10_n3_delay60.jsonl"),
    LoggedRun("figure 7", ARTIFACT / "figure_7/derived/vllm_1hz_SD.csv", ARTIFACT / "datasets/sharegpt_pulse_req50_n6_delay15_pc.jsonl"),
)
ALONE = ("model=llama-3.1-8b", "device=rtx_a6000", "scheduler.max_model_len=2048")


def as_sent(trace: Workload) -> Workload:
    """The trace as the artifact's client sends it: the first request at once, every other one when the trace has the one before.

    It seems to wait after a request for as long as the trace has that request wait. So the first request of a burst goes out with the burst
    before: the three bursts of 10 requests in figure 6 are 11, 10 and 9 in vLLM's log, by the tokens of their prompts and outputs, and the
    six of 50 in figure 7 are 51, four times 50, and 49, by its counter of queried tokens.
    """
    return replace(trace, arrival_s=np.append(0.0, trace.arrival_s[:-1]))


def replayed(options: Sequence[str], trace: Path, leap: bool = True, sent: bool = True) -> Result:
    """The run of a trace with the artifact's flags; `sent`: as its client sent it."""
    flags = [f"scheduler.{flag}" for flag in FLAGS]
    config = typed(compose_config("run", ["workload=trace", f"workload.file={trace}", *flags, *options]))
    workload = build_workload(config.workload)
    workload = as_sent(workload) if sent else workload
    return simulate_cluster(configured_cluster(config), workload, latency_source(config.profile), leap=leap).result


def steady_steps(log: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Decode steps in vLLM's log: sequences int64[P] and seconds of a step float64[P], for P pairs of successive lines.

    A step takes as long as the running requests over the output tokens/s, where neither line has prompts and both have the same number of
    running requests.
    """
    running, rate, quiet = log["running_reqs"].to_numpy(), log["gen_tok_per_s"].to_numpy(float), log["prompt_tok_per_s"].to_numpy() == 0
    steady = np.append(False, quiet[1:] & quiet[:-1] & (np.diff(running) == 0)) & (rate > 0) & (running > 0)
    return running[steady], running[steady] / rate[steady]


def simulated_steps(result: Result) -> dict[int, float]:
    """Mean seconds of the decode steps of a run without leaps, by number of sequences."""
    leaps = result.leaps
    assert leaps is not None and (leaps.steps == 1).all()
    alone = leaps.prompt_tokens == 0
    return {int(n): float(leaps.first_step_s[alone & (leaps.running == n)].mean()) for n in np.unique(leaps.running[alone])}


def host_s(options: Sequence[str], run: LoggedRun) -> float:
    """Seconds by which the decode steps in the log are longer than the kernels that `options` give: what the host adds, float."""
    sequences, seconds = steady_steps(pd.read_csv(run.log))
    kernels_s = simulated_steps(replayed([*ALONE, *options], run.trace, leap=False))
    return float(np.mean([s - kernels_s[n] for n, s in zip(sequences.tolist(), seconds.tolist(), strict=True)]))
