"""What goes into a run and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.reference.instance import RefStep
from tests.reference.lookups import RefLookups


@dataclass(frozen=True)
class RefRequest:
    """A request. A closed loop uses `arrival_s` of the first `concurrency` requests only. `uniform` in [0, 1) drives policy "random".

    `content`: the token ids of prompt and output; None: not shared with any other request.
    `waits_for`: pairs (request, delay_s). If there are any, the request is sent at the maximum of "reply at the client + delay_s" over
    them and of `not_before_s`, and `arrival_s` is not used. A refusal counts as an immediate reply. `session`: number shared by the calls
    of a session; -1: none. `model`: number of the model that it is for; -1: any. `priority`: small ones first, where a rank goes by it.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    uniform: float = 0.0
    content: tuple[int, ...] | None = None
    waits_for: tuple[tuple[int, float], ...] = ()
    session: int = -1
    not_before_s: float = 0.0
    model: int = -1
    priority: int = 0

    def __post_init__(self) -> None:
        assert self.prompt_tokens >= 1 and self.output_tokens >= 1, self
        assert self.content is None or len(self.content) == self.prompt_tokens + self.output_tokens, "not one token id per token"
        assert all(delay_s >= 0 for _, delay_s in self.waits_for), self


@dataclass(frozen=True)
class RefOutcome:
    """The outcome of a request. Times of events that did not happen are None, and `instance` is -1 if it was not routed.

    If prefill and decode ran on two instances, `scheduled_s` and `cached_tokens` are those of the prefill; `instance`, tokens and
    preemptions those of both instances. A request of one instance has none of the fields of a hand-over.

    `arrival_s`, `first_token_s`, `finish_s` and `token_times_s` are on the client's clock, `scheduled_s` on the instance's.
    `status`: "finished", "unfinished" (the run was cut, or its instance can never schedule it) or "rejected" (no instance can hold it).
    """

    status: str
    instance: int = -1
    arrival_s: float | None = None
    scheduled_s: float | None = None
    first_token_s: float | None = None
    finish_s: float | None = None
    preemptions: int = 0
    in_vain: bool = False  # one of them while its last token was in flight
    token_times_s: tuple[float, ...] = ()
    cached_tokens: int = 0  # prompt tokens hit at the first admission
    prefill_instance: int = -1
    prefill_scheduled_s: float | None = None
    prefill_finish_s: float | None = None  # end of the step that gave its token there
    transfer_start_s: float | None = None
    transfer_end_s: float | None = None  # the last of its bytes has landed
    transfer_bytes: float | None = None
    decode_scheduled_s: float | None = None
    prefill_cached_tokens: int = 0
    decode_cached_tokens: int = 0  # tokens hit where it decodes, which were not moved
    tier_hit_tokens: int = 0  # tokens that its first load brought from a tier
    load_start_s: float | None = None  # of the copy
    load_end_s: float | None = None


@dataclass(frozen=True)
class RefActivity:
    """Totals of one instance over its ended steps; 0 where it took none."""

    busy_s: float
    prefill_tokens: int
    decode_tokens: int
    step_tokens_min: int
    step_tokens_max: int
    step_sequences_min: int
    step_sequences_max: int

    @staticmethod
    def of(steps: Sequence[RefStep]) -> RefActivity:
        tokens, sequences = [sum(step.new_tokens) for step in steps], [step.running for step in steps]
        return RefActivity(
            busy_s=sum(step.end_s - step.start_s for step in steps),
            prefill_tokens=sum(step.prefill_tokens for step in steps),
            decode_tokens=sum(step.decodes for step in steps),
            step_tokens_min=min(tokens, default=0),
            step_tokens_max=max(tokens, default=0),
            step_sequences_min=min(sequences, default=0),
            step_sequences_max=max(sequences, default=0),
        )


@dataclass(frozen=True)
class RefResult:
    activity: list[RefActivity]  # by instance
    requests: list[RefOutcome]
    steps: list[RefStep]  # every step that ended, in order of start time, then instance
    evictions: list[int]  # by instance: number of cached blocks that lost their name because they were needed
    copies: list[int]  # by instance: number of blocks that got a name which another block had
    lookups: list[RefLookups]  # by instance
    ties: int  # number of requests that were queued just when a rank with a role looked: rounding decides whether it saw them
    dummies: list[
        list[tuple[float, float]]
    ]  # by instance: start and end of the forwards that a rank of a group took part in for the others
    close_calls: int  # number of choices of a router that the rounding of its scores decides
