"""Step times under caps and locked clocks."""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from simjax.config.compose import compose_config, typed
from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.job import run
from simjax.latency.clocks import KNEE, Clock, clock_ratio, drawn_w, slowed, stretched
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.roofline import roofline_profile
from simjax.metrics.energy.series import device_power as power_of_devices
from simjax.model import load_model
from simjax.power.files import device_power
from simjax.power.source import PowerSource

H200 = load_device("h200")
POWER = device_power(H200)
STEPS = (np.ones(4), np.array([0.7, 0.5, 0.2, 0.0]), np.array([0.0, 0.3, 0.6, 0.8]))  # from reading alone to computing alone


def test_a_cap_at_the_limit_changes_nothing():
    assert (clock_ratio(Clock(POWER, POWER.limit_w), *STEPS) == 1.0).all() and (clock_ratio(Clock(POWER), *STEPS) == 1.0).all()


@pytest.mark.parametrize("cap_w", [300.0, 450.0, 600.0])
def test_a_cap_is_kept_and_costs_computing_more_than_reading(cap_w):
    ratio = clock_ratio(Clock(replace(POWER, limit_w=math.inf), cap_w), *STEPS)
    assert (drawn_w(POWER, ratio, *STEPS) <= cap_w * (1 + 1e-9)).all()
    slower = stretched(*STEPS, ratio)
    assert (np.diff(slower) >= 0).all() and slower[-1] == pytest.approx(1 / ratio[-1])
    held = ratio < 1
    np.testing.assert_allclose(drawn_w(POWER, ratio, *STEPS)[held], cap_w)


def test_a_locked_clock_by_hand():
    ratio = clock_ratio(Clock(POWER, share=0.7), *STEPS)
    assert (ratio == 0.7).all()
    np.testing.assert_allclose(stretched(*STEPS, ratio)[[0, 3]], [1.0, 1 / 0.7])  # memory keeps its rate above the knee
    np.testing.assert_allclose(stretched(*STEPS, np.full(4, KNEE / 2))[[0, 3]], [2.0, 2 / KNEE])


def test_every_part_of_a_step_gets_slower_or_stays():
    deployment = Deployment(load_model("llama-3.1-8b"), H200)
    with jax.enable_x64(True):
        free = compile_profile(roofline_profile(H200), deployment, 512, 64)
        held = slowed(free, deployment, Clock(POWER, 400.0))
        same = slowed(free, deployment, Clock(POWER))
    ratio = np.asarray(held.tokens_s)[0, 1:] / np.asarray(free.tokens_s)[0, 1:]
    assert (ratio >= 1).all() and ratio[-1] > 1.2 and ratio[0] < 1.02, "decodes of few requests read, prompts compute"
    assert held.attention.chunk_kv_s[0] > free.attention.chunk_kv_s[0] and held.attention.decode_kv_s[0] == free.attention.decode_kv_s[0]
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(free), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_run_keeps_its_cap_and_the_meter_sees_it():
    base = ["device=h200", "power=utilization", "workload=closed_loop", "workload.concurrency=64", "workload.num_requests=80"]
    free, held = (run(typed(compose_config("run", [*base, *more]))) for more in ([], ["power.cap_w=350"]))
    edges = np.arange(0.0, 12.0, 1.0)
    drawn = [sum(rows[0, :-1] for rows in power_of_devices(x.result, edges).values()) for x in (free, held)]
    assert drawn[0].max() > 400 and drawn[1].max() <= 350 and drawn[1][2] > 300
    assert held.result.requests.finish_s.max() > 1.02 * free.result.requests.finish_s.max()


def test_caps_of_servers_and_caps_too_low():
    source = PowerSource(node_cap_w=6200.0)
    server = source.of_node(H200)
    assert source.cap_of(H200) == pytest.approx((6200 / server.at_the_wall - sum(server.constants.values())) / 8)
    with pytest.raises(SimjaxError, match=r"a cap of 130 W leaves h200 hardly more than its standby, 123 W"):
        PowerSource(cap_w=130.0).of_device(H200)
    with pytest.raises(SimjaxError, match=r"power.clock=0.1: it must be a share"):
        PowerSource(clock=0.1)
