import pytest

from simjax.engine.host.result import NEVER
from simjax.errors import SimjaxError
from simjax.metrics.slo import Slo
from simjax.metrics.summary import duration_s, goodput
from tests.metrics.factory import make_result, request_log, tiny


def test_goodput_counts_requests_that_meet_every_limit():
    # TTFT 1, 1, 0.5; TPOT 0.75, 0.5, none; duration 20.5 s.
    found = goodput(tiny(), Slo(ttft_s=1.0, tpot_s=0.6), gpus=4)
    assert found["limits"] == {"ttft_s": 1.0, "tpot_s": 0.6}
    assert found["attained"] == 2
    assert found["attainment_fraction"] == pytest.approx(2 / 3)
    assert found["attainment_by_limit"] == {"ttft_s": 1.0, "tpot_s": pytest.approx(2 / 3)}
    assert found["goodput_requests_per_s"] == pytest.approx(2 / 20.5)
    assert found["goodput_requests_per_s_per_gpu"] == pytest.approx(2 / 20.5 / 4)
    assert goodput(tiny(), Slo(e2e_s=2.0))["attained"] == 2
    assert goodput(tiny(), Slo())["attained"] == 3


def test_unfinished_requests_miss_the_slo():
    result = make_result(request_log(dict(arrival_s=0.0, scheduled_s=0.0, first_token_s=1.0, finish_s=2.0), dict(arrival_s=0.5)))
    assert goodput(result, Slo(ttft_s=NEVER))["attainment_fraction"] == 0.5
    nobody = make_result(request_log(dict(arrival_s=0.5)))
    assert duration_s(nobody) is None
    assert goodput(nobody, Slo(ttft_s=1.0), gpus=2)["goodput_requests_per_s_per_gpu"] is None


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_must_be_positive(limit):
    with pytest.raises(SimjaxError, match=r"slo\.tpot_s=.*positive number of seconds"):
        Slo(tpot_s=limit)
