"""Per-request recordings of vLLM runs, read for the requests and their arrivals only; the measured times are read elsewhere.

`llmservingsim_bench` is LLMServingSim's recorder (`requests.jsonl`): `arrival_time` is on the client's epoch clock, the other stamps on the
server's monotonic one. `vllm_trace` is a load generator's client trace (version 3): `send_time_us` is when the request left
(`arrival_time_us` is when it was due), and `server_input_tokens` counts the prompt as the server saw it, chat template included.
`vllm_requests` is a flat benchmark report whose `server_output_tokens_nominal` is what the server generated; the client's count misses
tokens.
"""

from simjax.workload.formats.base import TraceFormat

LLMSERVINGSIM_BENCH = TraceFormat(
    name="llmservingsim_bench",
    title="LLMServingSim's vLLM recording, requests.jsonl (epoch s)",
    container="jsonl",
    arrival="arrival_time",
    prompt="input_toks",
    output="output_toks",
)

VLLM_TRACE = TraceFormat(
    name="vllm_trace",
    title="client trace of a vLLM load test, send_time_us (µs)",
    container="csv",
    arrival="send_time_us",
    prompt="server_input_tokens",
    output="output_tokens",
    stamps_per_second=1e6,
    failed_column="status",
    failed=lambda status: status not in ("ok", None),
)

VLLM_REQUESTS = TraceFormat(
    name="vllm_requests",
    title="per-request report of a vLLM load test, server_output_tokens_nominal (s)",
    container="csv",
    arrival="arrival_s",
    prompt="input_tokens",
    output="server_output_tokens_nominal",
    failed_column="error",
    failed=lambda error: error not in ("0", "0.0", "", 0, None),
)
