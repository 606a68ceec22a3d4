"""Results of `vllm bench serve --save-result --save-detailed`, and of SGLang's `bench_serving --output-details`, which has the same lists.

Lists over the requests, in seconds: `start_times` (when the client sent each; SGLang and older vLLM do not write it), `ttfts`, `itls` (gaps
between chunks, so a last token is at start + TTFT + their sum), `errors` (empty text: none), `input_lens`, `output_lens` in tokens.
`--metadata NAME=VALUE` of vLLM adds plain values, and SGLang describes its server in `server_info`.
Source: vllm/benchmarks/serve.py, sglang/benchmark/serving.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import Recorded, Schedule, TraceFormat
from simjax.workload.formats.results.values import counts, look_up, numbers, one_object


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
    burstiness, duration = document.get("burstiness"), document.get("duration")
    return Recorded(
        arrival_s=start_s,
        prompt_tokens=prompt,
        output_tokens=output,
        ttft_s=ttft_s,
        e2e_s=ttft_s + gaps_s,
        failed=np.array([bool(error) for error in errors]),
        lines=np.arange(1, n + 1),
        notes=tuple(notes),
        model=_model(document),
        server=_server(document),
        schedule=Schedule(
            rate,
            float(burstiness) if isinstance(burstiness, int | float) and burstiness > 0 else 1.0,
            int(cap) if isinstance(cap, int | float) and cap >= 1 else None,
            duration if isinstance(duration, int | float) and duration > 0 else None,
        ),
        redraw=_redraw(path, rate, burstiness, cap, n),
    )


def _model(document: dict[str, Any]) -> str | None:
    name = look_up(document, "model_id", "server_info.model_path", "server_info.served_model_name")
    return str(name) if name else None


def _server(document: dict[str, Any]) -> dict[str, Any]:
    """What is recorded of the server: by SGLang its own description, by vLLM what `--metadata NAME=VALUE` has added."""
    own = document.get("server_info")
    if isinstance(own, dict):
        return {**own, "served_by": "sglang"}
    plain = {name: value for name, value in document.items() if isinstance(value, str | int | float)}
    return plain if document.get("backend") != "sglang" else {**plain, "served_by": "sglang"}


def _rate(document: dict[str, Any]) -> float | None:
    try:
        return float(document.get("request_rate"))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _redraw(path: Path, rate: float | None, burstiness: Any, cap: Any, n: int) -> str:
    """Options that draw arrivals as the benchmark did."""
    lengths = f"workload.lengths_file={path} workload.num_requests={n}"
    if cap and rate == np.inf:
        return f"workload.kind=closed_loop workload.concurrency={cap} {lengths}"
    rate_given = f"{rate:g}" if rate is not None and np.isfinite(rate) else "RATE"
    if isinstance(burstiness, int | float) and burstiness > 0 and burstiness != 1:
        return f"workload.kind=gamma workload.rate={rate_given} workload.cv={burstiness**-0.5:.4g} {lengths}"
    return f"workload.kind=poisson workload.rate={rate_given} {lengths}"


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
