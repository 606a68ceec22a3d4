"""Power, caps and prices as axes of a sweep: one program, and every row is its single run."""

from __future__ import annotations

import simjax
from simjax.engine.programs import compile_count
from simjax.explore.plan import SweepPlan
from tests.explore.test_sweep import SMALL, assert_single

AXES = {
    "power.cap_w": [350.0, 500.0, 700.0],
    "power.pue": [1.0, 1.3],
    "price.kind": ["on_demand", "spot"],
}


def test_caps_and_prices_side_by_side():
    sweep = SweepPlan.of([*SMALL, "power=utilization", "price=rented", "price.grid=US"], AXES)
    before = compile_count()
    table = simjax.run_sweep(sweep)
    assert compile_count() - before <= len(sweep.groups) == 1
    assert_single(table, sweep, [0, 5, 11])
    energy = table.groupby("power.cap_w")["gpu_energy_j"].first()
    assert energy.is_monotonic_increasing and energy.iloc[0] < 0.95 * energy.iloc[-1], "lower caps save energy here"
    money = table.groupby("price.kind")["cost_per_million_tokens_usd"].mean()
    assert money["spot"] < money["on_demand"]
    carbon = table.groupby("power.pue")["carbon_g_per_1k_tokens"].mean()
    assert carbon.iloc[1] > carbon.iloc[0] > 0
