"""Power against measurements, one line a figure: `figure<TAB>value`.

python experiments/validation/power.py            # all of it, about a minute
python experiments/validation/power.py figure6    # lines that begin so
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from power_anchors import anchors
from power_caps import LANGUAGE, b300, h200
from power_fit import fitted, unseen, watts
from power_rows import rows
from power_server import as_logged, bursts, gpu, server
from power_wall import SEED_5_0, SEED_5_1, after_load, calibrated, served

Lines = Iterator[tuple[str, float]]


def figure6() -> Lines:
    """The server of figure 6: as shipped, and with decode steps as long as in vLLM's log."""
    shipped = bursts()
    yield "figure6_shipped_server_mape_pct", server(shipped).mape_pct
    yield "figure6_shipped_server_energy_error_pct", server(shipped).energy_error_pct
    result, factor = as_logged()
    overlay = server(result)
    of_gpu = gpu(result, float(overlay.t_s[0]))
    yield "figure6_bandwidth_factor", factor
    yield "figure6_server_mape_pct", overlay.mape_pct
    yield "figure6_server_energy_error_pct", overlay.energy_error_pct
    yield "figure6_gpu_mape_pct", of_gpu.mape_pct
    yield "figure6_gpu_energy_error_pct", of_gpu.energy_error_pct


def unseen_models() -> Lines:
    """Errors on models that are left out, and the coefficients of all rows, which `profiles/power` has."""
    every = rows()
    third = [row for row in every if row.version == "v3"]
    sets = {
        "a100": [row for row in every if row.gpu == "A100"],
        "h100": [row for row in third if row.gpu == "H100"],
        "h100_both_versions": [row for row in every if row.gpu == "H100"],
        "b200": [row for row in third if row.gpu == "B200"],
    }
    for name, found in sets.items():
        for form, error in unseen(found).items():
            yield f"{name}_unseen_model_{form.replace(', ', '_').replace(' ', '_')}_mape_pct".replace("_form", ""), error
        device = fitted(found)
        for part in ("footprint_w", "memory_w", "compute_w"):
            yield f"{name}_{part}", getattr(device, part)
        measured = np.array([row.watts for row in found])
        yield f"{name}_in_sample_mape_pct", 100 * float(np.mean(np.abs(watts(device, found) / measured - 1)))


def joules_a_token() -> Lines:
    """Simulated closed loops, nothing tuned: energy and throughput."""
    found = list(anchors())
    for one in found:
        yield f"anchor_{one.name}_energy_error_pct", 100 * (one.simulated_j / one.measured_j - 1)
        yield f"anchor_{one.name}_throughput_error_pct", 100 * (one.simulated_per_s / one.measured_per_s - 1)
    yield "anchors_energy_mape_pct", 100 * float(np.mean([abs(x.simulated_j / x.measured_j - 1) for x in found]))


def caps() -> Lines:
    """Throughput under a limit, and energy of a matrix product."""
    errors: dict[bool, list[float]] = {True: [], False: []}
    for name, measured, predicted in h200():
        error = 100 * (predicted / measured - 1)
        errors[name.startswith(LANGUAGE)].append(abs(error))
        if name.startswith(LANGUAGE):
            yield f"cap_h200_{name}_throughput_error_pct", error
    yield "cap_h200_language_largest_error_pct", max(errors[True])
    yield "cap_h200_language_mape_pct", float(np.mean(errors[True]))
    yield "cap_h200_other_tasks_mape_pct", float(np.mean(errors[False]))
    for name, measured, predicted in b300():
        yield f"cap_b300_{name}_error_pct", 100 * (predicted / measured - 1)


def wall() -> Lines:
    """A server of eight B200 by the second: its second half, calibrated on the first; with arrivals of another round as a control."""
    with tempfile.TemporaryDirectory() as folder:
        run, control = (calibrated(served(seed, Path(folder))) for seed in (SEED_5_1, SEED_5_0))
    standby_w, idle_w = after_load(run)
    yield "b200_405b_second_half_mape_pct", run.mape_pct
    yield "b200_405b_second_half_and_end_mape_pct", run.drained_mape_pct
    yield "b200_405b_second_half_constant_mape_pct", run.constant_mape_pct
    yield "b200_405b_second_half_control_mape_pct", control.mape_pct
    yield "b200_405b_second_half_level_error_pct", run.level_error_pct
    yield "b200_405b_second_half_correlation", run.correlation
    yield "b200_405b_second_half_control_correlation", control.correlation
    yield "b200_405b_idle_error_pct", 100 * (run.idle_w / idle_w - 1)
    yield "b200_405b_standby_error_pct", 100 * (run.standby_w / standby_w - 1)
    yield "b200_405b_limit_w", run.limit_w
    yield "b200_405b_mean_ttft_s", run.ttft_s
    yield "b200_405b_mean_tpot_s", run.tpot_s


FIGURES: dict[tuple[str, ...], Callable[[], Lines]] = {
    ("figure6",): figure6,
    ("a100", "h100", "b200"): unseen_models,
    ("cap",): caps,
    ("b200_405b",): wall,
    ("anchor",): joules_a_token,
}
"""The functions by how the figures that they give begin."""


def main(begin: str = "") -> None:
    """Print the lines whose figure begins so."""
    for starts, figure in FIGURES.items():
        if not any(start.startswith(begin) or begin.startswith(start) for start in starts):
            continue
        for name, value in figure():
            if name.startswith(begin):
                print(f"{name}\t{value:.3f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
