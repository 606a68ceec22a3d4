"""Vidur traces (MIT), and those of Frontier, which have more columns: `arrived_at` in seconds.

Vidur's processed data sets have no arrivals and give lengths only. Frontier's optional columns:

- `session_id`: a row continues the one before it of the same session, by `session_turn_index` or by the arrivals. Its
  `num_prefill_tokens` counts what the turn adds to the prompts and outputs so far. It is sent at its `arrived_at`, or when the turn before
  has finished, if that is later.
- `block_hash_ids`: ids of the prompt's blocks of 16 tokens, such as `11|22|33`.

Source: https://github.com/microsoft/vidur (data/processed_traces), https://github.com/NetX-lab/Frontier.
"""

from simjax.workload.formats.base import TraceFormat

VIDUR = TraceFormat(
    name="vidur",
    title="Vidur or Frontier trace, with or without arrived_at, sessions and block ids (s)",
    container="csv",
    arrival="arrived_at",
    prompt="num_prefill_tokens",
    output="num_decode_tokens",
    arrival_optional=True,
    session="session_id",
    turn="session_turn_index",
    adds_tokens=True,
    prompt_ids="block_hash_ids",
    tokens_per_id=16,
)
