"""Speculative decoding of the ranks. Legend: N ranks, U drafts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

    from simjax.engine.params.ranks import RankParams


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpeculationParams:
    """Speculative decoding of the ranks, vLLM's names.

    Attributes:
        num_speculative_tokens: K, drafts that a decode verifies in a step; 0 for a rank without.
        num_lookahead_tokens: slots beyond a request's tokens that are allocated for its next drafts.
        rates: marginal acceptance rates: of the i-th draft and all before it. They never rise; 0 where a rank has no such draft.
        seed: of the draws.
        pads: whether a waiting request that needs a single token gets 1 + K, with drafts that are never right.
        drops_last: whether the last of the cached blocks that a waiting request finds is left out.
    """

    num_speculative_tokens: Int32[Array, " N"]
    num_lookahead_tokens: Int32[Array, " N"]
    rates: Float64[Array, "N U"]
    seed: Int32[Array, ""]
    pads: Bool[Array, " N"]
    drops_last: Bool[Array, " N"]

    def drafts(self, i: Array | int) -> Array:
        """Drafts that a decode of rank i verifies in a step, int32[]."""
        return self.num_speculative_tokens[i]

    def lookahead(self, i: Array | int) -> Array:
        """Slots of rank i for the next drafts of a request, int32[]."""
        return self.num_lookahead_tokens[i]

    def padded(self, i: Array | int) -> Array:
        """Whether rank i pads requests that need a single token, bool[]."""
        return self.pads[i]

    def drops(self, i: Array | int) -> Array:
        """Whether rank i leaves out the last of the cached blocks that a request finds, bool[]."""
        return self.drops_last[i]

    def most_tokens(self, limits: RankParams, prompt: Any, output: Any, xp: Any) -> Any:
        """Tokens for which a request of these lengths may need blocks, over ranks: a rank that has fewer blocks can never end it.

        Its last step has drafts, and the lookahead beyond them; if it is formed during the step before, that one's drafts count as
        accepted. No request has blocks for more than `max_model_len` tokens. `xp` is numpy or `jax.numpy`.
        """
        steps = xp.minimum(output - 1, 1 + limits.async_scheduling.astype(xp.int32))
        ahead = self.num_lookahead_tokens + self.num_speculative_tokens * steps
        return xp.minimum(prompt + output - 1 + ahead, limits.max_model_len)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoSpeculationParams:
    """No rank decodes speculatively."""

    def drafts(self, i: Array | int) -> int:
        """Drafts that a decode of rank i verifies in a step."""
        return 0

    def lookahead(self, i: Array | int) -> int:
        """Slots of rank i for the next drafts of a request."""
        return 0

    def padded(self, i: Array | int) -> bool:
        """Whether rank i pads requests that need a single token."""
        return False

    def drops(self, i: Array | int) -> bool:
        """Whether rank i leaves out the last of the cached blocks that a request finds."""
        return False

    def most_tokens(self, limits: RankParams, prompt: Any, output: Any, xp: Any) -> Any:
        """Tokens for which a request of these lengths needs blocks: its last one is never put into the cache."""
        return prompt + output - 1
