"""Scenarios of ranks with pp stages, for the engine and for the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from hypothesis import strategies as st

from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from tests.engine.scenario import MAX_TOKENS, Scenario, Timing
from tests.engine.strategies import SMALL, scenarios
from tests.reference.instance import RefInstance
from tests.reference.pipeline import RefPipeline

MOST_STAGES = 3
SLOTS = 48  # preempted requests that are overtaken keep their slots


@dataclass(frozen=True)
class Pipelined(Scenario):
    """`stages` of each engine; every stage has a price of its own, and the way to the next takes `send_s` and as much for each token.

    `own` are step times of the stages instead of drawn ones.
    """

    stages: tuple[int, ...] = (2,)
    send_s: tuple[float, float] = (7e-4, 3e-5)
    broadcast_s: float = 0.0
    empty_pass_s: float = 0.0
    seed: int = 0
    own: tuple[Timing, ...] = ()

    @property
    def timings(self) -> list[Timing]:
        """Step times of the stages, each somewhat longer or shorter than the others."""
        if self.own:
            return [*self.own, *self.own[-1:] * (MOST_STAGES - len(self.own))]
        drawn = [Timing.drawn(self.seed + stage) for stage in range(MOST_STAGES)]
        return [dataclasses.replace(x, decode_s=(3e-3 + 7e-4 * stage, 2e-4, 1.3e-5)) for stage, x in enumerate(drawn)]

    def shape(self, **changes) -> EngineShape:
        return super().shape(**{"pipeline_stages": MOST_STAGES, "slots": SLOTS, "leap": False, **changes})

    def params(self) -> ClusterParams:
        params, N = super().params(), len(self.limits)
        first, each = self.send_s
        send_s = (first + each * np.arange(MAX_TOKENS + 1))[None]
        step_time = jax.tree.map(lambda *rows: np.concatenate(rows), *(x.step_time_table(send_s) for x in self.timings))
        pipeline = {
            "pipeline_stages": np.array(self.stages, np.int32),
            "broadcast_s": np.full(N, self.broadcast_s),
            "empty_pass_s": np.full(N, self.empty_pass_s),
        }
        return dataclasses.replace(params, ranks=dataclasses.replace(params.ranks, **pipeline), step_time=step_time)

    def stage_time(self, timing: Timing) -> Callable[[list], float]:
        """The seconds that a stage of such times takes for the requests of a batch."""
        return timing.step_time

    def reference_instances(self) -> list[RefInstance]:
        first, each = self.send_s
        return [
            dataclasses.replace(
                instance,
                pipeline=RefPipeline(
                    tuple(map(self.stage_time, self.timings[:stages])),
                    lambda tokens: first + each * tokens,
                    self.broadcast_s,
                    self.empty_pass_s,
                ),
            )
            for instance, stages in zip(super().reference_instances(), self.stages, strict=True)
        ]


def as_pipelined(scenario: Scenario, stages: tuple[int, ...]) -> Pipelined:
    """The scenario with its engines spread over stages."""
    return Pipelined(**{x.name: getattr(scenario, x.name) for x in dataclasses.fields(scenario)}, stages=stages)


@st.composite
def pipelined(draw: st.DrawFn, instances: int = 1, closed: bool = False, capped: bool = False) -> Pipelined:
    """Scenarios with 1 to 3 stages, the pool tight in many; requests that no engine could ever schedule are not among them."""
    sizes = dataclasses.replace(SMALL, scenario=Pipelined)
    drawn = draw(scenarios(instances=instances, closed=closed, capped=capped, sizes=sizes))
    return dataclasses.replace(
        drawn,
        stages=tuple(draw(st.sampled_from([2, 2, 3, 3, 1])) for _ in range(instances)),
        send_s=draw(st.sampled_from([(0.0, 0.0), (7e-4, 3e-5)])),
        broadcast_s=draw(st.sampled_from([0.0, 4e-4])),
        empty_pass_s=draw(st.sampled_from([0.0, 0.0, 1e-3, 7e-3])),
        seed=draw(st.integers(0, 2**16)),
    )
