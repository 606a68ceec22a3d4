"""Energy of an output token that simulations of closed loops predict, against runs of the ML.ENERGY benchmark, without any tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from power_rows import PROMPT_TOKENS, read

from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.latency_source import latency_source
from simjax.config.compose import compose_config, typed
from simjax.job import simulate_cluster
from simjax.metrics.rows import result_row
from simjax.power.source import PowerSource
from simjax.workload import build_workload

TASK = "lm-arena-chat"
DEPLOYED = {
    ("meta-llama/Llama-3.1-8B-Instruct", "H100", 1): ("llama-3.1-8b", "h100"),
    ("meta-llama/Llama-3.1-8B-Instruct", "B200", 1): ("llama-3.1-8b", "b200"),
    ("meta-llama/Llama-3.1-70B-Instruct", "H100", 4): ("llama-3.1-70b", "h100"),
    ("meta-llama/Llama-3.1-70B-Instruct", "B200", 2): ("llama-3.1-70b", "b200"),
    ("Qwen/Qwen3-30B-A3B-Instruct-2507", "B200", 1): ("qwen3-30b-a3b-2507", "b200"),
}
BATCHES = (8, 64, 256)


@dataclass(frozen=True)
class Anchor:
    """A measured run and its simulation: joules of the GPUs for an output token, and output tokens a second."""

    name: str
    measured_j: float
    simulated_j: float
    measured_per_s: float
    simulated_per_s: float


def anchors() -> Iterator[Anchor]:
    """The runs of `DEPLOYED` with at most so many running requests as `BATCHES` says."""
    for raw in read("mlenergy_v3/text_runs.csv"):
        deployed, batch = (raw["model_id"], raw["gpu_model"], int(raw["num_gpus"])), int(raw["max_num_seqs"])
        if raw["task"] == TASK and deployed in DEPLOYED and batch in BATCHES and int(raw["tp"]) == deployed[2]:
            yield _simulated(raw, *DEPLOYED[deployed])


def _simulated(raw: dict[str, str], model: str, device: str) -> Anchor:
    batch, output = int(raw["max_num_seqs"]), round(float(raw["avg_output_len"]))
    options = [f"model={model}", f"device={device}", f"cluster.tensor_parallel_size={raw['tp']}", f"scheduler.max_num_seqs={batch}"]
    options += [
        "workload.output.min=null",
        "workload.output.max=null",
        "workload=closed_loop",
        f"workload.concurrency={batch}",
        f"workload.num_requests={4 * batch}",
        "workload.think_s=0",
    ]
    options += [f"workload.prompt.mean={PROMPT_TOKENS[TASK]}", f"workload.output.mean={output}", "scheduler.max_num_batched_tokens=8192"]
    config = typed(compose_config("run", options))
    run = simulate_cluster(configured_cluster(config), build_workload(config.workload), latency_source(config.profile), power=PowerSource())
    row = result_row(run.result, None, run.cluster.num_devices)
    name = f"{model}_{device}x{raw['num_gpus']}_batch{batch}"
    simulated = float(row["gpu_energy_per_output_token_j"] or 0), float(row["output_tokens_per_s"] or 0)
    return Anchor(name, float(raw["energy_per_token_j"]), simulated[0], float(raw["output_tok_s"]), simulated[1])
