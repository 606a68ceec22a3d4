"""Mooncake traces (Apache-2.0): JSON Lines, milliseconds.

The conversation trace's stamps are quantised to about 3 s (12,031 requests on 1,180 stamps): replayed unchanged, requests arrive in
synchronous groups. `simjax.workload.transform.jitter` undoes that on request. `hash_ids` identify the prompt's blocks of 512 tokens, of
which the last is partial; outputs have none.
Source: https://github.com/kvcache-ai/Mooncake (FAST 2025).
"""

from simjax.workload.formats.base import TraceFormat

MOONCAKE = TraceFormat(
    name="mooncake",
    title="Mooncake trace (JSON Lines, ms)",
    container="jsonl",
    arrival="timestamp",
    prompt="input_length",
    output="output_length",
    stamps_per_second=1e3,
    prompt_ids="hash_ids",
    tokens_per_id=512,
)
