"""Schedules that vLLM's own scheduler made, recorded by `experiments/vllm_scheduler/record.py`, as scenarios for both simulators."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.engine.pipelined import Pipelined
from tests.engine.prioritized import Prioritized
from tests.engine.scenario import MAX_SEQUENCES, MAX_TOKENS, Limits, Scenario, Timing
from tests.engine.speculating import Speculating

FILE = Path(__file__).with_suffix(".json")
CLASSES: dict[str, type[Scenario]] = {"plain": Scenario, "priority": Prioritized, "speculation": Speculating, "pipeline": Pipelined}
ARRAYS = ("arrival_s", "prompt", "output", "priority")
OWN = {
    "priority": ("priority", "policies", "rules"),
    "speculation": ("drafts", "lookahead", "rates", "seed"),
    "pipeline": ("stages", "send_s", "broadcast_s", "empty_pass_s", "own"),
}
"""Fields that a kind has in addition to limits, requests and step times."""


def linear(token_s: float, sequence_s: float, decode_s: list[float], mixed_s: list[float]) -> Timing:
    """Step times that grow with tokens and sequences."""
    tables = (token_s * np.arange(MAX_TOKENS + 1), sequence_s * np.arange(MAX_SEQUENCES + 1))
    return Timing(*tables, (decode_s[0], decode_s[1], decode_s[2]), (mixed_s[0], mixed_s[1]))


@dataclass(frozen=True)
class Recorded:
    """A scenario and what vLLM did.

    `steps`: the tokens of each step by request. `first_token_s`, `finish_s` and `preemptions` are over the requests.
    """

    vllm: str
    kind: str
    scenario: Scenario
    steps: list[dict[int, int]]
    first_token_s: list[float]
    finish_s: list[float]
    preemptions: list[int]

    @staticmethod
    def of(row: dict[str, Any]) -> Recorded:
        """From a row of the file."""
        kind, given = row["kind"], row["scenario"]
        fields = {
            name: np.array(given[name]) if name in ARRAYS else _tuples(given[name]) for name in given if name not in ("limits", "times")
        }
        times = [linear(**x) for x in given["times"]]
        if kind == "pipeline":
            fields["own"] = tuple(times)
        scenario = CLASSES[kind](limits=(Limits(**given["limits"]),), timing=times[0], **fields)
        steps = [{int(request): tokens for request, tokens in step.items()} for step in row["steps"]]
        rest = {name: row[name] for name in ("vllm", "kind", "first_token_s", "finish_s", "preemptions")}
        return Recorded(scenario=scenario, steps=steps, **rest)


def as_row(scenario: Scenario, kind: str, times: list[dict[str, Any]]) -> dict[str, Any]:
    """The scenario as it stands in the file."""
    plain = {x.name: x.default for x in dataclasses.fields(Limits)}
    limits = {name: value for name, value in dataclasses.asdict(scenario.limits[0]).items() if value != plain[name]}
    names = ("arrival_s", "prompt", "output", *(name for name in OWN.get(kind, ()) if name != "own"))
    values = {name: getattr(scenario, name) for name in names}
    return {"limits": limits, "times": times, **{name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in values.items()}}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def recorded() -> list[Recorded]:
    """All schedules of the file."""
    return [Recorded.of(row) for row in json.loads(FILE.read_text())]
