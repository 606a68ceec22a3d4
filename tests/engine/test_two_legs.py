"""Prefill and decode ranks: the engine against the pure-Python reference simulator, every time of every request to 1e-9."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simjax.engine.host.result import Result, Status
from tests.engine.strategies import scenarios
from tests.engine.two_legs import TwoLegs, two_legs
from tests.reference.simulator import RefResult

RTOL = 1e-9
MODE = st.sampled_from(["leap", "step"])
LIMITED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEWER = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assert_same(ours: Result, theirs: RefResult) -> None:
    """Hold requests and hand-overs against each other."""
    assert ours.status == Status.FINISHED and ours.handovers is not None

    def column(name: str, absent: float) -> np.ndarray:
        values = [getattr(request, name) for request in theirs.requests]
        return np.array([absent if x is None else x for x in values], float)

    for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_allclose(getattr(ours.requests, name), column(name, np.inf), rtol=RTOL, err_msg=name)
    for name in ("instance", "preemptions", "cached_tokens"):
        np.testing.assert_array_equal(getattr(ours.requests, name), column(name, -1), err_msg=name)
    np.testing.assert_array_equal(ours.handovers.prefill_instance, column("prefill_instance", -1))
    two = ours.handovers.prefill_instance >= 0
    for name in ("prefill_scheduled_s", "prefill_finish_s", "transfer_start_s", "transfer_end_s", "decode_scheduled_s"):
        np.testing.assert_allclose(getattr(ours.handovers, name)[two], column(name, np.inf)[two], rtol=RTOL, err_msg=name)
    np.testing.assert_allclose(ours.handovers.transfer_bytes[two], column("transfer_bytes", 0)[two], rtol=1e-6)
    np.testing.assert_array_equal(ours.handovers.decode_cached_tokens[two], column("decode_cached_tokens", 0)[two])


def check(scenario: TwoLegs, mode: str) -> None:
    theirs = scenario.run_reference()
    assert_same(scenario.run(leap=mode == "leap"), theirs)


@given(scenario=two_legs(scenarios(instances=2), ("nixl",)), mode=MODE)
@LIMITED
def test_one_to_one(scenario: TwoLegs, mode: str):
    check(scenario, mode)


@given(scenario=two_legs(scenarios(instances=3), ("nixl",)), mode=MODE)
@LIMITED
def test_three_ranks(scenario: TwoLegs, mode: str):
    check(scenario, mode)
