"""Scenarios in which several subsystems come together, for the engine and for the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from simjax.cluster.routers import ROUTERS
from tests.engine.grouped import Grouped, Together, alike, as_grouped, rules
from tests.engine.grouped_legs import GroupedLegs, grouped_legs
from tests.engine.pipelined import Pipelined
from tests.engine.prioritized import Prioritized, prioritized
from tests.engine.scenario import MAX_TOKENS, RouterPolicy, Scenario, Timing
from tests.engine.speculating import MOST_DRAFTS, Speculating, servable, speculating, verified_s
from tests.engine.strategies import scenarios, sharing
from tests.engine.test_against_reference import assert_same, undecided
from tests.engine.two_legs import TwoLegs, two_legs

Verified = list[tuple[int, int, bool]]
"""(new, computed) of the requests of a rank, and whether they decode."""


@st.composite
def in_sessions(draw: st.DrawFn, instances: int = 1) -> Scenario:
    """Scenarios of sessions without prefix caches."""
    drawn = draw(sharing(instances=instances, sessions=True))
    router = RouterPolicy.LEAST_LOADED if ROUTERS[drawn.router.name.lower()].compares else drawn.router
    without = tuple(dataclasses.replace(x, enable_prefix_caching=False) for x in drawn.limits)
    return dataclasses.replace(drawn, limits=without, contents=None, staleness_s=0.0, router=router)


@st.composite
def sessions_on_stages(draw: st.DrawFn, instances: int = 1) -> Pipelined:
    """Sessions on ranks of pp stages."""
    return draw(_on_stages(draw(in_sessions(instances))))


@st.composite
def caches_on_stages(draw: st.DrawFn, instances: int = 1, sessions: bool = False) -> Pipelined:
    """Prefix caches, also of sessions, on ranks of pp stages."""
    drawn = draw(sharing(instances=instances, sessions=sessions))
    router = RouterPolicy.WEIGHTED if ROUTERS[drawn.router.name.lower()].compares else drawn.router
    return draw(_on_stages(dataclasses.replace(drawn, router=router)))


@st.composite
def _on_stages(draw: st.DrawFn, drawn: Scenario) -> Pipelined:
    instances = len(drawn.limits)
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(Scenario)}
    return Pipelined(
        **given,
        stages=tuple(draw(st.sampled_from([2, 3, 1])) for _ in range(instances)),
        broadcast_s=draw(st.sampled_from([0.0, 4e-4])),
        empty_pass_s=draw(st.sampled_from([0.0, 1e-3])),
        seed=draw(st.integers(0, 2**16)),
    )


@st.composite
def sessions_with_drafts(draw: st.DrawFn, instances: int = 1) -> Speculating:
    """Sessions on ranks that decode speculatively, which have blocks enough for any request."""
    drawn = draw(in_sessions(instances))
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(Scenario)}
    return Speculating(**given | {"limits": _roomy(drawn)}, **draw(_drafts(instances)))


REUSE = ("all", "last", "next_token")


@st.composite
def drafts_and_caches(draw: st.DrawFn, instances: int = 1, sessions: bool = False) -> Speculating:
    """Prefix caches on ranks that decode speculatively, by the rules of each release for drafters with and without a cache of their own."""
    drawn = draw(sharing(instances=instances, sessions=sessions))
    limits, pads = _roomy(drawn), draw(st.booleans())
    if pads:  # a request that is padded beyond the budget would wait for ever
        limits = tuple(dataclasses.replace(x, max_num_batched_tokens=max(x.max_num_batched_tokens, 1 + MOST_DRAFTS)) for x in limits)
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(Scenario)} | {"limits": limits}
    return Speculating(**given, **draw(_drafts(instances)), pads=pads, reuse=draw(st.sampled_from(REUSE)))


@st.composite
def sessions_in_groups(draw: st.DrawFn, sizes: tuple[int, ...] = (1, 2)) -> Grouped:
    """Sessions on ranks in lockstep."""
    return as_grouped(draw(in_sessions(sum(sizes))), sizes, **draw(rules()))


@st.composite
def _drafts(draw: st.DrawFn, instances: int) -> dict[str, Any]:
    drafts = tuple(draw(st.integers(0, MOST_DRAFTS)) for _ in range(instances))
    rates = sorted((draw(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])) for _ in range(MOST_DRAFTS)), reverse=True)
    lookahead = tuple(draw(st.sampled_from([0, k])) for k in drafts)
    return {"drafts": drafts, "lookahead": lookahead, "rates": tuple(rates), "seed": draw(st.integers(0, 2**16))}


def _roomy(drawn: Scenario) -> tuple:
    """Limits under which any rank can hold any request, with its drafts."""
    longest = int((drawn.prompt + drawn.output).max()) + 3 * MOST_DRAFTS
    return tuple(
        dataclasses.replace(
            x,
            max_model_len=10_000,
            num_blocks=max(x.num_blocks, -(-longest // x.block_size)),
            enable_chunked_prefill=x.enable_chunked_prefill or x.max_num_batched_tokens < longest,
        )
        for x in drawn.limits
    )


@dataclass(frozen=True)
class TogetherVerifying(Together):
    """What the ranks of a group take for a step in which they verify drafts, of which a dummy has `drafts`."""

    drafts: int = 0

    def step_time(self, batches: list[Verified]) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The price of a step in plain Python."""
        tokens = [sum(new for new, _, _ in batch) or 1 + self.drafts for batch in batches]
        alone = [[(1 if decoding else new, computed) for new, computed, decoding in batch] for batch in batches]
        return self.priced(tokens, alone)


@dataclass(frozen=True)
class SpeculatingGroups(Speculating, Grouped):
    """Groups whose ranks decode speculatively, all ranks of a group with as many drafts."""

    @property
    def times(self) -> list[Together]:
        first = [sum(self.sizes[:g]) for g in range(len(self.sizes))]
        own = [Together.drawn(self.seed + g, size, self.graphs, self.most_captured) for g, size in enumerate(self.sizes)]
        as_given = [{x.name: getattr(one, x.name) for x in dataclasses.fields(Together)} for one in own]
        return [TogetherVerifying(**given, drafts=self.drafts[i]) for given, i in zip(as_given, first, strict=True)]


@st.composite
def speculating_groups(draw: st.DrawFn, sizes: tuple[int, ...] = (3,), closed: bool = False, caching: bool = False) -> SpeculatingGroups:
    """Groups with drafts; at most as many rows as the tables of step times have."""
    drawn = draw(drafts_and_caches(sum(sizes)) if caching else speculating(sum(sizes), closed=closed))
    if ROUTERS[drawn.router.name.lower()].compares and not caching:
        drawn = dataclasses.replace(drawn, router=RouterPolicy.LEAST_LOADED)
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(Speculating)} | draw(rules())
    first = [i for i, size in zip([sum(sizes[:g]) for g in range(len(sizes))], sizes, strict=True) for _ in range(size)]
    given["limits"] = tuple(
        dataclasses.replace(x, max_num_batched_tokens=min(x.max_num_batched_tokens, MAX_TOKENS)) for x in alike(_roomy(drawn), sizes)
    )
    for name in ("drafts", "lookahead"):
        given[name] = tuple(given[name][i] for i in first)
    return SpeculatingGroups(**given, sizes=sizes)


WITHOUT_CARRIED = ("nixl", "nixl_push", "mooncake", "p2p_nccl")


@dataclass(frozen=True)
class SpeculatingTwoLegs(TwoLegs, Speculating):
    """Prefill and decode ranks that decode speculatively."""


@st.composite
def speculating_legs(
    draw: st.DrawFn, instances: int = 2, closed: bool = False, caching: bool = False, sessions: bool = False
) -> SpeculatingTwoLegs:
    """Prefill and decode ranks with drafts; a pool holds any request and little more in many."""
    of = sharing(instances, sessions) if caching else scenarios(instances=instances, closed=closed)
    drawn = draw(two_legs(of, WITHOUT_CARRIED))
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(TwoLegs)} | {"limits": _roomy(drawn)}
    reuse = draw(st.sampled_from(REUSE)) if caching else "all"
    return SpeculatingTwoLegs(**given, **draw(_drafts(instances)), reuse=reuse)


@dataclass(frozen=True)
class SpeculatingGroupedLegs(SpeculatingGroups, GroupedLegs):
    """Groups of prefill and of decode ranks that decode speculatively."""


@st.composite
def speculating_grouped_legs(draw: st.DrawFn, caching: bool = False) -> SpeculatingGroupedLegs:
    """A group of prefill ranks and one of decode ranks, with drafts."""
    drawn = draw(grouped_legs(connectors=WITHOUT_CARRIED, caching=caching))
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(GroupedLegs)} | {"limits": _roomy(drawn)}
    drafts = draw(_drafts(2))
    for name in ("drafts", "lookahead"):
        drafts[name] = tuple(x for x in drafts[name] for _ in range(2))
    return SpeculatingGroupedLegs(**given | drafts, reuse=draw(st.sampled_from(REUSE)) if caching else "all")


@dataclass(frozen=True)
class PrioritizedGroups(Prioritized, Grouped):
    """Groups whose ranks schedule by priority, or some of them first come, first served."""


@st.composite
def prioritized_groups(draw: st.DrawFn, sizes: tuple[int, ...] = (3,), closed: bool = False) -> PrioritizedGroups:
    """Groups by priority; a cadence of prefills is younger than the releases that leave requests out."""
    drawn = draw(prioritized(sum(sizes), closed=closed))
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(Prioritized)}
    alike = as_grouped(drawn, sizes, **draw(rules()))
    given |= {x.name: getattr(alike, x.name) for x in dataclasses.fields(Grouped)}
    own = given["rules"]
    if alike.prefill_schedule_interval > 1:
        own = tuple((goes_on, False) for goes_on, _ in own)
    return PrioritizedGroups(**given | {"rules": own})


@dataclass(frozen=True)
class UrgentDrafts(Prioritized, Speculating):
    """Ranks that decode speculatively and schedule by priority, or some of them first come, first served."""


@st.composite
def urgent_drafts(draw: st.DrawFn, instances: int = 1, closed: bool = False, caching: bool = False) -> UrgentDrafts:
    """Priorities and drafts; a pool holds any request and little more in many."""
    drawn = draw(prioritized(instances, closed=closed, caching=caching))
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(Prioritized)}
    limits, pads = _roomy(drawn), draw(st.booleans())
    if pads:  # a request that is padded beyond the budget would wait for ever
        limits = tuple(dataclasses.replace(x, max_num_batched_tokens=max(x.max_num_batched_tokens, 1 + MOST_DRAFTS)) for x in limits)
    reuse = draw(st.sampled_from(REUSE)) if caching else "all"
    return UrgentDrafts(**given | {"limits": limits}, **draw(_drafts(instances)), pads=pads, reuse=reuse)


@dataclass(frozen=True)
class StagedDrafts(Pipelined, Speculating):
    """Ranks with pp stages that decode speculatively."""

    def stage_time(self, timing: Timing) -> Callable[[list], float]:
        return partial(verified_s, timing)


@st.composite
def staged_drafts(draw: st.DrawFn, instances: int = 1, closed: bool = False, caching: bool = False, sessions: bool = False) -> StagedDrafts:
    """Drafts on 1 to 3 stages, which a synchronous scheduler has on one alone."""
    drawn = draw(drafts_and_caches(instances, sessions) if caching else speculating(instances, closed=closed))
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(Speculating)}
    if ROUTERS[drawn.router.name.lower()].compares:
        given["router"] = RouterPolicy.WEIGHTED if caching else RouterPolicy.LEAST_LOADED
    stages = tuple(draw(st.sampled_from([2, 3, 3, 1])) for _ in range(instances))
    own = [dataclasses.replace(x, async_scheduling=x.async_scheduling or n > 1) for x, n in zip(drawn.limits, stages, strict=True)]
    made = StagedDrafts(
        **given | {"limits": tuple(own)},
        stages=stages,
        send_s=draw(st.sampled_from([(0.0, 0.0), (7e-4, 3e-5)])),
        broadcast_s=draw(st.sampled_from([0.0, 4e-4])),
        empty_pass_s=draw(st.sampled_from([0.0, 1e-3])),
    )
    return made if caching else servable(made)  # pyright: ignore[reportReturnType]


def check_staged_drafts(scenario: StagedDrafts, mode: str = "") -> None:
    """The comparison of a scenario. A run ends with its last request; the reference waits for a batch that computes for nothing then."""
    theirs = scenario.run_reference()
    assume(not undecided(scenario, theirs))
    post_s = [x.api_post_s for x in scenario.limits]
    last_s = max(x.token_times_s[-1] - post_s[x.instance] for x in theirs.requests)
    steps = [step for step in theirs.steps if step.end_s <= last_s + 1e-12]
    assert_same(scenario.run(), dataclasses.replace(theirs, steps=steps))
