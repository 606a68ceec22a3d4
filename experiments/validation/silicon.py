"""Mean points measured by others (`silicon/deployments.csv`): errors of the shipped profiles next to those of aiconfigurator.

usage: python silicon.py [system=all] [profile=FILE] [every=N] [fitted=GROUP,...] [out=silicon]

Nothing is fitted: each device has its shipped profile for any model, or the one given. Prints one line a figure, `figure<TAB>value`, by
kind of deployment (system, backend, dense or MoE, aggregated or not), and writes results/<out>.tsv, with a row for each kind, model and
precision, and results/<out>_load.tsv, with the bias by concurrency. every: take every Nth row only. fitted: parts of the names of groups
that the profile was fitted to, which the tables mark.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from cases import DATA, Row, write
from scipy.stats import spearmanr
from silicon_run import simulated

from simjax.calibrate.targets.points import MeanPoint, read_points
from simjax.latency.profiles.file import generic_profile, load_profile

TABLE = DATA / "silicon" / "deployments.csv"
PREDICTIONS = DATA / "silicon" / "aiconfigurator_0.12.0_predictions.csv"
OPTIONS = {"profile": "", "system": "all", "every": "1", "fitted": "", "out": "silicon"}
MEANS = ("TTFT", "TPOT", "throughput")
FEWEST_TO_RANK = 8  # points of a group whose rank correlation says something


def aiconfigurator(points: Sequence[MeanPoint]) -> np.ndarray:
    """TTFT and TPOT in seconds from aiconfigurator, f64[B, 2], NaN where it has none."""
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
    for k, name in enumerate(MEANS):
        row[f"{name}, MAPE"] = 100.0 * float(np.mean(np.abs(np.exp(logs[:, k]) - 1.0)))
        row[f"{name}, bias"] = 100.0 * float(np.exp(np.mean(logs[:, k])) - 1.0)
    for k, name in enumerate(MEANS):
        row[f"{name}, rank"] = float(spearmanr(ours[:, k], measured[:, k])[0]) if len(ours) > 2 else float("nan")  # pyright: ignore[reportArgumentType]
    return row


def kind_of(point: MeanPoint) -> str:
    """System, backend, dense or MoE, aggregated or not."""
    return f"{point.device.name} {point.backend} {'MoE' if point.model.is_moe else 'dense'} aggregated"


def figures(points: Sequence[MeanPoint], found: dict[str, np.ndarray], measured: np.ndarray) -> None:
    """Print the errors of each kind of deployment, those of all first; each predictor is scored on the points that it has."""
    kinds = np.array([kind_of(p) for p in points])
    dense = np.array([not p.model.is_moe for p in points])
    some = {"all": np.ones(len(points), bool), "dense": dense, "MoE": ~dense} | {kind: kinds == kind for kind in sorted(set(kinds))}
    for kind, mine in some.items():
        print(f"points {kind}\t{mine.sum()}")
        for who, means in found.items():
            there = mine & np.isfinite(means).all(axis=1)
            if not there.any():
                continue
            if who != "simjax":
                print(f"points {who} {kind}\t{there.sum()}")
            row = scores(means[there], measured[there])
            for name in MEANS:
                print(f"mape_percent {name} {who} {kind}\t{row[f'{name}, MAPE']:.2f}")
            if there.sum() >= FEWEST_TO_RANK:
                for name in MEANS:
                    print(f"rank_correlation {name} {who} {kind}\t{row[f'{name}, rank']:.3f}")


def tables(out: str, points: Sequence[MeanPoint], found: dict[str, np.ndarray], measured: np.ndarray, fitted: list[str]) -> None:
    """Write the tables of all groups of a system, backend, model and precision, and of the bias by concurrency."""
    groups = np.array([p.group.rsplit(" tp", 1)[0] for p in points])
    load = np.array([p.concurrency for p in points])
    rows: list[Row] = []
    by_load: list[Row] = []
    for group in [*sorted(set(groups)), "all"]:
        mine = (groups == group) | (group == "all")
        label: Row = {"group": group} | ({"fitted": "yes" if any(part in group for part in fitted) else "no"} if fitted else {})
        for who, means in found.items():
            there = mine & np.isfinite(means).all(axis=1)
            if there.any():
                rows.append({**label, "predicted by": who, "points": int(there.sum()), **scores(means[there], measured[there])})
        for concurrency in np.unique(load[mine]):
            some = mine & (load == concurrency)
            bias = {name: value for name, value in scores(found["simjax"][some], measured[some]).items() if name.endswith("bias")}
            by_load.append({**label, "concurrency": int(concurrency), "points": int(some.sum()), **bias})
    write(out, rows, shown=False)
    write(f"{out}_load", by_load, shown=False)


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if unknown := set(given) - set(OPTIONS):
        sys.exit(f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(OPTIONS)}")
    options = OPTIONS | given
    every, left_out, _ = read_points(TABLE, None if options["system"] == "all" else options["system"])
    print(f"rows\t{len(every) + len(left_out)}\nrows_simulated\t{len(every)}")
    print(f"rows_simulated_percent\t{100.0 * len(every) / (len(every) + len(left_out)):.1f}")
    for reason, count in Counter(x.reason.split(";")[0] for x in left_out).most_common():
        print(f"rows_left_out {reason}\t{count}")
    points = every[:: int(options["every"])]
    profiles = {p.device.name: load_profile(options["profile"]) if options["profile"] else generic_profile(p.device) for p in points}
    measured = with_throughput(points, np.array([(p.ttft_s, p.tpot_s) for p in points]))
    found = {
        "simjax": with_throughput(points, simulated(points, profiles)),
        "aiconfigurator": with_throughput(points, aiconfigurator(points)),
    }
    figures(points, found, measured)
    tables(options["out"], points, found, measured, [part for part in options["fitted"].split(",") if part])


if __name__ == "__main__":
    main()
