"""Which cluster serves Qwen3-32B cheapest, and which with the least energy? Devices, caps, instance sizes, prefill apart from decode.

A design is a slice of a cluster: eight GPUs whose instances run both phases, or about as many divided into prefill and decode pools. Each
meets the same mix at eleven loads, and those of one kind of device also with power caps at shares of the limit in `profiles/power`. Money
is what `profiles/prices` says for rented devices, energy that of the devices and of their share of the servers, at the plug. `points`
writes the table of the ordinary sweep,

    python frontier.py points DIR
    simjax run -m sweep.points=DIR/designs.csv model=qwen3-32b cluster.router=least_loaded power=utilization price=rented out=DIR/designs

`run` does the same and resumes what was stopped; `report` reads it, prints a line a figure, `figure<TAB>value`, and writes frontier.csv
(the designs that no other beats) and frontier.png next to this file.

usage: python frontier.py points|run|report DIR
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
import yaml

import simjax
from simjax.disk.paths import PROFILES
from simjax.explore.pareto.dominance import nondominated
from simjax.explore.store.table import read_results
from simjax.explore.values import format_value
from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
BASE = ["model=qwen3-32b", "cluster.router=least_loaded", "power=utilization", "price=rented"]
DEVICES = ("b200", "h200", "h100", "a100", "rtx_pro_6000", "l40s")
GPUS, SIZES = 8, (1, 2, 4, 8)
CAPS = (1.0, 0.85, 0.7, 0.55, 0.4)  # of the device's limit
LOADS = tuple(np.round(np.geomspace(0.5, 16.0, 11), 3).tolist())  # requests/s and GPU
PAIRS = (("h100", "h100"), ("h200", "h200"), ("b200", "b200"), ("b200", "h200"), ("h100", "h200"), ("h100", "a100"), ("b200", "a100"))
PROMPT, OUTPUT = (1000, 4000), (300, 1000)  # mean and greatest, tokens
TTFT_S, TPOT_S = 1.0, 0.05
LIMITS_S = (0.01, 0.015, 0.02, 0.03, 0.05)
USD, J = "cost_per_million_tokens_usd", "energy_per_output_token_j"
SHOWN = {  # columns of frontier.csv
    "design": "design",
    "load": "requests_per_s_per_gpu",
    "goodput_per_gpu": "goodput_per_gpu",
    USD: USD,
    J: J,
    "ttft_p99_s": "ttft_p99_s",
    "tpot_p99_s": "tpot_p99_s",
}


class Split(NamedTuple):
    """Prefill and decode instances, with the GPUs of each instance."""

    prefill: int
    prefill_size: int
    decode: int
    decode_size: int

    @property
    def gpus(self) -> int:
        """GPUs of both pools."""
        return self.prefill * self.prefill_size + self.decode * self.decode_size


SPLITS = (
    Split(4, 1, 2, 2),
    Split(4, 1, 1, 4),
    Split(2, 2, 2, 2),
    Split(2, 2, 1, 4),
    Split(1, 4, 1, 4),
    Split(2, 1, 3, 2),
    Split(1, 2, 3, 2),
    Split(1, 2, 1, 4),
    Split(2, 1, 1, 4),
    Split(3, 2, 1, 2),
)


def limit_w(device: str) -> float:
    """The power limit of a device, W."""
    return float(yaml.safe_load((PROFILES / "power" / f"{device}.yaml").read_text())["limit_w"])


def requests(gpus: int) -> Iterator[dict[str, Any]]:
    """The mix at each load: the arrivals of 40 s, at least 240, within two limits."""
    lengths = {
        f"workload.{name}.{key}": x[i] for name, x in (("prompt", PROMPT), ("output", OUTPUT)) for i, key in enumerate(("mean", "max"))
    }
    for load in LOADS:
        rate = round(load * gpus, 3)
        number = max(240, round(40.0 * rate))
        yield lengths | {"workload.rate": rate, "workload.num_requests": number, "slo.ttft_s": TTFT_S, "slo.tpot_s": TPOT_S}


def groups() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Kinds of instances of every slice, with the device whose limit the caps are shares of, or nothing for pools of unlike devices."""
    for device, size in itertools.product(DEVICES, SIZES):
        yield device, [{"device": device, "instances": GPUS // size, "tensor_parallel_size": size}]
    for (prefill, decode), split in itertools.product(PAIRS, SPLITS):
        pools = (("prefill", prefill, split.prefill, split.prefill_size), ("decode", decode, split.decode, split.decode_size))
        keys = ("role", "device", "instances", "tensor_parallel_size")
        yield decode if prefill == decode else "", [dict(zip(keys, pool, strict=True)) for pool in pools]


def points() -> Iterator[dict[str, Any]]:
    """Every slice, under every cap that it may have, at every load."""
    for device, kinds in groups():
        gpus = sum(kind["instances"] * kind["tensor_parallel_size"] for kind in kinds)
        for share in CAPS if device else CAPS[:1]:
            cap = None if share == 1.0 else round(share * limit_w(device))
            for mix in requests(gpus):
                yield {"cluster.groups": kinds, "power.cap_w": cap} | mix


def write_points(folder: Path) -> Path:
    """The table of points, written."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, path = list(points()), folder / "designs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows([format_value(row[key]) for key in rows[0]] for row in rows)
    return path


def simulate(path: Path) -> None:
    """Simulate the table into the folder of its name; what is there is not simulated again."""
    out, began = path.with_suffix(""), time.perf_counter()
    plan = simjax.SweepPlan.of(BASE, points=path)
    print(plan.describe(), flush=True)
    resume = (out / "sweep.json").exists()
    table = simjax.run_sweep(plan, out, on_progress=lambda done, total: print(f"  {done:,} of {total:,}", flush=True), resume=resume)
    print(f"designs_and_loads\t{len(table)}\nseconds\t{time.perf_counter() - began:.0f}")


def results(folder: Path) -> pd.DataFrame:
    """The finished rows, with the name of the design, its devices, cap, load and whether prefill and decode are apart."""
    table, every = read_results(folder / "designs"), list(points())
    kinds = [every[number]["cluster.groups"] for number in table["point"]]
    table["design"] = [design_name(x) for x in kinds]
    table["apart"] = [len(x) == 2 for x in kinds]
    table["device"] = [" + ".join(dict.fromkeys(kind["device"] for kind in x)) for x in kinds]
    caps = [every[number]["power.cap_w"] for number in table["point"]]
    table["cap"] = [1.0 if cap is None else cap / limit_w(x[0]["device"]) for cap, x in zip(caps, kinds, strict=True)]
    table["design"] += [f", {cap:.0f} W" if cap is not None else "" for cap in caps]
    table = table[table["status"] == "finished"].copy()
    table["steady"] = table["steady"].astype(float)  # missing where a run is too short to tell
    table["load"] = table["workload.rate"].astype(float) / table["gpus"].astype(float)
    return table


def design_name(kinds: list[dict[str, Any]]) -> str:
    """`4 x b200 TP2`, or `4 x b200 TP1 prefill + 2 x h200 TP2 decode`."""
    return " + ".join(
        f"{kind['instances']} x {kind['device']} TP{kind['tensor_parallel_size']}" + (f" {kind['role']}" if "role" in kind else "")
        for kind in kinds
    )


def keeps_up(table: pd.DataFrame) -> pd.Series:
    """Which rows are steady runs, or too short to tell and answer nine tenths of the load while it lasts."""
    return (table["steady"] == 1) | (table["steady"].isna() & (table["requests_per_s"] >= 0.9 * table["workload.rate"]))


def passing(table: pd.DataFrame, tpot_s: float = TPOT_S) -> pd.Series:
    """Which rows keep up, with the P99 of TTFT within its limit and that of TPOT within `tpot_s`."""
    return keeps_up(table) & (table["ttft_p99_s"] <= TTFT_S) & (table["tpot_p99_s"] <= tpot_s)


def front(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other beats in goodput per GPU, dollars per token, joules per token and P99 TPOT at once."""
    losses = np.stack([-table["goodput_per_gpu"], table[USD], table[J], table["tpot_p99_s"]], axis=1).astype(float)
    return table[nondominated(losses)].sort_values("tpot_p99_s")


def report(folder: Path) -> None:
    """Print the figures, write the table of the designs that no other beats and the picture."""
    table = results(folder)
    good = table[passing(table)]
    best = front(good)
    print(f"designs_and_loads\t{len(table)}\ndesigns\t{table['design'].nunique()}\npassing\t{len(good)}\nfront\t{len(best)}")
    print(f"front_apart\t{best['apart'].sum()}\nfront_capped\t{(best['cap'] < 1.0).sum()}")
    for device, some in best.groupby("device"):
        print(f"front_{device.replace(' + ', '_and_')}\t{len(some)}")
    for name, key in (("cheapest", USD), ("least_energy", J)):
        for tpot_s in LIMITS_S:
            for kind, some in (("both", table[~table["apart"]]), ("apart", table[table["apart"]])):
                rows = some[passing(some, tpot_s)]
                if len(rows):
                    row = rows.loc[rows[key].idxmin()]
                    print(f"{name}_{1e3 * tpot_s:.0f}ms_{kind}\t{row[key]:.3g}\t{row['design']} at {row['load']:.3g}/s and GPU")
    for device, rows in under_caps(table).items():
        for _, row in rows.iterrows():
            changes = f"{row['tpot_pct']:+.1f} % mean TPOT\t{row['energy_pct']:+.1f} % energy a token"
            print(f"{device}_cap_{100 * row['cap']:.0f}pct\t{changes}\t{row['design']} at {row['load']:.3g}/s and GPU")
    best[list(SHOWN)].rename(columns=SHOWN).to_csv(HERE / "frontier.csv", index=False, float_format="%.4g")
    draw(table, best, HERE / "frontier.png")


def under_caps(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each device the design of the highest goodput, at the load two steps below: what caps change there, in percent.

    Returns:
        rows by cap, with `tpot_pct` and `energy_pct` of mean TPOT and energy a token against no cap; those that keep up.
    """
    found = {}
    for device in DEVICES:
        rows = table[(table["device"] == device) & ~table["apart"]]
        whole = rows[passing(rows) & (rows["cap"] == 1.0)]
        if whole.empty:  # of this device no design keeps the limits at any load
            continue
        top = whole.loc[whole["goodput_per_gpu"].idxmax()]
        load = LOADS[max(0, int(np.argmin(np.abs(np.array(LOADS) - top["load"]))) - 2)]
        same = rows[rows["design"].str.startswith(top["design"]) & np.isclose(rows["load"], load, rtol=0.01)].sort_values("cap")
        same = same[keeps_up(same)]
        base = same[same["cap"] == 1.0].iloc[0]
        changes = {name: 100.0 * (same[key] / base[key] - 1.0) for name, key in (("tpot_pct", "tpot_mean_s"), ("energy_pct", J))}
        found[device] = same.assign(**changes)
    return found


COLORS = dict(zip(DEVICES, (*style.SERIES, style.GREY), strict=True))


def draw(table: pd.DataFrame, best: pd.DataFrame, path: Path) -> None:
    """Dollars against joules of all that pass; what a limit of TPOT costs in both; and what caps take and give."""
    figure = style.new_figure(11.5, 8.4, "Qwen3-32B, 1,000 tokens in and 300 out: who serves it cheapest, and who with the least energy?")
    (scatter, capped), (money, energy) = figure.subplots(2, 2, height_ratios=(1.2, 1.0))
    _scatter(scatter, table[passing(table)], best)
    _caps(capped, under_caps(table))
    for axes, key, words in ((money, USD, "least USD per million tokens"), (energy, J, "least J per output token")):
        _limits(axes, table, key, words)
    style.save(figure, path)


def _scatter(axes: Axes, good: pd.DataFrame, best: pd.DataFrame) -> None:
    """A mark for each design and load that passes, by its decode device; rings around those that no other beats."""
    style.dress(axes, "every design and load within the limits", "energy per output token, J", "USD per million tokens")
    axes.set_xscale("log")
    axes.set_yscale("log")
    decode = good["device"].str.split(" + ", regex=False).str[-1]
    for device, color in COLORS.items():
        for apart, mark in ((False, "o"), (True, "^")):
            some = good[(decode == device) & (good["apart"] == apart)]
            axes.scatter(some[J], some[USD], s=13, marker=mark, color=color, alpha=0.55, linewidths=0.0, label=None if apart else device)
    axes.scatter(best[J], best[USD], s=38, facecolors="none", edgecolors=style.INK, linewidths=0.9)
    _plain_ticks(axes)
    axes.legend(fontsize=8.5, frameon=False, loc="lower right", handletextpad=0.2)
    apart, ring = "triangle: prefill apart (colour of the decode GPUs)", "ring: no other has more goodput, lower cost,"
    style.note(axes, f"{apart}\n{ring}\nless energy and a lower P99 TPOT", low_right=False)


def _plain_ticks(axes: Axes) -> None:
    """1, 2 and 5 times powers of ten along logarithmic axes, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _caps(axes: Axes, under: dict[str, pd.DataFrame]) -> None:
    """Energy a token against TPOT under caps, both against no cap."""
    style.dress(axes, "what power caps change at about half of the highest load", "mean TPOT, % more", "energy per output token, % more")
    for device, rows in under.items():
        axes.plot(rows["tpot_pct"], rows["energy_pct"], "-o", color=COLORS[device], markersize=4, linewidth=1.5, label=device)
    style.note(axes, f"caps at {', '.join(f'{100 * cap:.0f}' for cap in CAPS[1:])} % of the device's limit", low_right=False)


def _limits(axes: Axes, table: pd.DataFrame, key: str, words: str) -> None:
    """The least of a column under each limit of P99 TPOT, by the device (both phases on one), and with prefill apart."""
    style.dress(axes, "", "limit of P99 TPOT, ms", words)
    limits = np.geomspace(0.006, TPOT_S, 60)
    kinds = {device: table[(table["device"] == device) & ~table["apart"]] for device in DEVICES} | {"apart": table[table["apart"]]}
    for name, some in kinds.items():
        least = [some[passing(some, limit)][key].min() for limit in limits]
        line = {"color": style.INK, "linestyle": (0, (4, 1.6))} if name == "apart" else {"color": COLORS[name]}
        axes.step(1e3 * limits, least, where="post", linewidth=1.7, label="prefill apart" if name == "apart" else None, **line)
    axes.set_yscale("log")
    axes.set_xscale("log")
    _plain_ticks(axes)
    axes.legend(fontsize=8.5, frameon=False, loc="upper right")


def main() -> None:
    """Do one step of the study."""
    steps = {"points": write_points, "run": lambda folder: simulate(write_points(folder)), "report": report}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=list(steps))
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the table and the sweep")
    given = parser.parse_args()
    steps[given.step](given.folder)


if __name__ == "__main__":
    main()
