"""Speculative decoding of an instance: the rule that makes drafts, how many, and how many of them are accepted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simjax.errors import SimjaxError, closest
from simjax.model import ModelSpec, kv_bytes_per_token, weight_bytes, without_windows

NGRAM, EAGLE, MTP, DRAFT_MODEL = METHODS = ("ngram", "eagle", "mtp", "draft_model")
MOST_DRAFTS = 16
MTP_RATES = (0.762, 0.616, 0.513, 0.424, 0.364, 0.309, 0.272, 0.237)
"""Marginal acceptance rates of 8 drafts of multi-layer MTP on gsm8k, as vLLM's pull request 48892 reports them: 4.50 tokens a step."""


@dataclass(frozen=True)
class Speculation:
    """vLLM's `speculative_config`.

    Attributes:
        method: one of `METHODS`: the text so far (n-gram), a layer on top of the model (EAGLE, MTP), or a model of its own.
        num_speculative_tokens: K, drafts that a decode verifies in a step.
        rates: marginal acceptance rates (vLLM's `synthetic_acceptance_rates`): of the i-th draft and all before it. Those after the
            K-th are not used.
        model: the draft model; None for the other methods.
        seed: of the draws of accepted drafts.
        pads, names_next_token: rules of the release (`simjax.backend.releases.DRAFTING`).

    Raises:
        SimjaxError: a value is out of range, or there are fewer rates than drafts.
    """

    method: str
    num_speculative_tokens: int
    rates: tuple[float, ...]
    model: ModelSpec | None = None
    seed: int = 0
    pads: bool = False
    names_next_token: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SimjaxError(f"speculation.method={self.method}: there is no such method; {closest(self.method, list(METHODS))}")
        if not 1 <= self.num_speculative_tokens <= MOST_DRAFTS:
            raise SimjaxError(f"speculation.num_speculative_tokens={self.num_speculative_tokens}: it must be 1 to {MOST_DRAFTS}")
        if (self.model is not None) != (self.method == DRAFT_MODEL):
            raise SimjaxError(
                "speculation.method=draft_model needs speculation.model, the draft model"
                if self.model is None
                else f"speculation.model has no effect with speculation.method={self.method}, only with draft_model"
            )
        named = f"speculation.synthetic_acceptance_rates={list(self.rates)}"
        if len(self.rates) < self.num_speculative_tokens:
            raise SimjaxError(f"{named}: {self.num_speculative_tokens} drafts need as many rates; it has {len(self.rates)}")
        if any(not 0.0 <= rate <= 1.0 for rate in self.rates):
            raise SimjaxError(f"{named}: rates must lie in [0, 1]")
        if any(one < other for one, other in zip(self.rates, self.rates[1:], strict=False)):
            raise SimjaxError(f"{named}: they must not rise: each is the rate of a draft and all before it")
        if not 0 <= self.seed < 2**31:
            raise SimjaxError(f"speculation.seed={self.seed}: it must be 0 to {2**31 - 1}")

    @property
    def num_lookahead_tokens(self) -> int:
        """Slots beyond a request's tokens that are allocated for its next drafts: a drafter writes their keys, the text has none."""
        return 0 if self.method == NGRAM else self.num_speculative_tokens

    @property
    def names_ahead(self) -> int:
        """Tokens after a block that its name in the prefix cache covers too."""
        return int(self.method in (EAGLE, MTP) and self.names_next_token)

    @property
    def drops_last(self) -> bool:
        """Whether the last of the cached blocks that a request finds is left out."""
        return self.method in (EAGLE, MTP) and not self.names_next_token

    @property
    def acceptance_length(self) -> float:
        """Mean tokens of a step of a request: a token, and the accepted drafts."""
        return 1.0 + sum(self.rates[: self.num_speculative_tokens])

    def drafter(self, model: ModelSpec) -> ModelSpec | None:
        """What makes the drafts of a model: a layer like its last one, or the draft model; None for n-grams."""
        if self.method in (EAGLE, MTP):
            return without_windows(replace(model, num_hidden_layers=1, num_moe_layers=int(model.is_moe), mixers=model.mixers[-1:]))
        return self.model

    def weight_bytes(self, model: ModelSpec, tensor_parallel_size: int) -> int:
        """Bytes of the drafter's weights on one rank. A layer shares embedding and head with the model; two hidden states are projected to
        one before it.
        """
        drafter = self.drafter(model)
        if drafter is None:
            return 0
        if drafter is self.model:
            return weight_bytes(drafter, tensor_parallel_size)
        projection = 2 * model.hidden_size**2 * model.dtype_bytes
        return weight_bytes(drafter, tensor_parallel_size, embedding=False, head=False) + projection

    def kv_bytes_per_token(self, model: ModelSpec, tensor_parallel_size: int, kv_cache_dtype: str) -> int:
        """Bytes of the drafter's keys and values of a token on one rank; they are in the same blocks as the model's."""
        drafter = self.drafter(model)
        return 0 if drafter is None else kv_bytes_per_token(drafter, tensor_parallel_size, kv_cache_dtype)


@dataclass(frozen=True)
class NoSpeculation:
    """An instance that decodes one token after the other, as far as its steps are concerned."""

    num_speculative_tokens: int = 0
    rates: tuple[float, ...] = ()
    seed: int = 0
    pads: bool = False
    num_lookahead_tokens: int = 0
    names_ahead: int = 0
    drops_last: bool = False


NO_SPECULATION = NoSpeculation()
