"""One H100 profile from a vLLM run and mean points of TensorRT-LLM together, and its errors on held-out data.

The fit sees `vllm_qwen3_14b_h100/agg_2rps` and a part of the H100 rows of `silicon`: from every second deployment (models and degrees like
the fields of a chessboard) the rows with 8 or 32 requests in flight and 128 or 512 output tokens. Rows that the server's front end delays
are excluded (`served_late`). All else is held out: the other rows of these deployments, the other deployments, agg_6rps, and figure 8 of
arXiv 2602.23036 (Llama-3.1-70B on four H100, vLLM 0.13 in eager mode).

results/joint.tsv: errors by deployment over the rows that the fit did not see and that aiconfigurator predicts, so that all are scored on
    the same; then over all of them, over those that the front end does not delay, and over the rows that were fitted.
results/joint_runs.tsv: errors on the vLLM runs. results/joint_parameters.tsv: the fitted parameters. results/figure8.tsv: figure 8.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from calibration import FAST, SLOW, Study, errors_of
from cases import DATA, Row, write
from silicon import TABLE, aiconfigurator, scores, with_throughput
from silicon_run import simulated

from simjax.calibrate.job import Calibrated, calibrate
from simjax.calibrate.targets.points import MeanPoint, read_points
from simjax.config.compose import compose_config, typed
from simjax.job import run
from simjax.latency.profiles.file import generic_profile, load_profile
from simjax.metrics import summarize

DEPLOYMENTS = ("Qwen3-32B fp8 tp1", "Qwen3-32B fp8 tp4", "Llama-3.1-8B bf16 tp2", "Llama-3.1-8B bf16 tp8")
IN_FLIGHT, OUTPUTS = (8, 32), (128, 512)
LATE_FROM = {2: 128, 4: 64, 8: 64}  # requests in flight of Llama-3.1-8B, by degree
ALONE, JOINT = "Qwen3-14B at 2 req/s", "Qwen3-14B at 2 req/s and points"
FIGURE_8 = ("output tokens/s", "TTFT mean, ms", "TPOT mean, ms")
STARTS = 2


def served_late(point: MeanPoint) -> bool:
    """Whether the server's front end, not the instance, determines a row: TTFT is then 0.2 to 2 s and hardly depends on the prompt."""
    return point.model.name.endswith("Llama-3.1-8B") and point.concurrency >= LATE_FROM.get(point.tensor_parallel_size, 2**31)


def fitted(point: MeanPoint) -> bool:
    """Whether the fit sees a row."""
    chosen = point.group.endswith(DEPLOYMENTS) and point.concurrency in IN_FLIGHT and point.output_tokens in OUTPUTS
    return chosen and not served_late(point)


def calibrated(profile: Path, points: Sequence[MeanPoint] = ()) -> Calibrated:
    """`simjax calibrate` of the run, and of the points, if any."""
    overrides = [f"measured={DATA / SLOW}", f"held_out=[{DATA / FAST}]"]
    if points:
        rows = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
        rows[rows["id"].isin([p.id for p in points])].to_csv(profile.with_suffix(".csv"), index=False)
        overrides += [f"points.file={profile.with_suffix('.csv')}", f"fit.starts={STARTS}"]
    return calibrate(typed(compose_config("calibrate", overrides)), profile)


def by_deployment(points: Sequence[MeanPoint], profile: Path) -> list[Row]:
    """The rows of results/joint.tsv."""
    device = points[0].device
    measured = with_throughput(points, np.array([(p.ttft_s, p.tpot_s) for p in points]))
    found = {
        "simjax, priors": with_throughput(points, simulated(points, {device.name: generic_profile(device)})),
        "simjax, fitted": with_throughput(points, simulated(points, {device.name: load_profile(profile)})),
        "aiconfigurator": with_throughput(points, aiconfigurator(points)),
    }
    common = np.all([np.isfinite(means).all(axis=1) for means in found.values()], axis=0)
    seen, late = (np.array([of(p) for p in points]) for of in (fitted, served_late))
    groups = np.array([p.group.split(" ", 2)[2] for p in points])
    other = np.array([not p.group.endswith(DEPLOYMENTS) for p in points])
    scopes = [(group + ("" if other[groups == group][0] else ", in part fitted"), (groups == group) & ~seen) for group in np.unique(groups)]
    scopes += [("held-out rows", ~seen), ("of them not served late", ~seen & ~late), ("of these of other deployments", other & ~late)]
    scopes += [("fitted rows", seen)]
    rows: list[Row] = []
    for name, mine in scopes:
        some = mine & common
        rows += [
            {"rows": name, "predicted by": who, "points": int(some.sum()), **scores(x[some], measured[some])} for who, x in found.items()
        ]
    return rows


def figure_8(profiles: dict[str, Path | None]) -> list[Row]:
    """The measured means and those simulated with the profiles.

    The run was in eager mode with a budget of 2,048 tokens. The log of figure 7, of the same artifact, names vLLM 0.13, which schedules
    synchronously by default.
    """
    with (DATA / "ispass26/figure_8/reference/SD_latency.tsv").open() as file:
        (measured,) = (line.split("\t")[1:] for line in file if line.startswith("vLLM"))
    rows: list[Row] = [{"step times": "measured", **dict(zip(FIGURE_8, map(float, measured), strict=True))}]
    trace = DATA / "ispass26/datasets/sharegpt_req300_rate10_llama.jsonl"
    overrides = ["model=llama-3.1-70b", "device=h100", "cluster.tensor_parallel_size=4", "scheduler.max_num_batched_tokens=2048"]
    overrides += ["scheduler.enforce_eager=true", "scheduler.async_scheduling=false", "workload=trace", f"workload.file={trace}"]
    for name, profile in profiles.items():
        summary: dict[str, Any] = summarize(
            run(typed(compose_config("run", overrides + ([f"profile={profile}"] if profile else [])))).result
        )
        means = 1e3 * summary["ttft_s"]["mean"], 1e3 * summary["tpot_s"]["mean"]
        rows.append({"step times": name, **dict(zip(FIGURE_8, (summary["throughput"]["output_tokens_per_s"], *means), strict=True))})
    return rows


def found_parameters(done: Calibrated) -> list[Row]:
    """The rows of results/joint_parameters.tsv: the fitted parameters, times in microseconds."""
    rows: list[Row] = []
    for row in (row for row in done.rows if row["fitted"]):
        scale, unit = (1e6, "us") if row["unit"] == "s" else (1.0, row["unit"])
        cells: Row = {name: f"{row[name] * scale:.4g}" for name in ("prior", "value", "low", "high")}
        rows.append({"parameter": row["name"], "unit": unit, **cells, "learned from the data, %": 100 * row["constrained"]})
    return rows


def main() -> None:
    points = read_points(TABLE, "h100").points
    with tempfile.TemporaryDirectory() as folder:
        alone, joint = Path(folder) / "alone.yaml", Path(folder) / "joint.yaml"
        calibrated(alone)
        done = calibrated(joint, [p for p in points if fitted(p)])
        print(JOINT, *done.problems, sep="\n  ", flush=True)
        write("joint_runs", [errors_of(Study(JOINT, (SLOW,), (FAST,)), done, s) for s in done.scores])
        print()
        write("joint_parameters", found_parameters(done))
        print()
        write("joint", by_deployment(points, joint))
        print()
        write("figure8", figure_8({"priors": None, f"fitted to {ALONE}": alone, f"fitted to {JOINT}": joint}))


if __name__ == "__main__":
    main()
