"""Dynamo's cost in closed form, as vllm-parallel.md §D quotes it. No router of the reference uses it."""

from __future__ import annotations


def dynamo_cost(
    *,
    prompt_tokens: int,
    queued_prompt_tokens: int,
    device_blocks: int,
    decode_blocks: int,
    block_size: int,
    scale: float = 1.0,
    credit: float = 1.0,
) -> float:
    """Dynamo's cost of a worker for a request, in blocks: those it would prefill, less those it has cached, and those it decodes."""
    prefill_blocks = (queued_prompt_tokens + prompt_tokens) / block_size
    return scale * max(0.0, prefill_blocks - credit * device_blocks) + decode_blocks
