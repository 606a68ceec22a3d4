"""Clusters and workloads for both simulators: the engine's arrays and the reference's objects, from one description."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from simjax.engine.params import ClusterParams, InstanceParams, RequestParams, RouterPolicy
from simjax.engine.result import Result
from simjax.engine.shape import EngineShape
from simjax.engine.simulate import simulate
from simjax.latency.attention import AttentionCoefficients
from simjax.latency.cost import StepCost
from tests.reference import instance as reference_instance
from tests.reference import simulator as reference

MAX_TOKENS, MAX_SEQUENCES = 64, 16
SHAPE = EngineShape(requests=32, slots=24, instances=1, window=4, log_rows=256)


@dataclass(frozen=True)
class Limits:
    """One engine; field names as in `InstanceParams`."""

    num_blocks: int = 64
    block_size: int = 4
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 32
    long_prefill_token_threshold: int = 0
    max_model_len: int = 10_000
    enable_chunked_prefill: bool = True
    reserve_full_isl: bool = True
    async_scheduling: bool = True
    api_pre_s: float = 0.0
    api_post_s: float = 0.0


@dataclass(frozen=True)
class Price:
    """A step cost with irregular numbers, so that two different schedules never take the same time."""

    tokens_s: np.ndarray
    sequences_s: np.ndarray
    decode_s: tuple[float, float, float] = (3e-3, 2e-4, 1.3e-5)  # floor, per sequence, per KV token
    mixed_s: tuple[float, float] = (5e-3, 4e-5)  # floor, per KV token of the decodes

    @staticmethod
    def drawn(seed: int) -> Price:
        rng = np.random.default_rng(seed)
        grow = lambda n, scale: np.concatenate([[0.0], np.cumsum(rng.uniform(0.2, 1.0, n)) * scale])  # noqa: E731
        return Price(grow(MAX_TOKENS, 1.1e-3), grow(MAX_SEQUENCES, 3.1e-4))

    def step_time(self, batch: list[tuple[int, int]]) -> float:
        """The price of a step, in plain Python for the reference: (new, computed) of every request in it."""
        contexts = [computed for new, computed in batch if new == 1]
        seconds = self.tokens_s[sum(new for new, _ in batch)] + self.sequences_s[len(batch)]
        if len(contexts) == len(batch):
            floor, per_sequence, per_token = self.decode_s
            return float(seconds + floor + per_sequence * len(batch) + per_token * sum(contexts))
        return float(seconds + self.mixed_s[0] + self.mixed_s[1] * sum(contexts))

    def cost(self) -> StepCost:
        coefficients = {f.name: np.zeros(1) for f in dataclasses.fields(AttentionCoefficients)}
        names = ("decode_floor_s", "decode_sequence_s", "decode_kv_s", "mixed_floor_s", "mixed_kv_s")
        coefficients |= {name: np.array([value]) for name, value in zip(names, self.decode_s + self.mixed_s, strict=True)}
        return StepCost(self.tokens_s[None], self.sequences_s[None], np.zeros(1), AttentionCoefficients(**coefficients))


@dataclass(frozen=True)
class Scenario:
    """A cluster, its router and its workload."""

    limits: tuple[Limits, ...]
    arrival_s: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    router: RouterPolicy = RouterPolicy.ROUND_ROBIN
    concurrency: int = 0
    think_s: float = 0.0
    price: Price = field(default_factory=lambda: Price.drawn(0))

    @property
    def draws(self) -> np.ndarray:
        return np.random.default_rng(7).random(len(self.prompt))

    def shape(self, **changes) -> EngineShape:
        looks = len(self.limits) > 1 and self.router in (RouterPolicy.LEAST_LOADED, RouterPolicy.LEAST_KV)
        live = looks or self.concurrency > 0
        sized = dataclasses.replace(SHAPE, instances=len(self.limits), clients=self.concurrency, live_routing=live)
        return dataclasses.replace(sized, **changes)

    def params(self) -> ClusterParams:
        def padded(values: np.ndarray, fill: float, dtype: type) -> np.ndarray:
            return np.concatenate([values, np.full(SHAPE.requests - len(values), fill)]).astype(dtype)[None]

        columns = {name: [getattr(limits, name) for limits in self.limits] for name in (f.name for f in dataclasses.fields(Limits))}
        flags = {"enable_chunked_prefill", "reserve_full_isl", "async_scheduling"}
        dtype = lambda name: np.float64 if name.endswith("_s") else bool if name in flags else np.int32  # noqa: E731
        instances = InstanceParams(
            **{name: np.array(values, dtype(name)) for name, values in columns.items()},
            slots=np.full(len(self.limits), SHAPE.slots, np.int32),
            cost=np.zeros(len(self.limits), np.int32),
        )
        arrival_s = self.arrival_s.astype(float)
        if self.concurrency:
            arrival_s = np.where(np.arange(len(arrival_s)) < self.concurrency, arrival_s, np.inf)
        requests = RequestParams(
            arrival_s=padded(arrival_s, np.inf, np.float64),
            prompt_tokens=padded(self.prompt, 1, np.int32),
            output_tokens=padded(self.output, 1, np.int32),
            router_draw=padded(self.draws, 0.0, np.float64),
            count=np.array([len(self.prompt)], np.int32),
            think_s=np.array([self.think_s]),
        )
        return ClusterParams(
            instances=instances,
            num_instances=np.int32(len(self.limits)),
            router=np.int32(self.router),
            requests=requests,
            workload=np.int32(0),
            cost=self.price.cost(),
        )

    def run(self, **changes) -> Result:
        return simulate(self.shape(**changes), self.params())

    def run_reference(self) -> reference.RefResult:
        instances = [reference_instance.RefInstance(**dataclasses.asdict(limits), step_time=self.price.step_time) for limits in self.limits]
        rows = zip(self.arrival_s.tolist(), self.prompt.tolist(), self.output.tolist(), self.draws.tolist(), strict=True)
        return reference.simulate(
            instances, [reference.RefRequest(*row) for row in rows], self.router.name.lower(), self.concurrency or None, self.think_s
        )
