"""SGLang's rule by which a decode rank reserves the KV cache of a prompt, as vllm-parallel.md §D.5 quotes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.reference.legs import Leg


@dataclass(frozen=True)
class Headroom:
    """Room that a decode rank keeps: `tokens` for a prompt beside its own and for each active request, those that run, load or have loaded.

    `most_new_tokens`: no request is expected to generate more.
    """

    tokens: int = 512
    most_new_tokens: int = 4096

    def admits(self, leg: Leg, running: Sequence[Leg], num_loads: int, free_tokens: int) -> bool:
        """Whether a rank with free tokens reserves a prompt.

        If all other requests are retracted, the new one must be able to end, and so must each of those that run.
        """
        retractable = sum(each.prompt_tokens + each.generated for each in running)
        needed = max(leg.prompt_tokens + self.tokens, self._whole(leg.prompt_tokens, leg.output_tokens) - retractable)
        need_of_one = max((self._whole(each.prompt_tokens, each.output_tokens) - retractable for each in running), default=0)
        return needed <= free_tokens - max(self.tokens * (len(running) + num_loads), need_of_one)

    def fits(self, prompt_tokens: int, output_tokens: int, tokens: int) -> bool:
        """Whether a rank that holds so many tokens, and nothing else, reserves such a prompt."""
        return max(prompt_tokens + self.tokens, self._whole(prompt_tokens, output_tokens)) <= tokens

    def _whole(self, prompt_tokens: int, output_tokens: int) -> int:
        return prompt_tokens + min(output_tokens, self.most_new_tokens)
