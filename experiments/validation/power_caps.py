"""Throughput and energy under caps: the law of `simjax.latency.clocks` against servers and unit loads that were capped."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import numpy as np
from power_rows import POWER

from simjax.hardware import load_device
from simjax.latency.clocks import Clock, clock_ratio, stretched
from simjax.power.files import device_power
from simjax.power.spec import DevicePower

B300_PEAK, B300_IDLE_W, B300_LIMIT_W, SIZE = 2.5e15, 183.0, 1100.0, 8192
LANGUAGE = ("gptj-99", "llama2-70b-99")
"""MLPerf's language models; its other tasks are not what simjax simulates, and are listed apart."""
ATTAINED = {"Offline": (0.35, 0.55), "Server": (0.35, 0.55)}
"""Shares of bandwidth and peak of saturated prefills and decodes side by side, typical, not measured."""


def h200() -> Iterator[tuple[str, float, float]]:
    """Task, measured and predicted throughput under a limit, over that at 700 W."""
    power = device_power(load_device("h200"))
    with (POWER / "server_wall/summary.csv").open() as file:
        for raw in csv.DictReader(file):
            if not raw["uncapped_700w_value"]:
                continue
            held = float(raw["tokens_per_s"] or raw["samples_per_s"])
            memory, compute = ATTAINED[raw["scenario"]]
            step_s, memory_s, compute_s = np.ones(1), np.full(1, memory), np.full(1, compute)
            ratio = clock_ratio(Clock(power, float(raw["gpu_limit_w"])), step_s, memory_s, compute_s)
            name = f"{raw['model']}_{raw['scenario'].lower()}_{raw['gpu_limit_w']}w"
            yield name, held / float(raw["uncapped_700w_value"]), float(1.0 / stretched(step_s, memory_s, compute_s, ratio)[0])


def b300() -> Iterator[tuple[str, float, float]]:
    """Measured and predicted rate and energy of a matrix product under limits, over those without."""
    with (POWER / "b300_units/rungs.csv").open() as file:
        rungs = {raw["rung"]: raw for raw in csv.DictReader(file)}
    free = rungs["prec-bf16"]
    rate = float(free["work_done"]) / float(free["steady_s"])
    compute = np.full(1, rate * 2 * SIZE**3 / B300_PEAK)
    dynamic_w = float(free["avg_w"]) - B300_IDLE_W
    power = DevicePower(B300_IDLE_W, B300_IDLE_W, 0.0, 0.0, dynamic_w / float(np.sqrt(compute[0])), B300_LIMIT_W, clock_exponent=1.0)
    step_s, none = np.ones(1), np.zeros(1)
    for limit in (450, 700):
        raw = rungs[f"cap-{limit}w"]
        ratio = clock_ratio(Clock(power, float(limit)), step_s, none, compute)
        measured = float(raw["work_done"]) / float(raw["steady_s"]) / rate
        predicted = float(1.0 / stretched(step_s, none, compute, ratio)[0])
        yield f"{limit}w_rate", measured, predicted
        yield f"{limit}w_energy", float(raw["avg_w"]) / measured / float(free["avg_w"]), limit / predicted / float(free["avg_w"])
