"""Which split of a mixture of experts serves best? Qwen3-235B-A22B and Mixtral-8x22B on 8 to 64 H200 or B200.

A design is an instance of TP x PP x DP devices, with or without expert parallelism, its token budget and its backend of exchange. Instances
of fewer than eight GPUs are simulated as the eight-GPU cluster that they fill, larger ones alone, each under the same loads for each GPU;
larger clusters of either are copies. Designs that do not fit, or that the model cannot be divided into, are rows with the reason.

`points` writes the table of points for the ordinary sweep,

    python moe.py points DIR
    simjax run -m sweep.points=DIR/moe.csv out=DIR/moe

`run` does the same, and resumes what was stopped; `report` reads it, prints a line a figure, `figure<TAB>value`, and writes moe.csv (best
designs), refused.csv (designs that cannot run, with reasons) and moe.png next to this file.

usage: python moe.py points|run|report DIR
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

import simjax
from simjax.explore.store.table import read_results
from simjax.explore.values import format_value
from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
MODELS, DEVICES = ("qwen3-235b-a22b", "mixtral-8x22b"), ("h200", "b200")
NODE = 8
BUDGETS = (2048, 8192)
LOADS = tuple(np.geomspace(0.35, 4.0, 6).round(3).tolist())  # requests/s and GPU
LENGTH_S, FEWEST, MOST_REQUESTS = 30, 300, 1500  # seconds in which requests come, and their number
TTFT_S, TPOT_S = 2.0, 0.05
ATTAINED = 0.9  # share of the requests within both limits, without which a point is no candidate
WORKLOAD = {"workload.prompt.mean": 1000, "workload.prompt.max": 4000, "workload.output.mean": 250, "workload.output.max": 1000}
BASE = ["cluster.router=least_loaded", f"slo.ttft_s={TTFT_S}", f"slo.tpot_s={TPOT_S}", *(f"{k}={v}" for k, v in WORKLOAD.items())]
DEEPEP = ("deepep_high_throughput", "deepep_low_latency")


class Split(NamedTuple):
    """TP x PP x DP devices of an instance, whether they share whole experts, and how data-parallel ones exchange tokens."""

    tensor: int
    pipeline: int = 1
    data: int = 1
    experts: bool = False
    backend: str = "allgather_reducescatter"

    @property
    def gpus(self) -> int:
        """GPUs of an instance."""
        return self.tensor * self.pipeline * self.data

    @property
    def name(self) -> str:
        """Such as TP2 DP4 EP8."""
        sizes = {"TP": self.tensor, "PP": self.pipeline, "DP": self.data}
        words = [f"{letters}{size}" for letters, size in sizes.items() if size > 1 or letters == "TP"]
        words += [f"EP{self.tensor * self.data}"] if self.experts else []
        return " ".join(words) + {DEEPEP[0]: ", high throughput", DEEPEP[1]: ", low latency"}.get(self.backend, "")

    def options(self, budget: int) -> dict[str, Any]:
        """The cluster as options."""
        return {
            "cluster.instances": max(NODE // self.gpus, 1),
            "cluster.tensor_parallel_size": self.tensor,
            "cluster.pipeline_parallel_size": self.pipeline,
            "cluster.data_parallel_size": self.data,
            "cluster.enable_expert_parallel": self.experts,
            "cluster.all2all_backend": self.backend if self.data > 1 and self.experts else None,
            "scheduler.max_num_batched_tokens": budget,
        }


SPLITS = (
    *(Split(tensor) for tensor in (2, 4, 8)),
    *(Split(tensor, experts=True) for tensor in (4, 8)),
    *(Split(tensor, stages) for tensor, stages in ((2, 4), (4, 2), (8, 2))),
    Split(1, 1, 8),
    *(Split(tensor, 1, NODE // tensor, True) for tensor in (1, 2, 4)),
    *(Split(1, 1, data, True, DEEPEP[0]) for data in (8, 16, 32)),
    *(Split(1, 1, data, True, DEEPEP[1]) for data in (8, 64)),
    Split(1, 1, 16, True),
    *(Split(4, 1, data, True) for data in (4, 8)),
)


def points() -> Iterator[dict[str, Any]]:
    """Every design, every model, device and load."""
    for model, device, split, budget in itertools.product(MODELS, DEVICES, SPLITS, BUDGETS):
        gpus = max(split.gpus, NODE)
        for load in LOADS:
            work = {"workload.rate": round(load * gpus, 6)}
            work |= {"workload.num_requests": round(min(max(LENGTH_S * load * gpus, FEWEST), MOST_REQUESTS))}
            yield {"model": model, "device": device} | split.options(budget) | work


def table(folder: Path) -> Path:
    """The table of points, written."""
    folder.mkdir(parents=True, exist_ok=True)
    path, rows = folder / "moe.csv", list(points())
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows(["null" if value is None else format_value(value) for value in row.values()] for row in rows)
    return path


def simulate(folder: Path) -> None:
    """Simulate the table into a folder of its name; what is there is not simulated again."""
    path = table(folder)
    out, began = path.with_suffix(""), time.perf_counter()
    plan = simjax.SweepPlan.of(BASE, points=path)
    print(plan.describe(), flush=True)
    resumed = (out / "sweep.json").exists()
    simjax.run_sweep(plan, out, on_progress=lambda done, total: print(f"  {done:,} of {total:,}", flush=True), resume=resumed)
    print(f"seconds\t{time.perf_counter() - began:.0f}")


def results(folder: Path) -> pd.DataFrame:
    """The rows of the sweep, with the name of the design and the load of a GPU."""
    rows = read_results(folder / "moe")
    rows["split"] = [_split(row).name for _, row in rows.iterrows()]
    rows["design"] = rows["split"] + [f", budget {int(x):,}" for x in rows["scheduler.max_num_batched_tokens"]]
    return rows


def _split(row: pd.Series) -> Split:
    sizes = (int(float(row[f"cluster.{name}_parallel_size"])) for name in ("tensor", "pipeline", "data"))
    backend = row["cluster.all2all_backend"]
    experts = str(row["cluster.enable_expert_parallel"]).lower() in ("true", "1", "1.0")
    return Split(*sizes, experts, backend if isinstance(backend, str) and backend not in ("", "null") else Split(1).backend)


def front(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other one beats in goodput of a GPU and P99 of TPOT, by TPOT."""
    ordered = rows.sort_values(["tpot_p99_s", "goodput_per_gpu"], ascending=[True, False])
    best = ordered["goodput_per_gpu"].cummax()
    return ordered[(ordered["goodput_per_gpu"] > best.shift(fill_value=0.0))]


KINDS = dict(
    zip(
        ("tensor", "pipeline", "tensor and experts", "data", "data and experts"),
        (style.BLUE, style.GOLD, style.GREEN, style.VIOLET, style.RUST),
        strict=True,
    )
)


def kind(split: str) -> str:
    """The colour of a split."""
    if "DP" in split:
        return "data and experts" if "EP" in split else "data"
    return "pipeline" if "PP" in split else "tensor and experts" if "EP" in split else "tensor"


def report(folder: Path) -> None:
    """The front of each model on each device, the best design of each kind, and what was refused."""
    rows = results(folder)
    refused = rows[rows["status"] == "invalid"].drop_duplicates(["model", "device", "split"])
    refused[["model", "device", "split", "reason"]].to_csv(HERE / "refused.csv", index=False)
    done = rows[rows["status"] == "finished"].astype(
        {"goodput_per_gpu": float, "slo_attainment": float, "tpot_p99_s": float, "ttft_p99_s": float, "gpus": float}
    )
    print(f"points\t{len(rows)}\ninfeasible_points\t{(rows['status'] == 'invalid').sum()}\ninfeasible_designs\t{len(refused)}")
    figure = style.new_figure(10.4, 7.6, "Mixtures of experts: goodput against the P99 of TPOT, each design at each load")
    panels = figure.subplots(2, 2)
    kept = []
    for axes, (model, device) in zip(panels.flat, itertools.product(MODELS, DEVICES), strict=True):
        mine = done[(done["model"] == model) & (done["device"] == device)]
        good = mine[mine["slo_attainment"] >= ATTAINED]
        best = front(good)
        draw(axes, mine, best, f"{model} on {device.upper()}")
        if axes is panels.flat[-1]:
            axes.legend(loc="lower right", fontsize=8, frameon=True, framealpha=0.9)
        for name, group in good.groupby(good["split"].map(kind)):
            top = group.sort_values(["goodput_per_gpu", "tpot_p99_s"], ascending=[False, True]).iloc[0]
            kept.append(_row(top) | {"kind": name, "on front": bool(top.name in best.index)})
            key = f"{model}_{device}_{name}".replace(" ", "_").replace("-", "_")
            print(f"{key}_best_goodput_per_gpu\t{top['goodput_per_gpu']:.3g}")
    pd.DataFrame(kept).to_csv(HERE / "moe.csv", index=False)
    style.save(figure, HERE / "moe.png")


def _row(row: pd.Series) -> dict[str, Any]:
    load = float(row["workload.rate"]) / float(row["gpus"])
    return {
        "model": row["model"],
        "device": row["device"],
        "design": row["design"],
        "GPUs": int(row["gpus"]),
        "requests/s and GPU": f"{load:.3g}",
        "goodput/s and GPU": f"{row['goodput_per_gpu']:.3g}",
        "TPOT P99, ms": f"{1e3 * row['tpot_p99_s']:.1f}",
        "TTFT P99, s": f"{row['ttft_p99_s']:.2f}",
    }


def draw(axes: Axes, rows: pd.DataFrame, best: pd.DataFrame, title: str) -> None:
    """Every point by kind, and the front of those that attain their limits as a line."""
    style.dress(axes, title, "P99 of TPOT, ms", "goodput, requests/s and GPU")
    for name, color in KINDS.items():
        mine = rows[rows["split"].map(kind) == name]
        axes.scatter(1e3 * mine["tpot_p99_s"], mine["goodput_per_gpu"], s=12, color=color, alpha=0.6, linewidths=0, label=name)
    axes.step(1e3 * best["tpot_p99_s"], best["goodput_per_gpu"], where="post", color=style.INK, linewidth=1.2, label="front")
    axes.set_xlim(10.0, 65.0)
    axes.set_ylim(0.0)
    axes.axvline(1e3 * TPOT_S, color=style.GREY, linestyle=":", linewidth=1.0)


def main() -> None:
    """Do one step of the study."""
    steps = {"points": lambda folder: print(table(folder)), "run": simulate, "report": report}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=list(steps))
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the table and the sweep")
    given = parser.parse_args()
    steps[given.step](given.folder)


if __name__ == "__main__":
    main()
