"""Mooncake traces (Apache-2.0) and others with the same keys: JSON Lines with `hash_ids` of the prompt's blocks, the last one partial.

Mooncake's own are in milliseconds, with blocks of 512 tokens. The conversation trace's stamps are quantised to about 3 s (12,031 requests
on 1,180 stamps): replayed unchanged, requests arrive in synchronous groups. `simjax.workload.transform.jitter` undoes that on request.

- A row with `session_id` continues the one before it of the same session: it is sent `delay` milliseconds after that one finished, or,
  without a delay, at its `timestamp` (when the one before has finished, if that is later). In a file without stamps all sessions start
  at once.
- Bailian's (Alibaba) are in seconds, with blocks of 16 tokens; `parent_chat_id` names the request that a row continues (-1: none), which
  must have finished when the row is sent. `vllm bench serve` replays such files (`timed_trace`) with the same clock and blocks.

The rows prove the block size: a prompt has ceil(tokens / block size) ids (see `simjax.workload.formats.tables.blocks`).
Sources: https://github.com/kvcache-ai/Mooncake (FAST 2025), https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon (ATC 2025).
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
    arrival_optional=True,
    prompt_ids="hash_ids",
    tokens_per_id=512,
    block_clocks={16: 1.0},
    session="session_id",
    delay="delay",
)

BAILIAN = TraceFormat(
    name="bailian",
    title="Alibaba Bailian (Qwen) trace (JSON Lines, s)",
    container="jsonl",
    arrival="timestamp",
    prompt="input_length",
    output="output_length",
    also=("parent_chat_id",),
    prompt_ids="hash_ids",
    tokens_per_id=16,
    call="chat_id",
    parent="parent_chat_id",
)
