"""Clusters of prefill and decode ranks for both simulators, from one description."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from simjax.cluster.disaggregation import CONNECTORS
from simjax.cluster.routers import ROUTERS
from simjax.engine.handover.headroom import NO_HEADROOM
from simjax.engine.host.lowering.handover import ROLES, UNBOUNDED
from simjax.engine.params import ClusterParams, HandoverParams, HeadroomParams, RouterParams
from simjax.engine.shape import EngineShape
from tests.engine.scenario import MAX_SEQUENCES, MAX_TOKENS, RouterPolicy, Scenario
from tests.reference.handover import CONNECTORS as REFERENCE_CONNECTORS
from tests.reference.handover import RefHandover
from tests.reference.headroom import Headroom
from tests.reference.instance import RefInstance
from tests.reference.simulator import RefResult

LINKS = 8
ROWS = 32


@dataclass(frozen=True)
class TwoLegs(Scenario):
    """A scenario whose ranks have roles ("both", "prefill", "decode").

    Pairs are [prefill rank, decode rank]; `path` has link numbers, -1 for none; `capacity` is over the links.
    """

    roles: tuple[str, ...] = ()
    connector: str = "nixl"
    bytes_per_token: tuple[tuple[float, ...], ...] = ()
    setup_s: tuple[tuple[float, ...], ...] = ()
    per_block_s: float = 0.0
    path: tuple[tuple[tuple[int, ...], ...], ...] = ()
    capacity: tuple[float, ...] = ()
    handover_s: float = 0.0
    empty_pass_s: float = 1e-3
    fifo: bool = False
    decode_first: bool = False
    local_prefill_tokens: float = 0.0
    local_prefill_ratio: float = 1e9
    layers: float = 4.0
    decode_router: RouterPolicy = RouterPolicy.LEAST_LOADED
    decode_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    headroom_tokens: int = 0  # of connectors that keep some
    most_new_tokens: int = 4096

    def shape(self, **changes) -> EngineShape:
        shape = dataclasses.replace(super().shape(), live_routing=True, handovers=ROWS, links=LINKS, headroom=True)
        rules = [ROUTERS[router.name.lower()] for router in (self.router, self.decode_router)]
        books = shape.router_books or any(rule.compares for rule in rules) or not self.concurrency
        shape = dataclasses.replace(shape, stale_view=shape.stale_view or self.staleness_s > 0, router_books=books)
        return dataclasses.replace(shape, **changes)

    def params(self) -> ClusterParams:
        n, connector = len(self.limits), CONNECTORS[self.connector]
        path = np.full((n, n, 4), LINKS - 1, np.int32)
        for p in range(n):
            for d in range(n):
                for h, link in enumerate(self.path[p][d]):
                    path[p, d, h] = LINKS - 1 if link < 0 else link
        capacity = np.full(LINKS, UNBOUNDED)
        capacity[: len(self.capacity)] = np.minimum(self.capacity, UNBOUNDED)
        handover = HandoverParams(
            role=np.array([[x.value for x in ROLES].index(role) for role in self.roles], np.int32),
            bytes_per_token=np.array(self.bytes_per_token, float),
            setup_s=np.array(self.setup_s, float),
            per_block_s=np.full((n, n), self.per_block_s),
            path=path,
            capacity=capacity,
            handover_s=np.float64(self.handover_s),
            empty_pass_s=np.float64(self.empty_pass_s),
            fifo=np.bool_(self.fifo),
            decode_first=np.bool_(self.decode_first),
            local_prefill_tokens=np.float64(self.local_prefill_tokens),
            local_prefill_ratio=np.float64(self.local_prefill_ratio),
            reserve=np.int32(connector.reserve),
            stream=np.int32(connector.stream),
            carried=np.bool_(connector.carried),
            at_once=np.bool_(connector.within_steps),
            layers=np.full(n, self.layers),
            headroom=HeadroomParams(np.int32(self.headroom_tokens if connector.headroom else NO_HEADROOM), np.int32(self.most_new_tokens)),  # pyright: ignore[reportArgumentType]
            decode_router=RouterParams.of(
                self.decode_router.name.lower(), self.decode_weights, costs=dataclasses.replace(self.costs, overlap_credit=0.0)
            ),
        )
        return dataclasses.replace(super().params(), handover=handover)

    def reference_handover(self) -> RefHandover:
        n, rules = len(self.limits), REFERENCE_CONNECTORS[self.connector]
        if "headroom" in rules:
            rules = rules | {"headroom": Headroom(self.headroom_tokens, self.most_new_tokens)}
        return RefHandover(
            bytes_per_token=self.bytes_per_token,
            setup_s=self.setup_s,
            per_block_s=[[self.per_block_s] * n] * n,
            path=self.path,
            capacity=self.capacity,
            layers=[self.layers] * n,
            handover_s=self.handover_s,
            empty_pass_s=self.empty_pass_s,
            fifo=self.fifo,
            decode_first=self.decode_first,
            local_prefill_tokens=self.local_prefill_tokens,
            local_prefill_ratio=self.local_prefill_ratio,
            decode_policy=self.decode_router.name.lower(),
            decode_weights=self.decode_weights,
            **rules,
        )

    def reference_instances(self) -> list[RefInstance]:
        return [dataclasses.replace(x, role=role) for x, role in zip(super().reference_instances(), self.roles, strict=True)]

    def run_reference(self, **more) -> RefResult:
        return super().run_reference(handover=self.reference_handover(), **more)


@st.composite
def two_legs(draw, of: st.SearchStrategy[Scenario], connectors: tuple[str, ...] = tuple(REFERENCE_CONNECTORS)) -> TwoLegs:
    """A scenario whose ranks get roles, and links between them that are sometimes shared and sometimes slow."""
    drawn = draw(of)
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(Scenario)}
    n = len(drawn.limits)
    connector = draw(st.sampled_from(connectors))
    headroom_tokens = draw(st.sampled_from([0, 3, 11])) if CONNECTORS[connector].headroom else 0
    longest = int((drawn.prompt + drawn.output).max()) + headroom_tokens  # any rank can hold any request
    roomy = [
        dataclasses.replace(
            x,
            max_model_len=10_000,
            num_blocks=max(x.num_blocks, -(-longest // x.block_size)),
            enable_chunked_prefill=x.enable_chunked_prefill or x.max_num_batched_tokens < longest,
        )
        for x in drawn.limits
    ]
    if CONNECTORS[connector].carried:  # as `simjax.engine.host.lower` has it
        roomy = [dataclasses.replace(x, long_prefill_alone=False) for x in roomy]
    given["limits"] = tuple(roomy)
    prefills = draw(st.integers(1, n - 1))
    roles = ("prefill",) * prefills + ("decode",) * (n - prefills)
    if draw(st.booleans()):
        roles = roles[::-1]
    if n > 2 and draw(st.integers(0, 3)) == 0:
        roles = ("prefill", "both", "decode", *roles[3:])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    slowness = draw(st.sampled_from([1e-5, 1e-3, 1e-2]))
    table = lambda low, high: tuple(tuple(row) for row in rng.uniform(low, high, (n, n)).tolist())
    ways = draw(st.sampled_from(["one", "ends", "four"]))
    path = {
        "one": lambda p, d: (0,),
        "ends": lambda p, d: (p, 3 + d) if n <= 3 else (p % 3, 3 + d % 3),
        "four": lambda p, d: (p % 3, -1, 6, 3 + d % 3),
    }[ways]
    capacity = tuple(rng.uniform(0.5, 2.0, LINKS - 1).tolist())
    # Times that are equal but for rounding are decided by it, in each simulator in its own way. So the pauses of clients, 0.021 s and
    # 0.3 s, and the other times drawn are no multiples of a pass; and a set-up is nothing at all, or more than the 1e-9 s (`TIE_S` of
    # `tests.reference.rank`) and the 1e-6 passes (`ROUNDING` of `simjax.engine.handover.passes`) by which a landing must come before
    # the pass that is to see it.
    setup_s = table(*draw(st.sampled_from([(0.0, 0.0), (1e-8, 1e-7), (0.0, 4e-3)])))
    return TwoLegs(
        **given,
        roles=roles,
        connector=connector,
        bytes_per_token=table(0.5 * slowness, slowness),
        setup_s=setup_s,
        per_block_s=draw(st.sampled_from([0.0, 1.7e-4])),
        path=tuple(tuple(path(p, d) for d in range(n)) for p in range(n)),
        capacity=capacity,
        handover_s=draw(st.sampled_from([0.0, 3.3e-3])),
        empty_pass_s=draw(st.sampled_from([0.97e-3, 2.03e-4])),
        fifo=draw(st.booleans()),
        decode_first=draw(st.booleans()),
        local_prefill_tokens=draw(st.sampled_from([0.0, 0.0, 12.0])),
        local_prefill_ratio=draw(st.sampled_from([1e9, 0.6])),
        decode_router=draw(st.sampled_from([RouterPolicy.ROUND_ROBIN, RouterPolicy.LEAST_LOADED])),
        headroom_tokens=headroom_tokens,
        most_new_tokens=draw(st.sampled_from([4096, 3])) if headroom_tokens else 4096,
    )


@st.composite
def crowded(draw, of: st.SearchStrategy[Scenario], connectors: tuple[str, ...] = tuple(REFERENCE_CONNECTORS)) -> TwoLegs:
    """A scenario whose decode ranks compute many of the prompts themselves, in small pieces, while others load and blocks are scarce."""
    drawn = draw(two_legs(of, connectors))
    longest = int((drawn.prompt + drawn.output).max()) + drawn.headroom_tokens
    limits = [
        dataclasses.replace(
            x,
            num_blocks=-(-longest // x.block_size) + draw(st.integers(0, 8)),
            max_num_seqs=MAX_SEQUENCES,
            max_num_batched_tokens=MAX_TOKENS,
            long_prefill_token_threshold=draw(st.integers(1, 5)),
            reserve_kv_loads=draw(st.booleans()) or draw(st.booleans()),
            watermark_blocks=draw(st.sampled_from([0, 0, 2])),
        )
        if role == "decode"
        else x
        for x, role in zip(drawn.limits, drawn.roles, strict=True)
    ]
    median = np.median(drawn.prompt)
    return dataclasses.replace(drawn, limits=tuple(limits), local_prefill_tokens=float(median), local_prefill_ratio=1e9)


def one_to_one(scenario: Scenario, seconds_per_token: float, setup_s: float = 0.0, **changes) -> TwoLegs:
    """A scenario of one prefill and one decode rank, whose transfers take a time a token on a link of their own and a fixed one."""
    given = {x.name: getattr(scenario, x.name) for x in dataclasses.fields(Scenario)}
    assert len(scenario.limits) == 2
    defaults = {
        "roles": ("prefill", "decode"),
        "bytes_per_token": ((seconds_per_token,) * 2,) * 2,
        "setup_s": ((setup_s,) * 2,) * 2,
        "path": (((0,),) * 2,) * 2,
        "capacity": (1.0,),
    }
    return TwoLegs(**(given | defaults | changes))
