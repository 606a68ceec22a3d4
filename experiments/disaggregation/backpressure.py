"""Back-pressure: a decode pool that is too small makes requests wait on the prefill side, and TPOT does not notice.

Four H100 serve Qwen3-32B to more and more clients, each of which sends its next request once it has its answer, so that every load has a
steady state. The clusters:

fits: two prefill instances of one GPU each, one decode instance of two GPUs
few_blocks: the same with a tenth of the KV blocks on the decode instance
few_seats: the same with max_num_seqs=24 on the decode instance
aggregated: two instances of two GPUs that do both

Then few_blocks again with open arrivals above its capacity, request by request: what fills the prefill pool, and when. Prints a line a
figure, `figure<TAB>value`, and writes backpressure.csv and backpressure.png next to this file.

usage: python backpressure.py [--out DIR]    (DIR keeps the sweeps, and the same command resumes them)
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import simjax
from simjax.metrics.handover.parts import PARTS
from simjax.plot import style
from simjax.plot.handover.parts import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
BASE = ["model=qwen3-32b", "device=h100"]
APART = [
    *(f"cluster.prefill.{x}" for x in ("instances=2", "tensor_parallel_size=1")),
    *(f"cluster.decode.{x}" for x in ("instances=1", "tensor_parallel_size=2")),
]
FEW_BLOCKS, FEW_SEATS = 2000, 24
SHORTAGES: dict[str, list[Any]] = {
    "cluster.decode.num_gpu_blocks_override": [None, FEW_BLOCKS, None],
    "cluster.decode.max_num_seqs": [256, 256, FEW_SEATS],
}
SHORT = ["fits", "few_blocks", "few_seats"]
AGGREGATED = ["cluster.instances=2", "cluster.tensor_parallel_size=2"]
CLIENTS = [8, 16, 32, 48, 64, 96, 128, 160, 192, 224]
CLOSED = ["workload=closed_loop", "workload.num_requests=2000", "cluster.router=least_loaded"]
OPEN = ["workload.rate=4", "workload.num_requests=600", "cluster.router=least_loaded"]  # few_blocks carries 2.2 requests/s
TITLES = {"fits": "decode pool that fits", "few_blocks": "a tenth of its KV blocks", "aggregated": "aggregated, as many GPUs"}
WHERE = {
    "queued": ("in the queue of a prefill instance", style.GREY),
    "prefilling": ("being prefilled", style.BLUE),
    "held": ("held there after the prefill, and moving", style.GOLD),
    "decoding": ("on the decode instance", style.GREEN),
}


def sweeps(out: Path) -> pd.DataFrame:
    """One row for each cluster and number of clients."""
    axes = {"workload.concurrency": CLIENTS}
    tables = []
    for folder, base, zipped, names in (("apart", APART, [SHORTAGES], SHORT), ("aggregated", AGGREGATED, [], ["aggregated"])):
        plan = simjax.SweepPlan.of([*BASE, *CLOSED, *base], axes, zipped=zipped)
        table = simjax.run_sweep(plan, out / folder, resume=(out / folder / "sweep.json").exists())
        assert (table["status"] == "finished").all(), table["reason"].dropna().unique()
        if zipped:
            seats, blocks = (table[f"cluster.decode.{x}"] for x in ("max_num_seqs", "num_gpu_blocks_override"))
            short = np.where(seats == FEW_SEATS, 2, np.where(blocks.astype(str) == str(FEW_BLOCKS), 1, 0))
            table.insert(0, "cluster", np.array(names)[short])
        else:
            table.insert(0, "cluster", names[0])
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def counts(begins_s: np.ndarray, ends_s: np.ndarray, weight: np.ndarray, at_s: np.ndarray) -> np.ndarray:
    """The summed weights of the intervals [begin, end) that hold each of some times."""
    total = np.zeros(len(at_s))
    for edges_s, sign in ((begins_s, 1.0), (ends_s, -1.0)):
        order = np.argsort(edges_s)
        total += sign * np.concatenate([[0.0], np.cumsum(weight[order])])[np.searchsorted(edges_s[order], at_s, side="right")]
    return total


def overload() -> pd.DataFrame:
    """Under open arrivals, at every half second while requests arrive: requests by place, and blocks of the prefill pool by use."""
    short = f"cluster.decode.num_gpu_blocks_override={FEW_BLOCKS}"
    result = simjax.run(simjax.compose([*BASE, *OPEN, *APART, short])).result
    requests, handovers = result.requests, result.handovers
    assert handovers is not None
    at_s = np.arange(0.0, float(requests.arrival_s.max()), 0.5)
    blocks = -(-requests.prompt_tokens // 16.0)
    ones = np.ones(len(blocks))
    edges = [requests.arrival_s, requests.scheduled_s, handovers.prefill_finish_s, handovers.transfer_end_s, requests.finish_s]
    spans = list(zip(WHERE, edges[:-1], edges[1:], strict=True))
    found = pd.DataFrame({"t_s": at_s} | {name: counts(begin, end, ones, at_s) for name, begin, end in spans})
    pool = float(result.instances.num_blocks[:2].sum())
    for name, begin, end in spans[1:3]:
        found[f"{name}_share"] = counts(begin, end, blocks, at_s) / pool
    return found


def figures(table: pd.DataFrame, over: pd.DataFrame) -> dict[str, float]:
    """What the page says, as numbers."""
    of: dict[str, pd.DataFrame] = {str(name): rows.set_index("workload.concurrency") for name, rows in table.groupby("cluster")}
    last, found = CLIENTS[-1], {}
    for name, rows in of.items():
        found[f"{name}_requests_per_s"] = rows["requests_per_s"][last]
        found[f"{name}_ttft_mean_s"] = rows["ttft_mean_s"][last]
        found[f"{name}_tpot_mean_ms"] = 1e3 * rows["tpot_mean_s"][last]
        found[f"{name}_tpot_growth_pct"] = 100.0 * (rows["tpot_mean_s"][last] / rows["tpot_mean_s"][32] - 1.0)
        found[f"{name}_not_steady"] = float((rows["steady"] != 1).sum())
        if name != "aggregated":
            # Little's law: requests that are held, on the average, from the throughput and the time that they wait.
            held = rows["requests_per_s"] * (rows["ttft_handover_mean_s"] + rows["ttft_transfer_mean_s"])
            queued = rows["requests_per_s"] * rows["ttft_queue_mean_s"]
            found |= {f"{name}_held": held[last], f"{name}_queued": queued[last]}
            late = rows["ttft_queue_mean_s"] + rows["ttft_handover_mean_s"]
            found[f"{name}_waiting_share_of_ttft_pct"] = 100.0 * (late / rows["ttft_mean_s"])[last]
    full = over[over["queued"] >= 20]
    found["overload_first_queue_of_20_s"] = float(full["t_s"].iloc[0])
    before = over[over["t_s"] < full["t_s"].iloc[0]]
    found["overload_most_queued_before"] = float(before["queued"].max())
    found["overload_held_share_of_pool_pct"] = 100.0 * float(full["held_share"].mean())
    found["overload_prefilling_share_of_pool_pct"] = 100.0 * float(full["prefilling_share"].mean())
    used = full["held_share"] + full["prefilling_share"]
    found["overload_used_share_that_is_held_pct"] = 100.0 * float((full["held_share"] / used).mean())
    return found


def stack(axes: Axes, x: Any, parts: Sequence[Any], colors: Sequence[str], labels: Sequence[str]) -> None:
    """Areas on top of each other, the first one lowest."""
    axes.stackplot(x, *parts, colors=colors, labels=labels, alpha=0.85, linewidth=0.0)


def draw(table: pd.DataFrame, over: pd.DataFrame, path: Path) -> None:
    """TTFT by parts and TPOT over the load, of three clusters; below, one of them over time."""
    figure = style.new_figure(11.0, 9.4, "A decode pool that is too small: requests wait on the prefill side, TPOT does not show it")
    grid = figure.add_gridspec(3, 6, height_ratios=(1.25, 0.9, 1.1))
    upper = lower = None
    of = {str(name): rows.sort_values("workload.concurrency") for name, rows in table.groupby("cluster")}
    for column, (name, title) in enumerate(TITLES.items()):
        rows = of[name]
        clients = rows["workload.concurrency"].to_numpy(float)
        upper = figure.add_subplot(grid[0, 2 * column : 2 * column + 2], sharey=upper)
        style.dress(upper, title, "", "mean TTFT, s" if not column else "")
        if name == "aggregated":
            upper.fill_between(clients, 0.0, rows["ttft_mean_s"], color=style.VIOLET, alpha=0.85, linewidth=0.0, label="TTFT")
        else:
            parts = [rows[f"ttft_{part}_mean_s"] for part in PARTS]
            stack(upper, clients, parts, [COLORS[part] for part in PARTS], list(PARTS.values()))
        if name != "few_blocks":
            low, high = rows["ttft_mean_s"].iloc[[0, -1]]
            style.note(upper, f"TTFT {low:.2f} s with {clients[0]:.0f} clients,\n{high:.2f} s with {clients[-1]:.0f}", low_right=False)
        else:
            handles, labels = upper.get_legend_handles_labels()
            upper.legend(handles[::-1], labels[::-1], loc="upper left", fontsize=8.5, frameon=False)
        lower = figure.add_subplot(grid[1, 2 * column : 2 * column + 2], sharex=upper, sharey=lower)
        style.dress(lower, "", "clients, each with one request in flight", "TPOT, ms" if not column else "")
        lower.plot(clients, 1e3 * rows["tpot_mean_s"], color=style.BLUE, marker="o", markersize=3.5, label="mean")
        lower.plot(clients, 1e3 * rows["tpot_p99_s"], color=style.RUST, marker="o", markersize=3.5, label="P99")
        lower.set_ylim(0.0)
        if not column:
            lower.legend(loc="lower right", fontsize=8.5, frameon=False)
        for axes in (upper, lower):
            axes.set_xlim(0.0, clients[-1])
            if column:
                axes.tick_params(labelleft=False)
    left, right = figure.add_subplot(grid[2, :3]), figure.add_subplot(grid[2, 3:])
    _over_time(left, right, over)
    style.save(figure, path)


def _over_time(left: Axes, right: Axes, over: pd.DataFrame) -> None:
    """Blocks of the prefill pool by use, and requests by place."""
    style.dress(left, "few blocks, 4 requests/s: the prefill pool", "time, s", "share of its KV blocks, %")
    kinds = ("held", "prefilling")
    shares = [100.0 * over[f"{kind}_share"] for kind in kinds]
    stack(left, over["t_s"], shares, [WHERE[kind][1] for kind in kinds], ["held after the prefill", "being prefilled"])
    left.set_ylim(0.0, 118.0)
    left.set_yticks([0, 25, 50, 75, 100])
    style.dress(right, "few blocks, 4 requests/s: where the requests are", "time, s", "requests")
    order = ("decoding", "held", "prefilling", "queued")
    stack(right, over["t_s"], [over[x] for x in order], [WHERE[x][1] for x in order], [WHERE[x][0] for x in order])
    for axes in (left, right):
        axes.set_xlim(0.0, float(over["t_s"].iloc[-1]))
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="upper left", fontsize=8.5, frameon=False, ncols=2 if axes is left else 1)


def main() -> None:
    """Simulate, print the figures, write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the sweeps; unset: one that is deleted")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        table = sweeps(given.out or Path(scratch))
    over = overload()
    for figure, value in figures(table, over).items():
        print(f"{figure}\t{value:.6g}", flush=True)
    shown = ["cluster", "workload.concurrency", "steady", "requests_per_s", "ttft_mean_s", "ttft_p99_s", "tpot_mean_s", "tpot_p99_s"]
    shown += [*(f"ttft_{part}_mean_s" for part in PARTS), "preemptions"]
    table[shown].to_csv(HERE / "backpressure.csv", index=False, float_format="%.4g")
    draw(table, over, HERE / "backpressure.png")


if __name__ == "__main__":
    main()
