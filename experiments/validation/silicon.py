"""Mean points measured by others (`silicon/deployments.csv`): errors of a profile next to those of aiconfigurator.

usage: python silicon.py [profile=FILE] [system=h100] [fitted=GROUP,GROUP,...] [out=silicon]

fitted: parts of the names of groups that the profile was fitted to, which the tables mark. Writes results/<out>.tsv, with a row for each
group and predictor, and results/<out>_load.tsv, with the bias by concurrency.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np
import pandas as pd
from cases import DATA, Row, write
from scipy.stats import spearmanr

from simjax.calibrate.targets.points import MeanPoint, read_points
from simjax.calibrate.targets.points_target import BENCHMARK_ROUNDS, PointOptions, PointsTarget
from simjax.disk.paths import PROFILES
from simjax.hardware import load_device
from simjax.latency.profiles.file import load_profile
from simjax.latency.profiles.profile import LatencyProfile

TABLE = DATA / "silicon" / "deployments.csv"
PREDICTIONS = DATA / "silicon" / "aiconfigurator_0.12.0_predictions.csv"
OPTIONS = {"profile": "", "system": "h100", "fitted": "", "out": "silicon"}


def simulated(points: Sequence[MeanPoint], profile: LatencyProfile) -> np.ndarray:
    """TTFT and TPOT in seconds of every point, f64[B, 2], over as many rounds as the benchmarks had."""
    with jax.enable_x64(True):
        target = PointsTarget.of(points, profile, PointOptions(rounds=BENCHMARK_ROUNDS))
        means = jax.device_get(jax.jit(lambda: target.means(profile))())
    assert means.finished.all()
    return np.stack([means.ttft_s, means.tpot_s], axis=1)


def aiconfigurator(points: Sequence[MeanPoint]) -> np.ndarray:
    """The same from aiconfigurator, NaN where it has none."""
    frame = pd.read_csv(PREDICTIONS).set_index("id")
    return 1e-3 * frame.reindex([p.id for p in points])[["aic_ttft_ms", "aic_tpot_ms"]].to_numpy(float)


def with_throughput(points: Sequence[MeanPoint], means: np.ndarray) -> np.ndarray:
    """Columns TTFT, TPOT and, by Little's law, output tokens per second."""
    rate = [point.throughput(*row) for point, row in zip(points, means, strict=True)]
    return np.column_stack([means, rate])


def scores(ours: np.ndarray, measured: np.ndarray) -> Row:
    """Error of each column in percent, its bias (of the geometric mean), and its rank correlation, over the available rows."""
    row: Row = {}
    logs = np.log(ours / measured)
    for k, name in enumerate(("TTFT", "TPOT", "throughput")):
        row[f"{name}, MAPE"] = 100.0 * float(np.mean(np.abs(np.exp(logs[:, k]) - 1.0)))
        row[f"{name}, bias"] = 100.0 * float(np.exp(np.mean(logs[:, k])) - 1.0)
    for k, name in enumerate(("TTFT", "TPOT", "throughput")):
        row[f"{name}, rank"] = float(spearmanr(ours[:, k], measured[:, k]).statistic)
    return row


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if unknown := set(given) - set(OPTIONS):
        sys.exit(f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(OPTIONS)}")
    options = OPTIONS | given
    device = load_device(options["system"])
    profile = load_profile(options["profile"] or PROFILES / "latency" / device.name / "generic.yaml")
    points, left_out, _ = read_points(TABLE, options["system"])
    for reason, count in Counter(x.reason.split(";")[0] for x in left_out).most_common():
        print(f"left out: {count:4d} rows, {reason}")
    measured = with_throughput(points, np.array([(p.ttft_s, p.tpot_s) for p in points]))
    found = {
        "simjax": with_throughput(points, simulated(points, profile)),
        "aiconfigurator": with_throughput(points, aiconfigurator(points)),
    }

    groups = np.array([p.group.removeprefix(f"{device.name} ") for p in points])
    fitted = [part for part in options["fitted"].split(",") if part]
    load = np.array([p.concurrency for p in points])
    rows: list[Row] = []
    by_load: list[Row] = []
    for group in [*dict.fromkeys(groups), "all"]:
        mine = (groups == group) | (group == "all")
        label: Row = {"group": group} | ({"fitted": "yes" if any(part in group for part in fitted) else "no"} if fitted else {})
        for who, means in found.items():
            there = mine & np.isfinite(means).all(axis=1)
            rows.append({**label, "predicted by": who, "points": int(there.sum()), **scores(means[there], measured[there])})
        for concurrency in np.unique(load[mine]):
            some = mine & (load == concurrency)
            bias = {name: value for name, value in scores(found["simjax"][some], measured[some]).items() if name.endswith("bias")}
            by_load.append({**label, "concurrency": int(concurrency), "points": int(some.sum()), **bias})
    write(options["out"], rows)
    print()
    write(f"{options['out']}_load", by_load)


if __name__ == "__main__":
    main()
