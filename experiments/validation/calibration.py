"""Calibration against measured runs: fits, their predictions of other runs, and the coverage of their intervals.

results/calibration.tsv: errors of `simjax calibrate` on the runs that it fitted and on those held out, in percent, and the seconds of
    each fit. results/coverage.tsv: share of the held-out statistics (mean, p50, p90, p95, p99 of TTFT, TPOT and E2E) that lie in the 90 %
    interval of 64 draws. results/recovery.tsv: a run simulated with known parameters, and the parameters that a fit finds.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from cases import BENCH, DATA, TABLES, WITH_TABLES, Row, write

from simjax.calibrate.fit import FitOptions, fit
from simjax.calibrate.job import HELD_OUT, Calibrated, Scored, calibrate
from simjax.calibrate.posterior import laplace, parameter_rows
from simjax.calibrate.prepared_run import prepare_measured, simulated
from simjax.calibrate.space import space_of
from simjax.calibrate.targets.measured_run import LossWeights, RunTarget
from simjax.cluster.latency_source import LatencySource
from simjax.config.compose import compose_config, typed
from simjax.config.schema import UncertaintyConfig, ValidateConfig
from simjax.latency.parameters import with_parameters
from simjax.latency.profiles.file import generic_profile
from simjax.uncertainty.intervals import simulate_draws
from simjax.validate import read_measured
from simjax.validate.compare import COMPARED, METRICS
from simjax.validate.contents import with_contents
from simjax.validate.replay import measured_cluster

LLAMA, QWEN, RTX4090 = f"{BENCH}/RTXPRO6000/Llama-3.1-8B", f"{BENCH}/RTXPRO6000/Qwen3-32B", f"{BENCH}/RTX4090/Llama-3.1-8B"
TRACES = {case.folder: case.trace for case in WITH_TABLES}
SLOW, FAST = "vllm_qwen3_14b_h100/agg_2rps", "vllm_qwen3_14b_h100/agg_6rps"


@dataclass(frozen=True)
class Study:
    """A study: fitted runs, held-out runs, the share of each fitted run that the fit sees, and whether it begins with the op tables."""

    name: str
    fitted: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    fraction: float = 1.0
    tables: bool = True


STUDIES = (
    Study("Llama-3.1-8B, RTX PRO 6000", (LLAMA,), (QWEN,)),
    Study("Qwen3-32B, 2 x RTX PRO 6000", (QWEN,), (LLAMA,)),
    Study("both", (LLAMA, QWEN)),
    Study("Llama-3.1-8B, RTX 4090", (RTX4090,)),
    Study("Llama-3.1-8B, first half", (LLAMA,), fraction=0.5),
    Study("Qwen3-32B, first half", (QWEN,), fraction=0.5),
    Study("Qwen3-14B, H100, 2 req/s", (SLOW,), (FAST,), tables=False),
    Study("Qwen3-14B, H100, 2 req/s, first half", (SLOW,), fraction=0.5, tables=False),
)


def calibrated(study: Study, profile: Path) -> Calibrated:
    """`simjax calibrate` of a study, with the traces that its runs replayed, if they are known."""
    overrides = [f"measured=[{','.join(str(DATA / path) for path in study.fitted)}]", f"fit.first_fraction={study.fraction}"]
    overrides += [f"held_out=[{','.join(str(DATA / path) for path in study.held_out)}]"] if study.held_out else []
    traces = sorted({str(TRACES[path]) for path in (*study.fitted, *study.held_out) if path in TRACES})
    overrides += [f"workload.file=[{','.join(traces)}]"] if traces else []
    overrides += [f"profile.bundle_root={TABLES}"] if study.tables else []
    return calibrate(typed(compose_config("calibrate", overrides)), profile)


def errors_of(study: Study, done: Calibrated, s: Scored) -> Row:
    """A line of results/calibration.tsv."""
    row: Row = {"fit": study.name, "s": done.fit.seconds, "scored": s.measured.name.split("/")[-1], "role": s.role}
    for metric in METRICS:
        for name in COMPARED:
            row[f"{metric.removesuffix('_s').upper()} {name}"] = float(s.after[metric][name]["error_pct"])
    return row | {
        f"{m.removesuffix('_s').upper()} each": float(s.after["per_request"][f"{m.removesuffix('_s')}_mape_pct"]) for m in METRICS
    }


def coverage_of(study: Study, s: Scored, profile: Path) -> Row:
    """For each held-out statistic of a whole run, whether it lies in its interval."""
    draws = simulate_draws(s.run, LatencySource(profile=profile), UncertaintyConfig(draws=64))
    inside, wide = [], []
    for metric in METRICS:
        for name in COMPARED:
            interval = draws.interval(f"{metric.removesuffix('_s')}_{name}_s")
            assert interval is not None
            measured = s.after[metric][name]["measured"]
            inside.append(interval[0] <= measured <= interval[1])
            wide.append(100.0 * (interval[1] - interval[0]) / 2.0 / measured)
    found: Row = {"fit": study.name, "held out": s.measured.name.split("/")[-1], "statistics": len(inside), "inside": int(np.sum(inside))}
    return found | {"half-width, %": float(np.mean(wide)), "least": float(np.min(wide)), "most": float(np.max(wide))}


def recovery() -> list[Row]:
    """The Llama run's arrivals, simulated with known parameters; the fit begins at the priors and sees only clients' times."""
    (recorded,) = with_contents([read_measured(DATA / LLAMA)], [Path(str(TRACES[LLAMA]))])
    cluster = measured_cluster(recorded, ValidateConfig(measured=str(DATA / LLAMA)))
    base = generic_profile(cluster.instances[0].device)
    space = space_of(base)
    rng = np.random.default_rng(7)
    truth = space.values(rng.normal(0.0, 0.8, len(space)))
    with jax.enable_x64(True):
        there = prepare_measured(recorded, cluster, with_parameters(base, truth))
        seen = jax.tree.map(np.asarray, jax.jit(lambda: simulated(there, with_parameters(base, truth)))())
    recorded_times = replace(recorded, ttft_s=seen.ttft_s, e2e_s=seen.e2e_s, tpot_s=np.where(recorded.has_tpot, seen.tpot_s, np.inf))
    target = RunTarget(recorded_times, prepare_measured(recorded_times, cluster, base), LossWeights())
    found = fit([target], base, space, FitOptions())
    rows = parameter_rows(space, laplace(found, target.observations), base)
    shown: list[Row] = []
    for row in rows:
        if row["fitted"]:
            scale, unit = (1e6, "us") if row["unit"] == "s" else (1.0, row["unit"])
            numbers = {"truth": truth[row["name"]], "found": row["value"], "low": row["low"], "high": row["high"]}
            cells: Row = {key: f"{x * scale:.4g}" for key, x in numbers.items()}
            known = "yes" if row["low"] <= truth[row["name"]] <= row["high"] else "no"
            shown.append(
                {"parameter": row["name"], "unit": unit, **cells, "learned from the data, %": 100 * row["constrained"], "inside": known}
            )
    return shown


def main() -> None:
    errors: list[Row] = []
    coverage: list[Row] = []
    for study in STUDIES:
        if not (DATA / study.fitted[0]).exists():
            sys.exit(f"{DATA / study.fitted[0]}: no such folder; set SIMJAX_DATA to the folder of the measured runs")
        with tempfile.TemporaryDirectory() as folder:
            profile = Path(folder) / "profile.yaml"
            done = calibrated(study, profile)
            errors += [errors_of(study, done, s) for s in done.scores]
            coverage += [coverage_of(study, s, profile) for s in done.scores if s.role == HELD_OUT and study.fraction == 1.0]
        print(study.name, *done.problems, sep="\n  ", flush=True)
    write("calibration", errors)
    print()
    write("coverage", coverage)
    print()
    write("recovery", recovery())


if __name__ == "__main__":
    main()
