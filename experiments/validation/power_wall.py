"""Eight B200 that serve Llama-3.1-405B in FP4 (MLPerf Inference 5.1, server): wall power by second, calibrated on its first half.

MLPerf's load generator draws arrivals from a seed that a round publishes, with C++'s Mersenne twister and exponential gaps: so they are
known, one by one. Which prompt comes when is not: all have the mean lengths. Factors on the profile make mean TTFT and TPOT nearly those of
the submission (TensorRT-LLM is faster than the shipped profile); power takes no part in them.
"""

from __future__ import annotations

import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from power_rows import POWER
from scipy.optimize import least_squares

from simjax.calibrate.power.limit import PARTS, Limits, drawing
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.latency_source import latency_source
from simjax.config.compose import compose_config, typed
from simjax.engine.host.result import Result
from simjax.hardware import load_device
from simjax.job import simulate_cluster
from simjax.metrics.energy.series import device_power
from simjax.plot import style
from simjax.power.files import device_power as device_power_of
from simjax.power.files import node_power
from simjax.power.source import PowerSource
from simjax.workload import build_workload

SERIES = POWER / "server_wall/series/b200_llama3.1-405b_server.csv"
SEED_5_1, SEED_5_0 = 18209322760996052031, 9933818062894767841
"""`schedule_rng_seed` of two rounds; the second is the control, which must know nothing of the measured power."""
RATE, REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS = 1.90, 8313, 9428, 657
"""Requests a second; how many, and their mean prompt, as MLCommons describes the benchmark; mean output from the submission's tokens over
its samples a second."""
FACTORS = "{collective_bandwidth: 2.0, gemm_compute: 2.1, prefill_attention: 1.5}"
FOOTPRINT_W = 300.0
"""A device's, for the calibration to scale; the shipped B200's is 0, as vLLM's kernels have it."""
WINDOW_S = (232.62, 4654.61)
STILL_W = 3500.0
DEVICES, LATEST_S, FINE_S = 8, 4.0, 0.25
AT_THE_WALL = 1.0 / node_power("hgx_b200").supply_efficiency
"""Watts at the wall for a device's: supplies, but hardly fans, for water cools this server."""


@dataclass(frozen=True)
class WallRun:
    """Measured and simulated power, a number a second of the meter.

    Attributes:
        t_s, measured_w, simulated_w: float64[T], from the start of the load to the end of the log.
        half: the first second that took no part in the calibration.
        loaded: the second of the last arrival; what comes after it depends on which requests are the longest.
        idle_w, standby_w: of the server.
        factors: of footprint, memory and compute in steps, before the limit.
        limit_w: most power of the server.
        ttft_s, tpot_s: means as simulated.
    """

    t_s: np.ndarray
    measured_w: np.ndarray
    simulated_w: np.ndarray
    half: int
    loaded: int
    idle_w: float
    standby_w: float
    factors: tuple[float, ...]
    limit_w: float
    ttft_s: float
    tpot_s: float

    @property
    def seen(self) -> slice:
        """Seconds of the second half."""
        return slice(self.half, self.loaded)

    @property
    def mape_pct(self) -> float:
        """Mean absolute error of a second of the second half."""
        return 100 * float(np.mean(np.abs(self.simulated_w[self.seen] / self.measured_w[self.seen] - 1)))

    @property
    def drained_mape_pct(self) -> float:
        """That of the second half with the seconds in which the last requests end."""
        last = slice(self.half, round(WINDOW_S[1] - self.t_s[0]))
        return 100 * float(np.mean(np.abs(self.simulated_w[last] / self.measured_w[last] - 1)))

    @property
    def constant_mape_pct(self) -> float:
        """That of the median of the first half, one number for all seconds."""
        return 100 * float(np.mean(np.abs(np.median(self.measured_w[: self.half]) / self.measured_w[self.seen] - 1)))

    @property
    def level_error_pct(self) -> float:
        """Error of the energy of the second half."""
        return 100 * float(self.simulated_w[self.seen].sum() / self.measured_w[self.seen].sum() - 1)

    @property
    def correlation(self) -> float:
        """Of simulated and measured seconds of the second half."""
        return float(np.corrcoef(self.simulated_w[self.seen], self.measured_w[self.seen])[0, 1])


def arrivals(seed: int) -> np.ndarray:
    """Seconds at which the load generator sends, float64[R]: the first at 0, then std::exponential_distribution's gaps of std::mt19937."""
    words = np.random.RandomState(seed & 0xFFFFFFFF)._bit_generator.random_raw(2 * 10_000).astype(float)
    unit = (words[0::2] + words[1::2] * 2.0**32) / 2.0**64
    return np.append(0.0, np.cumsum(-np.log1p(-unit) / RATE))[:REQUESTS]


def served(seed: int, folder: Path) -> Result:
    """The simulated run of those arrivals."""
    trace = folder / f"mlperf_{seed}.csv"
    rows = [f"{sent:.6f},{PROMPT_TOKENS},{OUTPUT_TOKENS}" for sent in arrivals(seed)]
    trace.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    words = ["model=llama-3.1-405b", "device=b200", "cluster.tensor_parallel_size=8", "scheduler.quantization=nvfp4"]
    words += ["scheduler.max_num_batched_tokens=8192", "scheduler.max_num_seqs=512", f"profile.parameters={FACTORS}"]
    config = typed(compose_config("run", [*words, "workload=trace", f"workload.file={trace}"]))
    cluster, source = configured_cluster(config), latency_source(config.profile)
    return simulate_cluster(
        cluster, build_workload(config.workload), source, power=PowerSource(node=False, values=(("footprint_w", FOOTPRINT_W),))
    ).result


def measured() -> tuple[np.ndarray, np.ndarray]:
    """Seconds and watts of the meter."""
    with SERIES.open() as file:
        samples = [(float(row["t_s"]), float(row["wall_w"])) for row in csv.DictReader(file)]
    t_s, watts = np.array(samples).T
    return t_s, watts


def calibrated(result: Result) -> WallRun:
    """The server as the first half of its log has it: rest from its first second, then start, three factors and the limit.

    Standby is the shipped device's, at the wall.
    """
    t_s, watts = measured()
    idle_w = float(watts[0])
    known = device_power_of(load_device("b200"))
    raised_w = DEVICES * (known.standby_w - known.idle_w) * AT_THE_WALL
    first = int(WINDOW_S[0])
    log_t, log_w = t_s[first:], watts[first:]
    sent_s = float(result.requests.arrival_s.max())
    half = int(sent_s) // 2
    edges = FINE_S * np.arange(round((len(log_w) + LATEST_S) / FINE_S) + 1)
    awake = device_power(result, edges)["standby"].sum(axis=0) / (DEVICES * (known.standby_w - known.idle_w))
    board_w = np.array([DEVICES * (known.limit_w - known.standby_w)])

    def series(values: np.ndarray, late: int) -> np.ndarray:
        factors, most_w = {name: float(x) for name, x in zip(PARTS, values, strict=False)}, float(values[3])
        parts = device_power(drawing(result, factors, Limits(board_w, np.array([most_w / AT_THE_WALL]))), edges)
        steps = AT_THE_WALL * sum(parts[name].sum(axis=0) for name in ("footprint", "memory", "compute"))
        fine = np.append(np.full(late, idle_w), idle_w + raised_w * awake + steps)
        per = round(1 / FINE_S)
        return fine[: len(log_w) * per].reshape(len(log_w), per).mean(axis=1)

    def fitted(late: int) -> tuple[float, np.ndarray]:
        misfit = lambda values: (series(values, late) - log_w)[10:half] / log_w[10:half]
        start, scale, high = [1.0, 0.5, 1.0, 7_000.0], [1.0, 1.0, 1.0, 5_000.0], [9.0, 9.0, 9.0, 20_000.0]
        found = least_squares(misfit, start, x_scale=scale, bounds=([0.0, 0.0, 0.0, 3_000.0], high), loss="soft_l1", f_scale=0.05)
        return float(found.cost), found.x

    tried = {late: fitted(late) for late in range(0, round(LATEST_S / FINE_S) + 1)}
    late = min(tried, key=lambda x: tried[x][0])
    *factors, most_w = (float(x) for x in tried[late][1])
    requests = result.requests
    tokens = np.maximum(requests.output_tokens - 1, 1)
    return WallRun(
        t_s=log_t,
        measured_w=log_w,
        simulated_w=series(tried[late][1], late),
        half=half,
        loaded=int(sent_s + late * FINE_S),
        idle_w=idle_w,
        standby_w=idle_w + raised_w,
        factors=tuple(factors),
        limit_w=idle_w + raised_w + most_w,
        ttft_s=float(np.mean(requests.first_token_s - requests.arrival_s)),
        tpot_s=float(np.mean((requests.finish_s - requests.first_token_s) / tokens)),
    )


def after_load(run: WallRun) -> tuple[float, float]:
    """Measured standby, the median of eight seconds from the first below `STILL_W` on, and measured idle, the last two seconds."""
    still = run.loaded + int(np.argmax(run.measured_w[run.loaded :] < STILL_W))
    return float(np.median(run.measured_w[still : still + 8])), float(np.median(run.measured_w[-2:]))


def plot(run: WallRun, path: Path) -> None:
    """Draw the whole series, four minutes of the second half, and the end."""
    figure = style.new_figure(11.0, 7.2, "8 x B200, Llama-3.1-405B in FP4, Poisson arrivals: wall power by second")
    grid = figure.add_gridspec(2, 2, width_ratios=(2.2, 1.0))
    whole, minutes, end = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    last = len(run.t_s)
    spans = ((whole, 0, last), (minutes, run.half + 600, run.half + 840), (end, run.loaded - 10, last))
    for axes, start, stop in spans:
        style.dress(axes, "", "seconds", "kW")
        axes.plot(run.t_s[start:stop], run.measured_w[start:stop] / 1e3, color=style.INK, linewidth=0.8, label="measured")
        axes.plot(run.t_s[start:stop], run.simulated_w[start:stop] / 1e3, color=style.RUST, linewidth=0.8, alpha=0.85, label="simulated")
        axes.set_ylim(0, 11)
    whole.axvline(run.t_s[run.half], color=style.GREY, linewidth=1.0, linestyle="--")
    style.note(whole, f"calibrated left of the dashed line; right of it {run.mape_pct:.1f} % a second")
    style.legend(whole, columns=2)
    style.save(figure, path)


def main() -> None:
    """Draw the figure."""
    with tempfile.TemporaryDirectory() as folder:
        plot(calibrated(served(SEED_5_1, Path(folder))), Path(__file__).parent / "power_wall.png")


if __name__ == "__main__":
    main()
