"""The soak compares what it says, and a mismatch comes with the command that repeats it."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

import tests.soak
from tests.engine.scenario import Scenario
from tests.soak import kinds, main, soak


def test_a_round_of_small_scenarios(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"one": kinds()["one"]._replace(examples=5)}
    monkeypatch.setattr(tests.soak, "kinds", lambda: few)
    assert main(["--seed", "3", "--rounds", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "seed 3"
    assert "2 rounds: 10 scenarios" in said[-1] and said[-1].endswith("0 rounds failed")


def test_a_mismatch_can_be_repeated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(scenario: Scenario, mode: str) -> None:
        assert len(scenario.prompt) < 4, "too many requests for this engine"

    monkeypatch.setattr(tests.soak, "check", wrong)
    assert main(["--seed", "3", "--rounds", "2", "--kind", "one"]) == 1
    said = capsys.readouterr().out
    assert "too many requests for this engine" in said and "compare(" in said and "prompt=array(" in said
    commands = [line.removeprefix("to repeat it: ") for line in said.splitlines() if line.startswith("to repeat it: ")]
    assert len(set(commands)) == 2, "each round has a seed of its own"
    _, _, program, *words = shlex.split(commands[0])
    assert program == "tests.soak"
    assert main(words) == 1
    again = capsys.readouterr().out
    example = lambda text: text[text.index("compare(") : text.index("to repeat it")]
    assert example(again) == example(said)


def test_wide_scenarios_are_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Scenario] = []
    monkeypatch.setattr(tests.soak, "check", lambda scenario, mode: seen.append(scenario))
    assert soak(1.0, 0, ["wide_three", "wide_sessions_on_three"], 4, lambda line: None) == []
    assert max(len(scenario.prompt) for scenario in seen) > 60 and max(scenario.prompt.max() for scenario in seen) > 200
    for scenario in seen:
        params, shape = scenario.params(), scenario.shape()
        assert params.requests.arrival_s.shape == (1, shape.requests)
        assert shape.slots >= max(x.max_num_seqs for x in scenario.limits)
        if scenario.caching:
            assert params.requests.prefix is not None
            assert params.requests.prefix.start_tokens.shape == (1, shape.prefix_nodes)
            assert np.max(params.requests.prefix.length) <= shape.prefix_path
        if scenario.waits is not None:
            assert params.requests.sessions is not None
            assert np.max(params.requests.sessions.count) <= shape.fanout
    assert len({scenario.shape() for scenario in seen}) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds())
def test_many_more_scenarios_of_every_kind(kind: str) -> None:
    said: list[str] = []
    assert soak(60.0, 20, [kind], 2 if kind.startswith("wide") else 5, said.append) == [], "\n".join(said)
