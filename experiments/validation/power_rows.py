"""Rows of the ML.ENERGY benchmarks as achieved fractions of bandwidth and peak, from their throughput and what is known of the models.

Neither prompt lengths nor times between steps are published: prompts are guessed by task; the engine of the third version (CUDA graphs,
asynchronous scheduling) is taken to leave no gaps, that of the second (2024) gaps beyond a typical device time of its steps.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from cases import DATA

POWER = DATA / "power"
PROMPT_TOKENS = {"lm-arena-chat": 200, "gpqa": 300, "sourcegraph-fim": 1000, "chat": 200, "code": 150}
BANDWIDTH = {"A100": 1.555e12, "H100": 3.35e12, "B200": 8.0e12}
PEAK = {"A100": 312e12, "H100": 989.4e12, "B200": 2250e12}
WEIGHT_BYTES = {"bfloat16": 2.0, "fp8": 1.0, "mxfp4": 0.55}
GAPLESS = {"memory": 0.6, "compute": 0.5, "layer_s": 60e-6}
"""Shares of the data sheet that a step of 2024 attains while the device works, and its time of a layer in addition to that."""


class Architecture(NamedTuple):
    """Layers with attention, its KV heads and their size, query heads, parameters and active ones (10^9), experts and those of a token."""

    layers: int
    kv_heads: int
    head_dim: int
    heads: int
    total: float
    active: float
    experts: int = 0
    chosen: int = 0


# Published configurations, by how the model's id begins; DeepSeek's latent of 576 values is one head of 288 keys and values.
ARCHITECTURES = {
    "Qwen/Qwen3-14B": Architecture(40, 8, 128, 40, 14.8, 14.8),
    "Qwen/Qwen3-8B": Architecture(36, 8, 128, 32, 8.2, 8.2),
    "Qwen/Qwen3-235B-A22B": Architecture(94, 4, 128, 64, 235, 22, 128, 8),
    "Qwen/Qwen3-30B-A3B": Architecture(48, 4, 128, 32, 30.5, 3.3, 128, 8),
    "Qwen/Qwen3-Coder-30B-A3B": Architecture(48, 4, 128, 32, 30.5, 3.3, 128, 8),
    "deepseek-ai/DeepSeek-R1": Architecture(61, 1, 288, 128, 671, 37, 256, 8),
    "google/gemma-3-12b-it": Architecture(48, 8, 256, 16, 12.2, 12.2),
    "meta-llama/Llama-3.1-405B": Architecture(126, 8, 128, 128, 406, 406),
    "meta-llama/Meta-Llama-3.1-405B": Architecture(126, 8, 128, 128, 406, 406),
    "meta-llama/Llama-3.1-70B": Architecture(80, 8, 128, 64, 70.6, 70.6),
    "meta-llama/Llama-3.3-70B": Architecture(80, 8, 128, 64, 70.6, 70.6),
    "meta-llama/Llama-3.1-8B": Architecture(32, 8, 128, 32, 8.0, 8.0),
    "meta-llama/Meta-Llama-3.1-8B": Architecture(32, 8, 128, 32, 8.0, 8.0),
    "meta-llama/Llama-4-Maverick": Architecture(48, 8, 128, 40, 400, 17, 128, 1),
    "nvidia/NVIDIA-Nemotron-Nano-9B": Architecture(4, 8, 128, 40, 8.9, 8.9),
    "openai/gpt-oss-120b": Architecture(36, 8, 64, 64, 117, 5.1, 128, 4),
    "bigcode/starcoder2-3b": Architecture(30, 2, 128, 24, 3.0, 3.0),
    "bigcode/starcoder2-7b": Architecture(32, 4, 128, 36, 7.2, 7.2),
    "codellama/CodeLlama-13b": Architecture(40, 40, 128, 40, 13, 13),
    "codellama/CodeLlama-70b": Architecture(80, 8, 128, 64, 69, 69),
    "google/codegemma-1.1-2b": Architecture(18, 1, 256, 8, 2.5, 2.5),
    "google/codegemma-7b": Architecture(28, 16, 256, 16, 8.5, 8.5),
    "google/gemma-2-27b": Architecture(46, 16, 128, 32, 27.2, 27.2),
    "google/gemma-2-2b": Architecture(26, 4, 256, 8, 2.6, 2.6),
    "microsoft/Phi-3-medium": Architecture(40, 10, 128, 40, 14, 14),
    "microsoft/Phi-3-mini": Architecture(32, 32, 96, 32, 3.8, 3.8),
    "mistralai/Mistral-7B": Architecture(32, 8, 128, 32, 7.2, 7.2),
    "mistralai/Mistral-Large": Architecture(88, 8, 128, 96, 123, 123),
    "mistralai/Mixtral-8x7B": Architecture(32, 8, 128, 32, 46.7, 12.9, 8, 2),
}
SLIDING = ("google/gemma-2", "google/gemma-3", "openai/gpt-oss")
"""Models of which half of the layers see 1,024 tokens at most."""


@dataclass(frozen=True)
class Row:
    """A steady run.

    Attributes:
        version: of the benchmark.
        model, gpu, group: its model, GPU, and the runs of one deployment of it under one task.
        batch: running requests.
        watts: mean power of a GPU.
        busy, memory, compute: shares of the time in which the GPU works, and that its bytes and FLOPs take at the data sheet's rates.
    """

    version: str
    model: str
    gpu: str
    group: tuple
    batch: float
    watts: float
    busy: float
    memory: float
    compute: float


def rows() -> list[Row]:
    """All runs that are visible."""
    return [*_third(), *_second()]


def _third() -> Iterator[Row]:
    histograms = json.loads((POWER / "mlenergy_v3/output_length_hist.json").read_text())
    for raw in read("mlenergy_v3/text_runs.csv"):
        histogram = histograms.get(f"{raw['task']}|{raw['model_id']}")
        age = float(raw["avg_output_len"]) / 2 if histogram is None else _mean_age(histogram)
        watts = float(raw["avg_power_w"]) / int(raw["num_gpus"])
        yield _row("v3", raw, raw["gpu_model"], int(raw["num_gpus"]), raw["weight_precision"], watts, age)


def _second() -> Iterator[Row]:
    for raw in read("mlenergy_v2/llm_runs.csv"):
        gpus, gpu = int(raw["tp"]) * int(raw["pp"]), "A100" if "A100" in raw["gpu_model"] else "H100"
        output = float(raw["avg_output_len"])
        watts = float(raw["energy_per_request_j"]) * float(raw["output_tok_s"]) / output / gpus
        yield _row("v2", raw, gpu, gpus, "bfloat16", watts, output / 2)


def _row(version: str, raw: dict[str, str], gpu: str, gpus: int, precision: str, watts: float, age: float) -> Row:
    model = max((name for name in ARCHITECTURES if raw["model_id"].startswith(name)), key=len)
    a, batch, output = ARCHITECTURES[model], float(raw["avg_batch_size"]), float(raw["avg_output_len"])
    prompt = PROMPT_TOKENS[raw["task"]]
    step_s, context = batch / float(raw["output_tok_s"]), prompt + age
    seen = (context + min(context, 1024)) / 2 if model.startswith(SLIDING) else context
    experts = (a.total - a.active) / (1 - a.chosen / a.experts) if a.experts else 0.0
    hit = 1 - (1 - a.chosen / a.experts) ** batch if a.experts else 0.0
    weights = 1e9 * WEIGHT_BYTES[precision] * (a.total - experts + experts * hit)
    moved = weights + batch * seen * 4 * a.layers * a.kv_heads * a.head_dim
    prefilled = batch / output * prompt
    computed = 2e9 * a.active * (batch + prefilled) + 4 * a.layers * a.heads * a.head_dim * batch * seen
    twice = precision == "fp8" or (precision == "mxfp4" and gpu == "B200")
    memory_s, compute_s = moved / gpus / BANDWIDTH[gpu], computed / gpus / PEAK[gpu] / (2 if twice else 1)
    works_s = memory_s / GAPLESS["memory"] + compute_s / GAPLESS["compute"] + a.layers * GAPLESS["layer_s"] * (1 + (gpus > 1))
    busy = 1.0 if version == "v3" else min(1.0, works_s / step_s)
    group = (version, raw["task"], raw["model_id"], gpus, raw["tp"])
    return Row(version, raw["model_id"], gpu, group, batch, watts, busy, memory_s / step_s, compute_s / step_s)


def _mean_age(histogram: dict) -> float:
    """Mean output so far of a request that is seen at a random moment, in tokens."""
    counts = np.array(histogram["counts"], float)
    lengths = histogram.get("first", 0) + histogram.get("bin_width", 1) * (np.arange(len(counts)) + 0.5)
    return float((counts * lengths**2).sum() / (2 * (counts * lengths).sum()))


def read(name: str) -> list[dict[str, str]]:
    with (POWER / name).open() as file:
        return list(csv.DictReader(file))
