"""A measured or simulated run as the result file of `vllm bench serve --save-result --save-detailed`, for tools that read those."""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.config.scheduler import SchedulerConfig
from simjax.options.option import facts_by_name
from simjax.validate.formats.results import NOT_RECORDED
from simjax.validate.run import MeasuredRun

PERCENTILES = (50, 90, 95, 99)
FAILED = "failed"
"""Text of `errors` for requests that failed; which error it was is not kept."""


def vllm_bench(run: MeasuredRun) -> dict[str, Any]:
    """The content of the file: lists over the requests in seconds, their statistics in ms, and what is recorded of the server.

    A run knows when the first and the last token of a request came, so all gaps of `itls` between them are the same. Failed requests, as
    far as the run has them, are at the end.
    """
    others = run.failed_requests
    lost = 0 if others is None else len(others)
    gaps_s = [[float(x)] * int(n - 1) for x, n in zip(np.where(run.has_tpot, run.tpot_s, 0.0), run.output_tokens, strict=True)]
    itl_s = np.repeat(np.where(run.has_tpot, run.tpot_s, 0.0), run.output_tokens - 1)
    span_s = run.makespan_s
    tokens = int(run.prompt_tokens.sum()), int(run.output_tokens.sum())
    join = lambda mine, theirs: [*mine.tolist(), *theirs]
    sent = join(run.arrival_s, [] if others is None else others.arrival_s.tolist())
    document: dict[str, Any] = {
        "backend": "vllm",
        "model_id": None if run.model == NOT_RECORDED else run.model,
        "num_prompts": len(run) + lost,
        **_server(run),
        "max_concurrency": run.max_concurrency,
        "duration": span_s,
        "completed": len(run),
        "failed": run.failed,
        "total_input_tokens": tokens[0],
        "total_output_tokens": tokens[1],
        "request_throughput": len(run) / span_s,
        "output_throughput": tokens[1] / span_s,
        "total_token_throughput": sum(tokens) / span_s,
        "input_lens": join(run.prompt_tokens, [] if others is None else others.prompt_tokens.tolist()),
        "output_lens": join(run.output_tokens, [0] * lost),
        "ttfts": join(run.ttft_s, [0.0] * lost),
        "itls": [*gaps_s, *([[]] * lost)],
        "start_times": sent,
        "errors": [""] * len(run) + [FAILED] * lost,
    }
    for name, seconds in (("ttft", run.ttft_s), ("tpot", run.tpot_s[run.has_tpot]), ("itl", itl_s), ("e2el", run.e2e_s)):
        document |= _statistics(name, seconds)
    return document


def _server(run: MeasuredRun) -> dict[str, Any]:
    """What is recorded of the server, as `--metadata` would have it."""
    flags = {name: getattr(run.engine, name) for name in facts_by_name(SchedulerConfig, "words") if name not in run.unrecorded}
    others = {
        "device": None if run.device == NOT_RECORDED else run.device,
        "tensor_parallel_size": None if "tensor_parallel_size" in run.unrecorded else run.tensor_parallel_size,
        "vllm_version": None if "release" in run.unrecorded else run.engine.vllm_version,
    }
    return {name: value for name, value in (others | flags).items() if value is not None and value != "auto"}


def _statistics(name: str, seconds: np.ndarray) -> dict[str, float]:
    """Mean, median, standard deviation and percentiles in ms, under vLLM's names."""
    if not len(seconds):
        return {}
    ms = 1e3 * seconds
    found = {f"mean_{name}_ms": float(ms.mean()), f"median_{name}_ms": float(np.median(ms)), f"std_{name}_ms": float(ms.std())}
    return found | {f"p{q}_{name}_ms": float(np.percentile(ms, q)) for q in PERCENTILES}
