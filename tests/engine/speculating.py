"""Scenarios of ranks that decode speculatively, for the engine and for the reference."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from simjax.engine.params import ClusterParams, SpeculationParams
from simjax.engine.shape import EngineShape
from tests.engine.scenario import Scenario, Timing
from tests.engine.strategies import SMALL, scenarios
from tests.reference.instance import RefInstance
from tests.reference.speculation import RefSpeculation

MOST_DRAFTS = 5


@dataclass(frozen=True)
class Speculating(Scenario):
    """`drafts` and `lookahead` of each engine; all of them have the same acceptance rates, and the rules `pads` and `reuse`."""

    drafts: tuple[int, ...] = (2,)
    lookahead: tuple[int, ...] = (2,)
    rates: tuple[float, ...] = (0.8, 0.6, 0.4, 0.3, 0.2)
    seed: int = 0
    pads: bool = False
    reuse: str = "all"

    def shape(self, **changes) -> EngineShape:
        return super().shape(**{"speculation": MOST_DRAFTS, **changes})

    def params(self) -> ClusterParams:
        speculation = SpeculationParams(
            num_speculative_tokens=np.array(self.drafts, np.int32),
            num_lookahead_tokens=np.array(self.lookahead, np.int32),
            rates=np.array([self.rates] * len(self.limits)),
            seed=np.int32(self.seed),
            pads=np.full(len(self.limits), self.pads),
            drops_last=np.full(len(self.limits), self.reuse == "last"),
        )
        params = dataclasses.replace(super().params(), speculation=speculation)
        if not self.caching:
            return params
        ahead = np.full(len(self.limits), self.reuse == "next_token", np.int32)
        return dataclasses.replace(params, ranks=dataclasses.replace(params.ranks, names_ahead=ahead))

    def step_time(self, batch: list[tuple[int, int, bool]]) -> float:
        """Seconds of a step."""
        return verified_s(self.timing, batch)

    def reference_instances(self) -> list[RefInstance]:
        return [
            dataclasses.replace(
                instance, speculation=RefSpeculation(drafts, self.rates, lookahead, self.step_time, self.seed, self.pads, self.reuse)
            )
            for instance, drafts, lookahead in zip(super().reference_instances(), self.drafts, self.lookahead, strict=True)
        ]


def verified_s(timing: Timing, batch: list[tuple[int, int, bool]]) -> float:
    """Seconds of a step: requests that verify drafts have the attention of decodes, and all their tokens are rows."""
    seconds = timing.step_time([(1 if decoding else new, computed) for new, computed, decoding in batch])
    rows, alone = sum(new for new, _, _ in batch), sum(1 if decoding else new for new, _, decoding in batch)
    return seconds + float(timing.tokens_s[rows] - timing.tokens_s[alone])


def as_speculating(scenario: Scenario, **changes) -> Speculating:
    """The scenario with drafts."""
    return Speculating(**{x.name: getattr(scenario, x.name) for x in dataclasses.fields(scenario)}, **changes)


@st.composite
def speculating(draw: st.DrawFn, instances: int = 1, closed: bool = False, capped: bool = False) -> Speculating:
    """Scenarios with 0 to 5 drafts, the pool tight in many; requests that no engine could ever end are not among them."""
    sizes = dataclasses.replace(SMALL, scenario=Speculating)
    drawn = draw(scenarios(instances=instances, closed=closed, capped=capped, sizes=sizes))
    drafts = tuple(draw(st.integers(0, MOST_DRAFTS)) for _ in range(instances))
    rates = np.sort(draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]), min_size=MOST_DRAFTS, max_size=MOST_DRAFTS)))[::-1]
    drawn = dataclasses.replace(
        drawn,
        drafts=drafts,
        lookahead=tuple(draw(st.sampled_from([0, k])) for k in drafts),
        rates=tuple(rates.tolist()),
        seed=draw(st.integers(0, 2**16)),
        pads=draw(st.booleans()),
    )
    return servable(drawn)


def servable(drawn: Speculating) -> Speculating:
    """The scenario without the requests that no engine could ever end."""
    each = list(zip(drawn.prompt.tolist(), drawn.output.tolist(), strict=True))
    served = [any(x.serves(prompt, output) for x in drawn.reference_instances()) for prompt, output in each]
    assume(any(served))
    kept = np.flatnonzero(served)
    lengths = {name: getattr(drawn, name)[kept] for name in ("arrival_s", "prompt", "output")}
    return dataclasses.replace(drawn, **lengths, concurrency=min(drawn.concurrency, len(kept)))
