"""Which split of 64 H100 serves Qwen3-32B best? Ratios, sizes of instances, limits and links against aggregated serving, for three mixes.

A design is a cluster with its limits, of which the smallest slice is simulated at its share of the load. In the first stage each of them
meets each mix at three loads; these runs are short, and show what the second stage simulates for longer. `points` writes tables of points
for the ordinary sweep,

    python ratios.py points DIR
    simjax run -m sweep.points=DIR/apart.csv model=qwen3-32b device=h100 cluster.router=least_loaded out=DIR/apart

`run` does the same for both of the tables and resumes what was stopped; `refine` is the second stage, at six loads and with three times the
requests; `report` reads all of that, prints a line a figure, `figure<TAB>value`, and writes ratios.csv (best designs) and ratios.png next
to this file; `slices` holds slices against whole clusters.

usage: python ratios.py points|run|refine|report|slices DIR
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Iterator, Sequence
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
BASE = ["model=qwen3-32b", "device=h100", "cluster.router=least_loaded"]
GPUS, NODE, MOST_IDLE = 64, 8, 4
SIZES = (1, 2, 4, 8)
RATIOS = ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1))
LINKS = (3.125e9, 50e9)  # bytes/s of an adapter each way, one adapter a GPU: 25 and 400 Gbit/s
PREFILL_TOKENS, AGGREGATED_TOKENS = (8192,), (512, 2048, 8192)
SEATS = (64, 256)
TPOT_S = 0.04


class Mix(NamedTuple):
    """Mean and greatest prompt and output in tokens, loads in requests/s and GPU, limit of TTFT in seconds, requests on four GPUs."""

    prompt: tuple[int, int]
    output: tuple[int, int]
    loads: tuple[float, ...]
    ttft_s: float
    requests: int

    def options(self, gpus: int, load: float, times: int = 1) -> dict[str, Any]:
        """The workload on a slice of so many GPUs, with so many times the requests.

        Requests grow with the root of the GPUs only: a large slice has fast instances, where none stays long.
        """
        lengths = {"prompt": self.prompt, "output": self.output}
        words = {f"workload.{name}.{key}": x[i] for name, x in lengths.items() for i, key in enumerate(("mean", "max"))}
        number = times * round(self.requests * (gpus / 4) ** 0.5)
        return words | {"workload.rate": load * gpus, "workload.num_requests": number, "slo.ttft_s": self.ttft_s, "slo.tpot_s": TPOT_S}


MIXES = {
    "rag": Mix((4000, 12000), (150, 600), (0.7, 1.0, 1.3), 3.0, 240),
    "chat": Mix((500, 4000), (300, 1000), (3.0, 4.25, 5.5), 1.0, 320),
    "reasoning": Mix((300, 2000), (800, 2400), (2.0, 3.0, 4.0), 1.0, 360),
}


class Split(NamedTuple):
    """Prefill and decode instances of a slice, with the GPUs of each instance."""

    prefill: int
    decode: int
    prefill_size: int
    decode_size: int

    @property
    def gpus(self) -> int:
        """GPUs of a slice."""
        return self.prefill * self.prefill_size + self.decode * self.decode_size

    @property
    def nodes(self) -> list[int]:
        """The node of each instance: no node has instances of both roles, so that every KV cache crosses the network."""
        first = [i * self.prefill_size // NODE for i in range(self.prefill)]
        return first + [first[-1] + 1 + i * self.decode_size // NODE for i in range(self.decode)]

    def options(self, tokens: int, seats: int, link: float) -> dict[str, Any]:
        """The cluster as options."""
        return {
            "cluster.prefill.instances": self.prefill,
            "cluster.prefill.tensor_parallel_size": self.prefill_size,
            "cluster.decode.instances": self.decode,
            "cluster.decode.tensor_parallel_size": self.decode_size,
            "cluster.prefill.max_num_batched_tokens": tokens,
            "cluster.decode.max_num_seqs": seats,
            "network.instance_nodes": self.nodes,
            "network.inter_bandwidth_bytes_per_s": link,
        }


def splits() -> list[Split]:
    """The slices whose copies leave at most `MOST_IDLE` of the GPUs idle."""
    every = (Split(*ratio, *sizes) for ratio, *sizes in itertools.product(RATIOS, SIZES, SIZES))
    return [split for split in every if GPUS % split.gpus <= MOST_IDLE]


def points(mixes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every design with prefill and decode pools, every mix, every load."""
    for name, split, tokens, seats, link in itertools.product(mixes, splits(), PREFILL_TOKENS, SEATS, LINKS):
        for load in MIXES[name].loads:
            yield split.options(tokens, seats, link) | MIXES[name].options(split.gpus, load)


def aggregated(mixes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every design whose instances run both phases, every mix, every load."""
    for name, size, tokens, seats in itertools.product(mixes, SIZES, AGGREGATED_TOKENS, SEATS):
        cluster = {"cluster.instances": NODE // size, "cluster.tensor_parallel_size": size}
        limits = {"scheduler.max_num_batched_tokens": tokens, "scheduler.max_num_seqs": seats}
        for load in MIXES[name].loads:
            yield cluster | limits | MIXES[name].options(NODE, load)


def write_points(path: Path, rows: Sequence[dict[str, Any]]) -> int:
    """A table of points for `sweep.points`; returns their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows([format_value(value) for value in row.values()] for row in rows)
    return len(rows)


def tables(folder: Path) -> list[Path]:
    """The tables of points, written."""
    made = [folder / "apart.csv", folder / "aggregated.csv"]
    for path, rows in zip(made, (points(list(MIXES)), aggregated(list(MIXES))), strict=True):
        write_points(path, list(rows))
    return made


def simulate(paths: Sequence[Path]) -> None:
    """Simulate tables, each into a folder of its name; what is there is not simulated again. The seconds go to seconds.tsv."""
    for path in paths:
        out, began = path.with_suffix(""), time.perf_counter()
        plan = simjax.SweepPlan.of(BASE, points=path)
        print(plan.describe(), flush=True)
        planned = time.perf_counter()
        resumed = (out / "sweep.json").exists()
        table = simjax.run_sweep(plan, out, on_progress=lambda done, total: print(f"  {done:,} of {total:,}", flush=True), resume=resumed)
        took = time.perf_counter() - planned
        with (path.parent / "seconds.tsv").open("a") as file:
            file.write(f"{path.stem}\t{len(table)}\t{planned - began:.1f}\t{took:.1f}\t{'resumed' if resumed else 'whole'}\n")


def results(folder: Path, names: Sequence[str]) -> pd.DataFrame:
    """The rows of some sweeps with the mix, the name of the design, and rates for each of the 64 GPUs, idle ones included."""
    read = []
    for name in names:
        table = read_results(folder / name)
        table = table[table["status"] == "finished"].copy()
        table["kind"], table["stage"] = name.removesuffix("_fine"), 2 if name.endswith("_fine") else 1
        read.append(table)
    table = pd.concat(read, ignore_index=True)
    prompts = {mix.prompt[0]: name for name, mix in MIXES.items()}
    table["mix"] = table["workload.prompt.mean"].astype(int).map(prompts)
    table["steady"] = table["steady"].astype(float)  # missing where a run is too short to tell
    table["ttft_limit_s"] = table["slo.ttft_s"].astype(float)
    copies = GPUS // table["gpus"].astype(int)
    table["load"] = table["workload.rate"].astype(float) * copies / GPUS
    table["goodput"] = table["goodput_requests_per_s"].astype(float) * copies / GPUS
    table["design"] = [design_name(row) for _, row in table.iterrows()]
    return table


def design_name(row: pd.Series) -> str:
    """`16P-TP1 + 16D-TP2, 64 seats, 400 Gbit/s` for the whole cluster of a slice, or `32 x TP2, 64 seats, budget 512`."""
    copies = GPUS // int(row["gpus"])
    if row["kind"] == "aggregated":
        size, count = (int(row[f"cluster.{key}"]) for key in ("tensor_parallel_size", "instances"))
        limits = f"{int(row['scheduler.max_num_seqs'])} seats, budget {int(row['scheduler.max_num_batched_tokens']):,}"
        return f"{count * copies} x TP{size}, {limits}"
    parts = []
    for role, letter in (("prefill", "P"), ("decode", "D")):
        count, size = (int(row[f"cluster.{role}.{key}"]) for key in ("instances", "tensor_parallel_size"))
        parts.append(f"{count * copies}{letter}-TP{size}")
    link = float(row["network.inter_bandwidth_bytes_per_s"]) * 8e-9
    return f"{' + '.join(parts)}, {int(row['cluster.decode.max_num_seqs'])} seats, {link:.0f} Gbit/s"


def keeps_up(table: pd.DataFrame) -> pd.Series:
    """Which rows are steady runs, or too short to tell and answer nine tenths of the load while it lasts."""
    return (table["steady"] == 1) | (table["steady"].isna() & (table["requests_per_s"] >= 0.9 * table["workload.rate"]))


def passing(table: pd.DataFrame, tpot_s: float) -> pd.Series:
    """Which rows keep up, with the P99 of TTFT within the limit of the mix and that of TPOT within another one."""
    return keeps_up(table) & (table["ttft_p99_s"] <= table["ttft_limit_s"]) & (table["tpot_p99_s"] <= tpot_s)


def best(table: pd.DataFrame, mix: str, kind: str, tpot_s: float) -> pd.Series | None:
    """The row of the second stage with the highest load that passes, of equal ones that with the lowest P99 TTFT; None if none passes."""
    rows = table[(table["mix"] == mix) & (table["kind"] == kind) & (table["stage"] == 2)]
    rows = rows[passing(rows, tpot_s)]
    return None if rows.empty else rows.sort_values(["load", "ttft_p99_s"], ascending=[False, True]).iloc[0]


LIMITS_S = np.arange(0.008, 0.1001, 0.002)


# The second stage: shares of the GPUs that prefill, sizes of a decode instance, seats and loads of each mix.
LONG = {
    "rag": ((0.6, 0.8), (2, 4), (64,), (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)),
    "chat": ((0.2, 0.5), (2, 4, 8), (256,), (2.5, 3.25, 4.0, 4.75, 5.5, 6.25)),
    "reasoning": ((0.1, 0.26), (2, 4, 8), (256,), (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)),
}
TIMES = 3  # requests of a point in the second stage, of those in the first


def fine_points(folder: Path) -> list[Path]:
    """Tables of designs that may be best, at more loads and with more requests: runs that are long enough to be steady."""
    made = [folder / "apart_fine.csv", folder / "aggregated_fine.csv"]
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for name, ((low, high), sizes, seats, loads) in LONG.items():
        mix = MIXES[name]
        fitting = [x for x in splits() if low <= x.prefill * x.prefill_size / x.gpus <= high and x.decode_size in sizes]
        for split, seat, load in itertools.product(fitting, seats, loads):
            rows[0].append(split.options(PREFILL_TOKENS[0], seat, LINKS[-1]) | mix.options(split.gpus, load, TIMES))
        for size, tokens, load in itertools.product(SIZES[1:], AGGREGATED_TOKENS, loads):
            cluster = {"cluster.instances": NODE // size, "cluster.tensor_parallel_size": size}
            limits = {"scheduler.max_num_batched_tokens": tokens, "scheduler.max_num_seqs": SEATS[-1]}
            rows[1].append(cluster | limits | mix.options(NODE, load, TIMES))
    for path, table in zip(made, rows, strict=True):
        write_points(path, table)
    return made


CHECKED = (Split(1, 1, 8, 8),)


def slices(folder: Path) -> None:
    """Some slices against the whole clusters that they stand for, under the same load for each GPU and as long; prints the differences."""
    rows = []
    for split, name in itertools.product(CHECKED, ("rag", "chat")):
        mix, copies = MIXES[name], GPUS // split.gpus
        for load, times in itertools.product(mix.loads[:2], (1, copies)):
            whole = Split(times * split.prefill, times * split.decode, split.prefill_size, split.decode_size)
            options = mix.options(whole.gpus, load) | {"workload.num_requests": times * 2 * mix.requests}
            rows.append(whole.options(PREFILL_TOKENS[0], SEATS[-1], LINKS[-1]) | options)
    write_points(folder / "slices.csv", rows)
    simulate([folder / "slices.csv"])
    table = read_results(folder / "slices")
    for first in range(0, len(rows), 2):
        part, whole = table.iloc[first], table.iloc[first + 1]
        roles = " + ".join(
            f"{part[f'cluster.{x}.instances']} x TP{part[f'cluster.{x}.tensor_parallel_size']}" for x in ("prefill", "decode")
        )
        load = float(part["workload.rate"]) / int(part["gpus"])
        for metric in ("goodput_per_gpu", "ttft_mean_s", "ttft_p99_s", "tpot_mean_s", "tpot_p99_s"):
            words = f"{roles}, {part['workload.prompt.mean']} tokens in, {load:g}/s and GPU: {metric}"
            print(f"{words}\t{part[metric]:.4g}\t{whole[metric]:.4g}\t{100.0 * (part[metric] / whole[metric] - 1.0):+.1f} %")


def report(folder: Path) -> None:
    """Print the figures, write the table of the best designs and the picture."""
    names = [name for name in ("apart", "aggregated", "apart_fine", "aggregated_fine") if (folder / name).exists()]
    table = results(folder, names)
    rows = []
    print(f"points\t{len(table)}")
    for kind, of_kind in table.groupby("kind"):
        pairs = of_kind[["mix", "design"]].drop_duplicates()
        print(f"{kind}_points\t{len(of_kind)}\n{kind}_designs\t{of_kind['design'].nunique()}\n{kind}_designs_and_mixes\t{len(pairs)}")
        print(f"{kind}_steady\t{(of_kind['steady'] == 1).sum()}\n{kind}_not_steady\t{(of_kind['steady'] == 0).sum()}")
    for mix, tpot_s in itertools.product(MIXES, (0.02, 0.03, TPOT_S, 0.06, 0.08)):
        pair = {kind: best(table, mix, kind, tpot_s) for kind in ("apart", "aggregated")}
        for kind, found in pair.items():
            shown = {} if found is None else found[["design", "load", "goodput", "ttft_p99_s", "tpot_p99_s", "steady"]].to_dict()
            rows.append({"mix": mix, "tpot_limit_ms": round(1e3 * tpot_s), "kind": kind} | shown)
        loads = [0.0 if found is None else found["load"] for found in pair.values()]
        print(f"{mix}_{1e3 * tpot_s:.0f}ms_apart\t{loads[0]:.4g}\n{mix}_{1e3 * tpot_s:.0f}ms_aggregated\t{loads[1]:.4g}")
        if min(loads) > 0:
            print(f"{mix}_{1e3 * tpot_s:.0f}ms_gain_pct\t{100.0 * (loads[0] / loads[1] - 1.0):.3g}")
    first = table[(table["stage"] == 1) & (table["kind"] == "apart")]
    for key, name in (("network.inter_bandwidth_bytes_per_s", "link"), ("cluster.decode.max_num_seqs", "seats")):
        for (mix, value), some in first.groupby(["mix", key]):
            print(f"{mix}_{name}_{float(value):g}_passing_pct\t{100.0 * passing(some, TPOT_S).mean():.3g}")
    pd.DataFrame(rows).to_csv(HERE / "ratios.csv", index=False, float_format="%.4g")
    draw(table, HERE / "ratios.png")


KINDS = {"apart": ("prefill and decode apart", style.BLUE), "aggregated": ("aggregated", style.RUST)}


def draw(table: pd.DataFrame, path: Path) -> None:
    """Goodput against P99 TTFT of all designs, and below the best load under each limit of TPOT, a column for each mix."""
    figure = style.new_figure(11.5, 7.6, "64 H100 serving Qwen3-32B: prefill and decode apart or aggregated?")
    panels = figure.subplots(2, len(MIXES), height_ratios=(1.15, 1.0))
    for column, (name, mix) in enumerate(MIXES.items()):
        _fronts(panels[0][column], table[table["mix"] == name], f"{name}: {mix.prompt[0]:,} tokens in, {mix.output[0]:,} out", mix)
        _limits(panels[1][column], table, name)
        if not column:
            panels[0][column].set_ylabel("goodput, requests/s and GPU", fontsize=9.5, color=style.INK)
            panels[1][column].set_ylabel("highest load that passes,\nrequests/s and GPU", fontsize=9.5, color=style.INK)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", fontsize=9.0, frameon=False, ncols=2, bbox_to_anchor=(0.995, 1.0))
    style.save(figure, path)


def _fronts(axes: Axes, table: pd.DataFrame, title: str, mix: Mix) -> None:
    """All points that keep up, and the front of each kind in the second stage."""
    style.dress(axes, title, "P99 TTFT, s")
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.minorticks_off()
    for kind, (label, color) in KINDS.items():
        rows = table[(table["kind"] == kind) & keeps_up(table) & (table["goodput"] > 0)].sort_values("ttft_p99_s")
        axes.scatter(rows["ttft_p99_s"], rows["goodput"], s=7, color=color, alpha=0.4, linewidths=0.0)
        rows = rows[rows["stage"] == 2]
        most = np.maximum.accumulate(rows["goodput"].to_numpy(float))
        axes.step(rows["ttft_p99_s"], most, where="post", color=color, linewidth=1.9, label=label)
    axes.axvline(mix.ttft_s, color=style.GREY, linestyle=":", linewidth=1.2)
    axes.set_xlim(0.07, 25.0)
    axes.set_ylim(0.0)
    style.note(axes, f"requests within {mix.ttft_s:g} s of TTFT (dotted)\nand {1e3 * TPOT_S:.0f} ms of TPOT count")


def _limits(axes: Axes, table: pd.DataFrame, name: str) -> None:
    """The highest load that passes under each limit of TPOT; where the better kind changes is marked."""
    style.dress(axes, "", "limit of P99 TPOT, ms")
    loads = {}
    for kind, (_, color) in KINDS.items():
        found = [best(table, name, kind, tpot_s) for tpot_s in LIMITS_S]
        loads[kind] = np.array([0.0 if x is None else float(x["load"]) for x in found])
        axes.step(1e3 * LIMITS_S, loads[kind], where="post", color=color, linewidth=1.9)
    for kind, other in (("apart", "aggregated"), ("aggregated", "apart")):
        axes.fill_between(
            1e3 * LIMITS_S, loads[other], np.maximum(*loads.values()), step="post", color=KINDS[kind][1], alpha=0.14, linewidth=0
        )
    axes.set_xlim(5.0, 100.0)
    axes.set_ylim(0.0)
    style.note(axes, f"P99 TTFT within {MIXES[name].ttft_s:g} s")


def main() -> None:
    """Do one step of the study."""
    steps = {
        "points": tables,
        "run": lambda folder: simulate(tables(folder)),
        "refine": lambda folder: simulate(fine_points(folder)),
        "slices": slices,
        "report": report,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=list(steps))
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the tables and the sweeps")
    given = parser.parse_args()
    steps[given.step](given.folder)


if __name__ == "__main__":
    main()
