"""LLMServingSim workloads: JSON Lines, arrivals in nanoseconds.

`output_toks` counts the generated tokens, not the total. Token ids (`input_tok_ids`, `output_tok_ids`) are optional and show what requests
share. Agentic files hold session rows (`sub_requests`), possibly mixed with flat ones: a call is sent `tool_duration_ns` after the one
before it finished. A session whose calls have no token ids is assumed to be a continuing conversation: a prompt starts with the prompt and
the output of the call before it, as far as its length allows.
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
    prompt_ids="input_tok_ids",
    output_ids="output_tok_ids",
    calls="sub_requests",
    call_delay="tool_duration_ns",
    calls_name="session_id",
)
