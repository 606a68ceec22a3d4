"""Rules of other systems in closed form, as vllm-parallel.md §D quotes them. No connector or router of the reference uses them."""

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


def sglang_reserves(
    *,
    prompt_tokens: int,
    max_new_tokens: int,
    available_tokens: int,
    retractable_tokens: int,
    num_active: int,
    need_of_one_running: int = 0,
    retracted_tokens: int = 0,
) -> bool:
    """Whether SGLang's decode side reserves a prompt: there must be room for 512 tokens of it and of each active request.

    Args:
        prompt_tokens, max_new_tokens: of the request.
        available_tokens: free tokens of the pool.
        retractable_tokens: what all running requests together would give back.
        num_active: requests that run, are transferred or wait.
        need_of_one_running: most tokens that one running request may still need.
        retracted_tokens: what the retracted requests need.
    """
    needed = max(prompt_tokens + 512, prompt_tokens + min(max_new_tokens, 4096) - retractable_tokens)
    return needed <= available_tokens - max(512 * num_active, need_of_one_running) - retracted_tokens
