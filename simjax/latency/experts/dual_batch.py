"""vLLM's dual-batch overlap (DBO): a step in two halves, one of which computes while the other one exchanges tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

DECODE_TOKENS, OTHER_TOKENS = 32, 512
"""Tokens of the smallest rank from which a step is halved: of pure decode steps, and of others (`dbo_*_token_threshold`)."""


def halves(tokens: np.ndarray, decode_only: bool, padded: int | None = None) -> bool:
    """Whether a group halves a step: the smallest rank has enough tokens, and some in the second half of the padded ones.

    Args:
        tokens: tokens of each rank, [N].
        decode_only: whether all requests of all ranks decode.
        padded: tokens to which all ranks are padded, the most of any of them when None.
    """
    least = int(np.min(tokens))
    middle = (int(np.max(tokens)) if padded is None else padded) // 2
    return least >= (DECODE_TOKENS if decode_only else OTHER_TOKENS) and least > middle


def layer_s(attention_s: Any, dispatch_s: Any, experts_s: Any, combine_s: Any, xp: Any = np) -> Any:
    """Seconds of a layer whose halves overlap, from the times of one half: a flow shop of two jobs on two machines.

    Neither computation nor network does more than one half at a time, and no half overtakes itself. Each half reads all weights, so that
    halving loses where reading them is most of the time.
    """
    compute_s, network_s = 2.0 * (attention_s + experts_s), 2.0 * (dispatch_s + combine_s)
    return xp.maximum(xp.maximum(compute_s, network_s), attention_s + dispatch_s + experts_s + combine_s)
