"""Scenarios of ranks that step together, for the engine and for the reference."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st

from simjax.cluster.routers import ROUTERS
from simjax.engine.host.lowering.groups import NEVER_ASKS
from simjax.engine.params import ClusterParams, GroupParams
from simjax.engine.shape import EngineShape
from simjax.latency.groups.times import FULL, NEVER, NONE, PIECEWISE, GroupTimes
from simjax.latency.join import join_step_times
from simjax.network.stages import CAPTURE_SIZES
from tests.engine.balanced import API_SERVERS, Balanced
from tests.engine.scenario import MAX_SEQUENCES, MAX_TOKENS, Limits, RouterPolicy, Scenario, Timing
from tests.engine.strategies import SMALL, scenarios, sharing
from tests.reference.groups import RefGroup, Tokens
from tests.reference.instance import RefInstance

WIDEST = 3  # ranks of a group behind a load balancer


@dataclass(frozen=True)
class Together:
    """What the ranks of a group of some size take for a step, with irregular numbers."""

    timing: Timing
    ranks: int
    experts_s: np.ndarray
    exchange_s: np.ndarray
    token_s: float
    graphs: tuple[int, int]  # of decode-only and of other steps
    most_captured: int

    @staticmethod
    def drawn(seed: int, ranks: int, graphs: tuple[int, int] = (FULL, PIECEWISE), most_captured: int = 512) -> Together:
        rng = np.random.default_rng(seed)
        grow = lambda n, scale: np.concatenate([[0.0], np.cumsum(rng.uniform(0.2, 1.0, n)) * scale])
        experts_s, exchange_s = grow(ranks * MAX_TOKENS, 2.3e-4), grow(MAX_TOKENS, 1.7e-4)
        return Together(Timing.drawn(seed), ranks, experts_s, exchange_s, 2.9e-5, graphs, most_captured)

    @staticmethod
    def taking(seconds: float, ranks: int, prompt_s: float = 0.0) -> Together:
        """Steps of so many seconds, and of `prompt_s` more with a prompt of more than one token; without graphs."""
        nothing = np.zeros(MAX_TOKENS + 1)
        sequences_s = np.where(np.arange(MAX_SEQUENCES + 1) > 0, seconds, 0.0)
        timing = Timing(nothing, sequences_s, (0.0, 0.0, 0.0), (prompt_s, 0.0))
        return Together(timing, ranks, np.zeros(ranks * MAX_TOKENS + 1), nothing, 0.0, (NONE, NONE), 0)

    def step_time(self, batches: list[Tokens]) -> float:
        """The price of a step in plain Python: (new, computed) of every request of every rank."""
        return self.priced([sum(new for new, _ in batch) or 1 for batch in batches], batches)

    def priced(self, tokens: list[int], batches: list[Tokens]) -> float:
        """The price of a step in which the ranks compute so many tokens, with attention for these batches."""
        decodes = [all(new == 1 for new, _ in batch) for batch in batches]
        graph = min(
            (self.graphs[0] if decode else self.graphs[1]) if count <= self.most_captured else NONE
            for count, decode in zip(tokens, decodes, strict=True)
        )
        attention_s = [self._attention_s(batch) for batch in batches]
        if graph > NONE:
            rows = min(size for size in CAPTURE_SIZES if size >= max(tokens))
            total, own_s = self.ranks * rows, self.timing.tokens_s[rows] + max(attention_s)
        else:
            rows, total = max(tokens), sum(tokens)
            own_s = max(self.timing.tokens_s[count] + s for count, s in zip(tokens, attention_s, strict=True))
        head_s = self.timing.sequences_s[max(len(batch) or 1 for batch in batches)]
        return float(own_s + self.experts_s[total] + self.exchange_s[rows] + total * self.token_s + head_s)

    def _attention_s(self, batch: Tokens) -> float:
        contexts = [computed for new, computed in batch if new == 1]
        if not batch:
            return 0.0
        if len(contexts) == len(batch):
            floor, per_sequence, per_token = self.timing.decode_s
            return floor + per_sequence * len(batch) + per_token * sum(contexts)
        floor, per_token = self.timing.mixed_s
        return floor + per_token * sum(contexts)

    def table(self, widest: int):
        """The same as `StepTime`, its experts for groups of up to so many ranks."""
        experts_s = np.pad(self.experts_s, (0, (widest - self.ranks) * MAX_TOKENS), mode="edge")
        whole = lambda x: np.array(x, np.int32)[None]
        group = GroupTimes(
            ranks=whole(self.ranks),
            fine_tokens=whole(widest * MAX_TOKENS),
            experts_s=experts_s[None],
            exchange_s=self.exchange_s[None],
            token_s=np.array([self.token_s]),
            round_tokens=whole(NEVER),
            graphs=whole(self.graphs),
            halves=whole((NEVER, NEVER)),
            simplified=np.zeros(1, bool),
        )  # pyright: ignore[reportCallIssue]
        return dataclasses.replace(self.timing.step_time_table(), group=group)


@dataclass(frozen=True)
class Grouped(Scenario):
    """Ranks in groups of these sizes, in order. `own` are step times of the groups instead of drawn ones.

    Those of size 1 step by themselves where that is asked for, in the times of the scenario.
    """

    sizes: tuple[int, ...] = (2,)
    lone: bool = False
    sync_interval: int = 16
    syncs_first: bool = True
    prefill_schedule_interval: int = 1
    graphs: tuple[int, int] = (FULL, PIECEWISE)
    most_captured: int = 512
    seed: int = 0
    own: tuple[Together, ...] = ()

    @cached_property
    def times(self) -> list[Together]:
        drawn = [Together.drawn(self.seed + g, size, self.graphs, self.most_captured) for g, size in enumerate(self.sizes)]
        return list(self.own or drawn)

    @property
    def widest(self) -> int:
        """Ranks for which arrays of a group have room."""
        return max(self.sizes)

    @property
    def alone(self) -> np.ndarray:
        """Which groups are a rank that steps by itself."""
        return np.array([self.lone and size == 1 for size in self.sizes])

    @property
    def of_rank(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.sizes)), self.sizes).astype(np.int32)

    def shape(self, **changes) -> EngineShape:
        return super().shape(**{"groups": len(self.sizes), "group_ranks": self.widest, "lone_ranks": self.lone, **changes})

    def params(self) -> ClusterParams:
        params, alone = super().params(), self.alone
        every = lambda value, dtype, without=None: np.where(alone, value if without is None else without, value).astype(dtype)
        groups = GroupParams(
            of_rank=self.of_rank,
            first=(np.cumsum(self.sizes) - self.sizes).astype(np.int32),
            size=np.array(self.sizes, np.int32),
            sync_interval=every(self.sync_interval, np.int32, NEVER_ASKS),
            syncs_first=every(self.syncs_first, bool, False),
            prefill_schedule_interval=every(self.prefill_schedule_interval, np.int32, 1),
            most_captured=np.array([x.most_captured for x in self.times], np.int32),
            alone=alone if self.lone else None,
        )  # pyright: ignore[reportCallIssue]
        each = zip(self.times, alone.tolist(), strict=True)
        tables = [self.timing.step_time_table() if by_itself else x.table(self.widest) for x, by_itself in each]
        with jax.enable_x64(True):
            step_time = jax.tree.map(np.asarray, join_step_times(tables))
        ranks = dataclasses.replace(params.ranks, step_time=self.of_rank)
        return dataclasses.replace(params, ranks=ranks, step_time=step_time, groups=groups)

    def reference_instances(self) -> list[RefInstance]:
        rules = (self.sync_interval, self.syncs_first, self.prefill_schedule_interval)
        groups = [RefGroup(g, times.step_time, *rules) for g, times in enumerate(self.times)]
        return [
            instance if self.alone[g] else dataclasses.replace(instance, group=groups[g])
            for g, instance in zip(self.of_rank.tolist(), super().reference_instances(), strict=True)
        ]


def as_grouped(scenario: Scenario, sizes: tuple[int, ...], **more) -> Grouped:
    """The scenario with its ranks in groups."""
    given = {x.name: getattr(scenario, x.name) for x in dataclasses.fields(Scenario)}
    return Grouped(**{**given, "limits": alike(scenario.limits, sizes), "sizes": sizes, **more})


def alike(limits: tuple[Limits, ...], sizes: tuple[int, ...]) -> tuple[Limits, ...]:
    """The limits of ranks such that those of a group, which are of one instance, schedule and answer as its first one."""
    firsts = [limits[i] for i in np.repeat(np.cumsum(sizes) - sizes, sizes)]
    same = ("async_scheduling", "api_post_s")
    return tuple(dataclasses.replace(x, **{name: getattr(first, name) for name in same}) for x, first in zip(limits, firsts, strict=True))


@st.composite
def grouped(draw: st.DrawFn, sizes: tuple[int, ...] = (3,), closed: bool = False, capped: bool = False, caching: bool = False) -> Grouped:
    """Scenarios of groups with unlike loads and idle ranks, the pool tight in many."""
    drawn = draw(sharing(sum(sizes)) if caching else scenarios(instances=sum(sizes), closed=closed, capped=capped, sizes=SMALL))
    if ROUTERS[drawn.router.name.lower()].compares and not caching:  # another program
        drawn = dataclasses.replace(drawn, router=RouterPolicy.LEAST_LOADED)
    return as_grouped(drawn, sizes, **draw(rules()))


def beside_one(groups: st.SearchStrategy[Grouped]) -> st.SearchStrategy[Grouped]:
    """The scenarios with the ranks of groups of one stepping by themselves."""
    return groups.map(lambda scenario: dataclasses.replace(scenario, lone=True))


@st.composite
def mixed_groups(draw: st.DrawFn, closed: bool = False, caching: bool = False) -> Grouped:
    """A group of two ranks and a rank that steps by itself; one program."""
    sizes = draw(st.sampled_from([(2, 1), (1, 2)]))
    return dataclasses.replace(draw(grouped(sizes, closed, caching=caching)), lone=True)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """Rules and graphs of groups."""
    return {
        "sync_interval": draw(st.sampled_from([1, 2, 16, 32])),
        "syncs_first": draw(st.booleans()),
        "prefill_schedule_interval": draw(st.sampled_from([1, 1, 2, 3, 7])),
        "graphs": draw(st.sampled_from([(FULL, PIECEWISE), (FULL, NONE), (NONE, NONE)])),
        "most_captured": draw(st.sampled_from([512, 16, 4])),
        "seed": draw(st.integers(0, 2**16)),
    }


@dataclass(frozen=True)
class BalancedGroups(Balanced, Grouped):
    """Groups that balance the load of their ranks themselves."""

    @property
    def widest(self) -> int:
        return WIDEST

    def shape(self, **changes) -> EngineShape:
        return super().shape(router_books=False, **changes)


@st.composite
def balanced_groups(draw: st.DrawFn, closed: bool = False) -> BalancedGroups:
    """Two groups of four ranks in all, each with a few API servers; one program."""
    sizes = draw(st.sampled_from([(2, 2), (3, 1), (1, 3)]))
    drawn = draw(grouped(sizes, closed))
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(Grouped)}
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    capacity = lambda x: min(x.num_blocks * x.block_size + 1, x.max_model_len)
    roomiest = max(drawn.limits, key=capacity)
    alike = [drawn.limits[i] for i in first]
    if int((drawn.prompt + drawn.output).max()) > max(map(capacity, alike)):  # some group can hold every request
        alike = [roomiest if i == first[0] else x for i, x in zip(first, alike, strict=True)]
    return BalancedGroups(
        **{**given, "limits": tuple(alike)},
        groups=sizes,
        api_servers=tuple(draw(st.integers(1, API_SERVERS)) for _ in sizes),
        publishes=(True, True),
        weighs_in_flight=draw(st.booleans()),
        interval_s=draw(st.sampled_from([0.1, 0.0173, 0.31, float("inf")])),
    )
