"""Figure 6 of LLMServingSim 2.0: power of a server with one RTX A6000, which serves three bursts, against a simulation of them."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np
from a6000 import ALONE, ARTIFACT, FLAGS, LOGGED, as_sent

from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.latency_source import latency_source
from simjax.config.compose import compose_config, typed
from simjax.engine.host.result import Result
from simjax.job import simulate_cluster
from simjax.metrics.energy.series import device_power, power_by_part
from simjax.power.source import PowerSource
from simjax.workload import build_workload

FIGURE = ARTIFACT / "figure_6"
FINE_S = 0.05
"""Step of the clocks' alignment, and width of the bins of the simulated series that it needs."""
LATEST_S = 2.0


@dataclass(frozen=True)
class Overlay:
    """Measured and simulated power, a number a second.

    Attributes:
        t_s: float64[T], seconds of the measured server's clock.
        measured_w, simulated_w: float64[T].
    """

    t_s: np.ndarray
    measured_w: np.ndarray
    simulated_w: np.ndarray

    @property
    def mape_pct(self) -> float:
        """Mean absolute error of a second in percent."""
        return 100 * float(np.mean(np.abs(self.simulated_w / self.measured_w - 1)))

    @property
    def energy_error_pct(self) -> float:
        """Error of the energy in percent."""
        return 100 * float(self.simulated_w.sum() / self.measured_w.sum() - 1)


def bursts(source: PowerSource | None = None, bandwidth: float = 1.0) -> Result:
    """The simulated run, its requests sent as the artifact's client does.

    Args:
        source: power of the device and the server; as shipped when None.
        bandwidth: factor on the memory bandwidth of matrix products in the shipped profile, which was fitted to no run on this GPU.
    """
    flags = [*(f"scheduler.{flag}" for flag in FLAGS), f"profile.parameters={{gemm_bandwidth: {bandwidth}}}"]
    config = typed(compose_config("run", ["workload=trace", f"workload.file={LOGGED[0].trace}", *flags, *ALONE]))
    workload = as_sent(build_workload(config.workload))
    source = source or PowerSource(share="whole")
    return simulate_cluster(configured_cluster(config), workload, latency_source(config.profile), power=source).result


def as_logged() -> tuple[Result, float]:
    """The run whose decode steps take as long as vLLM's log says, in the mean of its samples, and the factor on the bandwidth for that.

    Two runs and a line through them; the log of the same run tells the time of steps, the power logs take no part.
    """
    tried = (1.0, 1.1)
    late = [np.log(_steps_over_logged(bursts(bandwidth=x))) for x in tried]
    slope = (late[1] - late[0]) / np.log(tried[1] / tried[0])
    factor = float(np.exp(-late[0] / slope))
    return bursts(bandwidth=factor), factor


def _steps_over_logged(result: Result) -> float:
    """Simulated over logged time of a decode step, geometric mean over the log's samples."""
    leaps = result.leaps
    assert leaps is not None
    with (FIGURE / "derived/decode_step_time_from_vllm_log.csv").open() as file:
        logged = [(int(x["batch_size_running"]), float(x["decode_step_ms"])) for x in csv.DictReader(file) if x["experiment"] == "fig6_tp1"]
    ratios = []
    for running, step_ms in logged:
        like = (leaps.running == running) & (leaps.steps > 1)
        if like.any():
            ratios.append(np.average(leaps.next_step_s[like], weights=leaps.steps[like]) * 1e3 / step_ms)
    return float(np.exp(np.mean(np.log(ratios))))


def server(result: Result) -> Overlay:
    """The server by ipmitool's means of a second; the simulation starts when its series fits the measured one best."""
    lines = (FIGURE / "reference/server_power_tp1.tsv").read_text().split()[2:]
    measured = np.array(lines[1::2], float)
    fine, plant = sum(power_by_part(result, _edges(len(measured))).values()), result.plant
    assert plant is not None
    idle_w = plant.nodes[0].at_the_wall * (sum(plant.constant_w().values()) + plant.idle_w[0])
    return _aligned(measured, np.asarray(fine), float(idle_w))


def gpu(result: Result, start_s: float) -> Overlay:
    """The GPU by nvidia-smi, from the start that the server's series gave; a second without a sample is left out."""
    with (FIGURE / "derived/gpu0_power_tp1.csv").open() as file:
        samples = [(float(row["t_s"]), float(row["power_w"])) for row in csv.DictReader(file)]
    t_s, watts = np.array(samples).T
    seconds = np.floor(t_s).astype(int)
    most = int(np.ceil(result.requests.finish_s.max()))
    measured = np.array([watts[seconds == t].mean() if (seconds == t).any() else np.nan for t in range(most)])
    fine = sum(rows[0] for rows in device_power(result, _edges(most)).values())
    assert result.plant is not None
    return _shifted(measured, np.asarray(fine), start_s, float(result.plant.idle_w[0]))


def _edges(seconds: int) -> np.ndarray:
    return FINE_S * np.arange(round(seconds / FINE_S) + 1)


def _aligned(measured: np.ndarray, fine: np.ndarray, idle_w: float) -> Overlay:
    overlays = [_shifted(measured, fine, start_s, idle_w) for start_s in np.arange(0.0, LATEST_S + FINE_S / 2, FINE_S)]
    return min(overlays, key=lambda x: x.mape_pct)


def _shifted(measured: np.ndarray, fine: np.ndarray, start_s: float, idle_w: float) -> Overlay:
    """The overlay if the simulation's clock starts `start_s` after the measured one; before that the server rests."""
    late = round(start_s / FINE_S)
    resting = np.full(late, idle_w)
    moved = np.append(resting, fine)[: len(fine)].reshape(len(measured), -1).mean(axis=1)
    there = np.isfinite(measured)
    return Overlay(start_s + np.arange(len(measured))[there], measured[there], moved[there])
