"""The most slots that a request asks of the KV cache while it decodes speculatively."""

from __future__ import annotations

from typing import Any

from simjax.engine.params import RankParams, SpeculationParams


def most_tokens(speculation: SpeculationParams, limits: RankParams, prompt: Any, output: Any, xp: Any) -> Any:
    """Tokens for which a request of these lengths may need blocks, over ranks: a rank that has fewer blocks can never end it.

    Its last step has drafts, and the lookahead beyond them; if it is formed during the step before, that one's drafts count as accepted.
    No request has blocks for more than `max_model_len` tokens.
    """
    steps = xp.minimum(output - 1, 1 + limits.async_scheduling.astype(xp.int32))
    ahead = speculation.num_lookahead_tokens + speculation.num_speculative_tokens * steps
    return xp.minimum(prompt + output - 1 + ahead, limits.max_model_len)
