"""Clusters and workloads for both simulators: the engine's arrays and the reference's objects, from one description."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from simjax.cluster.routers import ROUTERS, CostWeights
from simjax.engine.host.lowering.requests import opening_times, prefix_params, session_params
from simjax.engine.host.result import Result
from simjax.engine.params import ClusterParams, RankParams, RequestParams, RouterParams
from simjax.engine.shape import EngineShape, cap_bucket
from simjax.engine.simulate import simulate
from simjax.latency.attention.coefficients import AttentionCoefficients
from simjax.latency.step_time import StepTime
from simjax.workload.contents.radix import from_blocks
from simjax.workload.contents.tree import finish
from simjax.workload.models import RequestModels
from simjax.workload.sessions import from_waits
from simjax.workload.workload import Workload
from tests.reference import instance as reference_instance
from tests.reference import simulator as reference

RouterPolicy = IntEnum("RouterPolicy", [name.upper() for name in ROUTERS], start=0)
MAX_TOKENS, MAX_SEQUENCES = 64, 16
SHAPE = EngineShape(requests=32, slots=24, ranks=1, window=4, log_rows=256)
NODES, ENTRIES, PATH, FANOUT = 128, 2048, 32, 32  # of scenarios with contents and with sessions
CLIENTS = 8  # of scenarios with a closed loop or a cap


@dataclass(frozen=True)
class Limits:
    """One engine; field names as in `RankParams`."""

    num_blocks: int = 64
    block_size: int = 4
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 32
    long_prefill_token_threshold: int = 0
    max_model_len: int = 10_000
    enable_chunked_prefill: bool = True
    reserve_full_isl: bool = True
    async_scheduling: bool = True
    enable_prefix_caching: bool = False
    long_prefill_alone: bool = False
    reserve_kv_loads: bool = False
    reuse_nameless_first: bool = False
    count_failed_lookups: bool = True  # a count of the reference only
    watermark_blocks: int = 0
    api_pre_s: float = 0.0
    api_post_s: float = 0.0


@dataclass(frozen=True)
class Timing:
    """A step cost with irregular numbers, so that two different schedules never take the same time."""

    tokens_s: np.ndarray
    sequences_s: np.ndarray
    decode_s: tuple[float, float, float] = (3e-3, 2e-4, 1.3e-5)  # floor, per sequence, per KV token
    mixed_s: tuple[float, float] = (5e-3, 4e-5)  # floor, per KV token of the decodes

    @staticmethod
    def drawn(seed: int, max_tokens: int = MAX_TOKENS, max_sequences: int = MAX_SEQUENCES) -> Timing:
        rng = np.random.default_rng(seed)
        grow = lambda n, scale: np.concatenate([[0.0], np.cumsum(rng.uniform(0.2, 1.0, n)) * scale])
        return Timing(grow(max_tokens, 1.1e-3), grow(max_sequences, 3.1e-4))

    def step_time(self, batch: list[tuple[int, int]]) -> float:
        """The price of a step, in plain Python for the reference: (new, computed) of every request in it."""
        contexts = [computed for new, computed in batch if new == 1]
        seconds = self.tokens_s[sum(new for new, _ in batch)] + self.sequences_s[len(batch)]
        if len(contexts) == len(batch):
            floor, per_sequence, per_token = self.decode_s
            return float(seconds + floor + per_sequence * len(batch) + per_token * sum(contexts))
        return float(seconds + self.mixed_s[0] + self.mixed_s[1] * sum(contexts))

    def step_time_table(self, send_s: np.ndarray | None = None) -> StepTime:
        coefficients = {f.name: np.zeros(1) for f in dataclasses.fields(AttentionCoefficients)}
        names = ("decode_floor_s", "decode_sequence_s", "decode_kv_s", "mixed_floor_s", "mixed_kv_s")
        coefficients |= {name: np.array([value]) for name, value in zip(names, self.decode_s + self.mixed_s, strict=True)}
        return StepTime(self.tokens_s[None], self.sequences_s[None], np.zeros(1), AttentionCoefficients(**coefficients), send_s=send_s)


@dataclass(frozen=True)
class Scenario:
    """A cluster, its router and its workload.

    `contents` are token ids of prompt and output; `waits` the calls that each request waits for, with the pauses; `session` its session;
    `not_before_s` the recorded arrivals of those that wait, 0 for none. `models` are those of the engines and of the requests, -1 for any.
    """

    limits: tuple[Limits, ...]
    arrival_s: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    router: RouterPolicy = RouterPolicy.ROUND_ROBIN
    concurrency: int = 0
    think_s: float = 0.0
    max_concurrency: int = 0
    ramp_s: float = 0.0
    timing: Timing = field(default_factory=lambda: Timing.drawn(0))
    contents: tuple[np.ndarray, ...] | None = None
    waits: tuple[tuple[tuple[int, float], ...], ...] | None = None
    session: np.ndarray | None = None
    not_before_s: np.ndarray | None = None
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    staleness_s: float = 0.0
    costs: CostWeights = field(default_factory=CostWeights)
    models: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def named(self) -> RequestModels:
        """The models of the requests."""
        assert self.models is not None
        return RequestModels(("0", "1"), self.models[1])

    @property
    def caching(self) -> bool:
        return any(limits.enable_prefix_caching for limits in self.limits)

    @property
    def draws(self) -> np.ndarray:
        return np.random.default_rng(7).random(len(self.prompt))

    def shape(self, **changes) -> EngineShape:
        """As few different ones as possible, for each is a program to compile."""
        sharing = len(self.limits) > 1 and self.contents is not None
        looks = len(self.limits) > 1 and ROUTERS[self.router.name.lower()].looks
        capped = self.max_concurrency > 0
        live = sharing or looks or self.concurrency > 0 or capped or self.waits is not None
        clients = cap_bucket(self.max_concurrency) if capped else max(CLIENTS, self.concurrency) if self.concurrency else 0
        sized = dataclasses.replace(SHAPE, ranks=len(self.limits), clients=clients, capped=capped, live_routing=live)
        if self.caching:
            sized = dataclasses.replace(sized, window=2, prefix_nodes=NODES, prefix_path=PATH)
        if self.waits is not None:
            sized = dataclasses.replace(sized, fanout=FANOUT)
        sized = dataclasses.replace(sized, models=self.models is not None)
        sized = dataclasses.replace(sized, stale_view=sharing or (looks and self.staleness_s > 0))
        # Books are for routers that compare, and one program for those that look. Closed loops and caps, which are not drawn with the
        # former, go without.
        rule, looping = ROUTERS[self.router.name.lower()], self.concurrency > 0 or capped
        compares = len(self.limits) > 1 and (rule.compares or (rule.looks and not looping))
        sized = dataclasses.replace(sized, router_books=sharing or compares)
        return dataclasses.replace(sized, **changes)

    def workload(self) -> Workload:
        """The requests with what they share and who waits for whom."""
        total, sessions, prefixes = self.prompt + self.output, None, None
        arrival_s = self.arrival_s.astype(float)
        if self.waits is not None:
            edges = [(before, after, delay_s) for after, calls in enumerate(self.waits) for before, delay_s in calls]
            assert self.session is not None
            names = tuple(map(str, range(int(self.session.max()) + 1)))
            before, after, delay_s = (np.array(x) for x in zip(*edges, strict=True)) if edges else np.zeros((3, 0), int)
            turn = np.array([int(np.sum(self.session[:r] == of)) for r, of in enumerate(self.session)], np.int32)
            sessions = from_waits(self.session.astype(np.int32), names, turn, before, after, delay_s).validate()
            recorded_s = np.zeros(len(arrival_s)) if self.not_before_s is None else self.not_before_s
            arrival_s = np.where(sessions.predecessors > 0, np.where(recorded_s > 0, recorded_s, np.inf), arrival_s)
        if self.contents is not None:
            prefixes = finish(from_blocks(self.contents, 1, total, total), self.prompt, sessions).validate(total)
        cap = {"max_concurrency": self.max_concurrency, "ramp_s": self.ramp_s}
        return Workload(arrival_s, self.prompt, self.output, prefixes=prefixes, sessions=sessions, **cap)

    def params(self) -> ClusterParams:
        shape = self.shape()
        larger = shape.requests // SHAPE.requests  # than most scenarios, so are the tables

        def padded(values: np.ndarray, fill: float, dtype: type) -> np.ndarray:
            return np.concatenate([values, np.full(shape.requests - len(values), fill)]).astype(dtype)[None]

        names = [f.name for f in dataclasses.fields(Limits) if f.name in RankParams.__dataclass_fields__]
        columns = {name: [getattr(limits, name) for limits in self.limits] for name in names}
        of = {f.name: type(f.default) for f in dataclasses.fields(Limits)}
        dtype = lambda name: {float: np.float64, bool: bool, int: np.int32}[of[name]]
        instances = RankParams(
            **{name: np.array(values, dtype(name)) for name, values in columns.items()},
            slots=np.full(len(self.limits), shape.slots, np.int32),
            step_time=np.zeros(len(self.limits), np.int32),
            model=None if self.models is None else self.models[0].astype(np.int32),
        )
        workload = self.workload()
        arrival_s = workload.arrival_s
        if self.concurrency:
            arrival_s = np.where(np.arange(len(arrival_s)) < self.concurrency, arrival_s, np.inf)
        requests = RequestParams(
            arrival_s=padded(arrival_s, np.inf, np.float64),
            prompt_tokens=padded(self.prompt, 1, np.int32),
            output_tokens=padded(self.output, 1, np.int32),
            router_draw=padded(self.draws, 0.0, np.float64),
            count=np.array([len(self.prompt)], np.int32),
            think_s=np.array([self.think_s]),
            open_s=opening_times([workload]) if self.max_concurrency else None,
            prefix=_widened(prefix_params([workload], shape.requests), NODES * larger, ENTRIES * larger) if self.caching else None,
            sessions=_widened(session_params([workload], shape.requests), 0, 256 * larger) if self.waits is not None else None,
            model=None if self.models is None else padded(self.models[1], -1, np.int32),
            model_turn=None if self.models is None else padded(self.named.turn, 0, np.int32),
        )
        return ClusterParams(
            ranks=instances,
            router=RouterParams.of(self.router.name.lower(), self.weights, self.staleness_s, self.costs),
            requests=requests,
            workload=np.int32(0),
            step_time=self.timing.step_time_table(),
        )

    def run(self, **changes) -> Result:
        return simulate(self.shape(**changes), self.params())

    def run_reference(self, **more) -> reference.RefResult:
        prefix_weight, queue_weight, kv_weight = self.weights
        return reference.simulate(
            self.reference_instances(),
            self.reference_requests(),
            self.router.name.lower(),
            self.concurrency or None,
            self.think_s,
            prefix_weight=prefix_weight,
            queue_weight=queue_weight,
            kv_weight=kv_weight,
            router_staleness_s=self.staleness_s,
            max_concurrency=self.max_concurrency or None,
            ramp_s=self.ramp_s,
            **dataclasses.asdict(self.costs),
            **more,
        )

    def reference_cluster(self) -> reference.Cluster:
        """The reference before its first event."""
        router = reference.RefRouter(self.router.name.lower(), *self.weights, self.staleness_s, **dataclasses.asdict(self.costs))
        return reference.Cluster(self.reference_instances(), self.reference_requests(), router, self.concurrency or None, self.think_s)

    def reference_instances(self) -> list[reference_instance.RefInstance]:
        models = [0] * len(self.limits) if self.models is None else self.models[0].tolist()
        return [
            reference_instance.RefInstance(**dataclasses.asdict(limits), step_time=self.timing.step_time, model=model)
            for limits, model in zip(self.limits, models, strict=True)
        ]

    def reference_requests(self) -> list[reference.RefRequest]:
        n = len(self.prompt)
        contents = [None] * n if self.contents is None else [tuple(content.tolist()) for content in self.contents]
        waits = [()] * n if self.waits is None else self.waits
        session = [-1] * n if self.session is None else self.session.tolist()
        recorded_s = [0.0] * n if self.not_before_s is None else self.not_before_s.tolist()
        lengths = (self.prompt.tolist(), self.output.tolist())
        model = [-1] * n if self.models is None else self.models[1].tolist()
        columns = (self.arrival_s.tolist(), *lengths, self.draws.tolist(), contents, waits, session, recorded_s, model)
        return [reference.RefRequest(*row) for row in zip(*columns, strict=True)]


def _widened(tables, nodes: int, entries: int):
    """The tables of one workload at the sizes that all scenarios share."""
    widths = {"start_tokens": nodes, "end_tokens": nodes, "nodes": entries, "then": entries, "delay_s": entries}
    pad = lambda name, x: np.pad(x, ((0, 0), (0, max(widths.get(name, 0) - x.shape[1], 0))))
    return type(tables)(**{f.name: pad(f.name, getattr(tables, f.name)) for f in dataclasses.fields(tables)})
