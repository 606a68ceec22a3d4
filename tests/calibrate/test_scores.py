"""Comparisons of a part of a run."""

from dataclasses import replace

import numpy as np
import pytest

from simjax.calibrate.scores import poor, scored
from simjax.validate.compare import compare
from simjax.validate.run import MeasuredRun
from tests.calibrate.runs import measured, poisson
from tests.validate.samples import answer


@pytest.fixture(scope="module")
def run() -> MeasuredRun:
    return measured(poisson(12.0, 100), {})


def test_a_part_of_the_requests(run: MeasuredRun) -> None:
    # The first half of the "simulation" is right, the second is 20 % slow.
    right, slow = answer(run), answer(run, 1.2)
    late = np.arange(len(run)) >= 50
    log = replace(
        right.requests,
        first_token_s=np.where(late, slow.requests.first_token_s, right.requests.first_token_s),
        finish_s=np.where(late, slow.requests.finish_s, right.requests.finish_s),
    )
    result = replace(right, requests=log)
    first, second = scored(run, result, slice(0, 50)), scored(run, result, slice(50, None))
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        assert first[metric]["mean"]["error_pct"] == pytest.approx(0.0, abs=1e-6)
        assert second[metric]["mean"]["error_pct"] == pytest.approx(20.0)
    assert first["ttft_s"]["mean"]["measured"] == pytest.approx(run.ttft_s[:50].mean())
    assert second["requests"] == {"measured": 50, "finished": 50, "failed": 0, "failed_replayed": 0}
    assert scored(run, result) == compare(run, result)


@pytest.mark.parametrize(("stretch", "reasons"), [(1.02, []), (1.05, ["TPOT", "E2E"]), (0.8, ["TTFT", "TPOT", "E2E"])])
def test_what_is_poor(run: MeasuredRun, stretch: float, reasons: list[str]) -> None:
    said = poor(scored(run, answer(run, stretch)))
    assert [line.split()[1] for line in said] == reasons
    assert all(f"{100 * (stretch - 1):+.1f} %" in line for line in said)
