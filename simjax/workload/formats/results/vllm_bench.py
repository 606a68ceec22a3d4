"""Results of `vllm bench serve --save-result --save-detailed`, and of SGLang's `bench_serving --output-details`, which has the same lists.

Lists over the requests, in seconds: `start_times` (when the client sent each; SGLang and older vLLM do not write it), `ttfts`, `itls` (gaps
between chunks, so a last token is at start + TTFT + their sum), `errors` (empty text: none), `input_lens`, `output_lens` in tokens.
Source: vllm/benchmarks/serve.py, sglang/bench_serving.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import Recorded, TraceFormat
from simjax.workload.formats.results.values import counts, numbers, one_object


def read_vllm_bench(path: Path) -> Recorded:
    """The requests of a result file.

    Raises:
        SimjaxError: the file cannot be read, or its lists differ in length or hold no numbers.
    """
    document = one_object(path)
    where = str(path)
    prompt = counts(_list(document, "input_lens", where), "input_lens", where)
    n = len(prompt)
    output = counts(_list(document, "output_lens", where, n), "output_lens", where)
    unknown = np.full(n, np.nan)

    def column(name: str) -> np.ndarray:
        return numbers(_list(document, name, where, n), name, where) if document.get(name) else unknown

    start_s, ttft_s = column("start_times"), column("ttfts")
    gaps_s = unknown
    if document.get("itls"):
        gaps = [row if isinstance(row, list) else [row] for row in _list(document, "itls", where, n)]
        gaps_s = np.array([numbers(row, "itls", where).sum() for row in gaps])
    errors = _list(document, "errors", where, n) if document.get("errors") else [None] * n
    notes: list[str] = []
    rate, cap = _rate(document), document.get("max_concurrency")
    if not document.get("start_times") and rate == np.inf and not cap:
        start_s = np.zeros(n)
        notes.append("start_times are not recorded; request_rate=inf sends all requests at once")
    elif cap:
        notes.append(
            f"the client kept at most {cap} requests in flight, so its arrivals depend on the measured server; "
            f"workload.max_concurrency={cap} keeps that cap"
        )
    return Recorded(
        arrival_s=start_s,
        prompt_tokens=prompt,
        output_tokens=output,
        first_token_s=start_s + ttft_s,
        finish_s=start_s + ttft_s + gaps_s,
        failed=np.array([bool(error) for error in errors]),
        lines=np.arange(1, n + 1),
        notes=tuple(notes),
        model=str(document["model_id"]) if document.get("model_id") else None,
        redraw=_redraw(path, rate, document.get("burstiness"), cap, n),
    )


def _rate(document: dict[str, Any]) -> float | None:
    try:
        return float(document.get("request_rate"))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _redraw(path: Path, rate: float | None, burstiness: Any, cap: Any, n: int) -> str:
    """Options that draw arrivals as the benchmark did."""
    lengths = f"workload.lengths_file={path} workload.num_requests={n}"
    if cap and rate == np.inf:
        return f"workload=closed_loop workload.concurrency={cap} {lengths}"
    rate_given = f"{rate:g}" if rate is not None and np.isfinite(rate) else "RATE"
    if isinstance(burstiness, int | float) and burstiness > 0 and burstiness != 1:
        return f"workload=gamma workload.rate={rate_given} workload.cv={burstiness**-0.5:.4g} {lengths}"
    return f"workload=poisson workload.rate={rate_given} {lengths}"


def _list(document: dict[str, Any], name: str, where: str, length: int | None = None) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise SimjaxError(f"{where}: {name} is not a list" + ("" if length is None else f" of {length} values, one for each of input_lens"))
    return value


VLLM_BENCH = TraceFormat(
    name="vllm_bench",
    title="result of vllm bench serve --save-detailed, or SGLang's bench_serving --output-details (s)",
    container="json",
    arrival="start_times",
    prompt="input_lens",
    output="output_lens",
    arrival_optional=True,
    reader=read_vllm_bench,
)
