"""LLMServingSim workloads: JSON Lines, arrivals in nanoseconds.

Token ids (`input_tok_ids`, `output_tok_ids`) are optional and not read: their counts are `input_toks` and `output_toks`, and `output_toks`
is what is generated, not the total. Agentic files hold session rows (`sub_requests`), possibly mixed with flat ones.
Source: https://github.com/casys-kaist/LLMServingSim (workload generators).
"""

from simjax.workload.formats.base import TraceFormat

LLMSERVINGSIM = TraceFormat(
    name="llmservingsim",
    title="LLMServingSim workload (JSON Lines, ns)",
    container="jsonl",
    arrival="arrival_time_ns",
    prompt="input_toks",
    output="output_toks",
    stamps_per_second=1e9,
    refused_column="sub_requests",
    refused="a session row (sub_requests); sessions are not supported yet, only flat requests",
)
