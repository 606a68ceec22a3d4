"""Figure 5 of LLMServingSim 2.0, a measured prefill/decode split, as experiments/validation scores it; skips without the recording."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from simjax.workload.formats.read import read_trace
from tests.data import data_path

FOLDER = Path(__file__).parents[2] / "experiments" / "validation"


@pytest.fixture(scope="module")
def scripts() -> Iterator[ModuleType]:
    data_path("ispass26/figure_5/A6000/PDD_throughput.tsv")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("figure5")


@pytest.fixture(scope="module")
def best(scripts: ModuleType) -> Any:
    return scripts.simulated(scripts.BEST)


def test_bursts_are_those_that_the_client_sent(scripts: ModuleType):
    """Prompt and output tokens of each burst of figure 6 by vLLM's log: 11, 10 and 9 requests, where the trace has three times 10."""
    a6000 = importlib.import_module("a6000")
    run = a6000.LOGGED[0]
    log, trace = pd.read_csv(run.log), read_trace(run.trace).workload

    def bursts(t_s: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return np.array([part.sum() for part in np.split(tokens, np.flatnonzero(np.diff(t_s) > 30.0) + 1)])

    for column, of in (("prompt_tok_per_s", "prompt_tokens"), ("gen_tok_per_s", "output_tokens")):
        measured = bursts(log.t_s.to_numpy(), log[column].to_numpy())
        as_sent, as_traced = (bursts(w.arrival_s, getattr(w, of)) for w in (a6000.as_sent(trace), trace))
        assert as_sent == pytest.approx(measured, rel=3e-3)  # rates are rounded, and seconds of the log are a little longer
        assert as_traced != pytest.approx(measured, rel=1e-2)


def test_makespan_and_throughput_follow_the_log(scripts: ModuleType, best: Any):
    """Targets: within 1.5 % and below 3 %."""
    row = scripts.compared("best", best, scripts.Measured.read())
    assert abs(row["makespan, %"]) < 1.5 and row["throughput, WAPE, %"] < 3.0, row


def test_all_tokens_are_made_on_the_decode_instance(scripts: ModuleType, best: Any):
    """The log holds all output tokens of the trace, first ones too; seconds of the log are a little longer than a second."""
    measured, output = scripts.Measured.read().tokens, best.result.requests.output_tokens.sum()
    assert scripts.tokens_per_second(best.result, 60).sum() == output
    assert measured.sum() == pytest.approx(output, rel=5e-4) and measured.sum() > output - len(best.result.requests.output_tokens) / 2


def test_only_the_parts_named_are_estimated(scripts: ModuleType):
    def tables(*parts: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        with scripts.step_times(scripts.Source("", estimated=parts)) as (option,):
            folder = Path(option.partition("=")[2]).joinpath(*scripts.NAMES, "bf16", "tp1")
            return pd.read_csv(folder / "dense.csv").set_index(["layer", "tokens"]), pd.read_csv(folder / "attention.csv")

    (measured, attention), (estimated, kept) = tables(), tables("elementwise")
    assert attention.equals(kept)
    ratio = (estimated.time_us / measured.time_us).xs(100, level="tokens")
    assert (ratio[["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]] == 1.0).all()
    assert (ratio[["layernorm", "rotary_emb"]] < 0.5).all()
    (matrices, other) = tables("attention")
    assert matrices.equals(measured) and not other.equals(attention)
