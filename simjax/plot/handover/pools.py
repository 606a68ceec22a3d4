"""Pools of instances and the links between them over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simjax.deployment import Role
from simjax.engine.host.result import Result
from simjax.metrics.handover.report import links_frame
from simjax.metrics.timeseries import bin_edges, timeline
from simjax.plot import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLORS = {Role.PREFILL: style.BLUE, Role.DECODE: style.RUST, Role.BOTH: style.GREEN}
_NAMES = {Role.PREFILL: "prefill", Role.DECODE: "decode", Role.BOTH: "both phases"}
_MOST_BINS = 250


def plot_pools(result: Result, path: Path, title: str = "") -> Path:
    """Draw the requests of each pool, its KV cache, and the use of links over time.

    Requests that wait on decode instances are those whose prefill has ended: their KV cache is on its way, or waits for blocks or a seat.
    """
    assert result.pools is not None
    frame = timeline(result, most_bins=_MOST_BINS)
    edges_s = bin_edges(frame)
    scale, unit = style.time_unit(float(edges_s[-1] - edges_s[0]))
    edges = edges_s * scale
    pools = {role: result.pools.of_role(role) for role in COLORS if len(result.pools.of_role(role))}
    figure = style.new_figure(10.5, 2.05 * (len(pools) + 2), title)
    *requests, kv, links = panels = figure.subplots(len(pools) + 2, 1, sharex=True)
    style.dress(kv, "KV cache: mean and range of the instances", "", "blocks used, %")
    for axes, (role, members) in zip(requests, pools.items(), strict=True):
        grid = {name: _grid(frame, name)[members] for name in ("running", "waiting", "kv_used_fraction")}
        style.dress(axes, f"{_NAMES[role]}: {len(members)} instance{'s' if len(members) > 1 else ''}", "", "requests")
        line = {"baseline": None, "color": COLORS[role], "linewidth": 1.3}
        axes.stairs(grid["running"].sum(axis=0), edges, label="running", **line)
        axes.stairs(grid["waiting"].sum(axis=0), edges, label="waiting", **line, linestyle=(0, (3, 1.5)))
        style.legend(axes, columns=2)
        used = grid["kv_used_fraction"] * 100.0
        kv.stairs(np.average(used, axis=0, weights=np.maximum(result.instances.num_blocks[members], 1)), edges, label=_NAMES[role], **line)
        if len(members) > 1:
            kv.stairs(used.max(axis=0), edges, baseline=used.min(axis=0), fill=True, color=COLORS[role], alpha=0.18, linewidth=0.0)
    style.legend(kv, columns=len(pools))
    _draw_links(links, links_frame(result, edges_s), edges)
    panels[-1].set_xlabel(f"time, {unit}")
    for axes in panels:
        axes.set_ylim(bottom=0.0)
        style.plain_thousands(axes)
    kv.set_ylim(top=105.0 if kv.get_ylim()[1] > 40.0 else None)
    kv.set_xlim(edges[0], edges[-1])
    return style.save(figure, path)


def _draw_links(axes: Axes, frame: pd.DataFrame, edges: np.ndarray) -> None:
    """Draw the use of the link that carries most of its capacity over the run, and the range over all links that carry something."""
    style.dress(axes, "links: share of their capacity", "", "capacity used, %")
    if frame.empty:
        style.note(axes, "nothing was moved")
        return
    names = frame["link"].drop_duplicates().to_numpy()
    use = frame["use_fraction"].to_numpy(np.float64).reshape(len(names), -1) * 100.0
    busiest = int(use.mean(axis=1).argmax())
    axes.stairs(use[busiest], edges, baseline=None, color=style.VIOLET, linewidth=1.3, label=f"{names[busiest]}, the busiest")
    if len(names) > 1:
        label = f"range of {len(names)} links"
        axes.stairs(use.max(axis=0), edges, baseline=use.min(axis=0), fill=True, color=style.VIOLET, alpha=0.18, linewidth=0.0, label=label)
    style.legend(axes, columns=2)


def _grid(frame: pd.DataFrame, name: str) -> np.ndarray:
    """A column of a timeline by instance and bin, float64[N, B]."""
    return frame[name].to_numpy(np.float64).reshape(len(set(frame["instance"])), -1)
