"""The figure of a run with a KV tier: where the prompt tokens came from over time, and how long requests waited for loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simjax.engine.host.result import Result
from simjax.metrics.caching import sources
from simjax.metrics.timeseries import bin_edges, timeline
from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_BINS = 60  # a prompt counts where it is first scheduled: with few requests per bin the areas are noisy
_PARTS = {"cached": ("on the device", style.GREEN), "loaded": ("loaded from the tier", style.BLUE), "computed": ("computed", style.GREY)}


def plot_tiers(result: Result, path: Path, title: str = "") -> Path:
    """Draw prompt tokens a second by their source, their shares, and the wait of every load, over time.

    Args:
        result: a run with KV tiers and a leap log.
        path: the PNG to write.
        title: title at the top.
    """
    edges = bin_edges(timeline(result, most_bins=_MOST_BINS))
    scale, unit = style.time_unit(float(edges[-1]))
    found = sources(result.requests, edges)
    figure = style.new_figure(10.5, 7.2, title)
    rates, shares, waits = figure.subplots(3, 1, sharex=True)
    whole = np.sum(list(found.values()), axis=0)
    _stack(rates, {name: values / np.diff(edges) for name, values in found.items()}, edges * scale)
    _stack(shares, {name: 100.0 * values / np.maximum(whole, 1) for name, values in found.items()}, edges * scale)
    style.dress(rates, "prompt tokens by the source of their KV cache", "", "tokens/s")
    style.dress(shares, "shares", "", "prompt tokens, %")
    style.legend(rates, columns=len(_PARTS))
    shares.set_ylim(0.0, 105.0)
    _draw_waits(waits, result, scale)
    waits.set_xlabel(f"time, {unit}")
    for axes in (rates, waits):
        axes.set_ylim(bottom=0.0)
        style.plain_thousands(axes)
    rates.set_xlim(edges[0] * scale, edges[-1] * scale)
    return style.save(figure, path)


def _stack(axes: Axes, found: dict[str, np.ndarray], edges: np.ndarray) -> None:
    """Draw areas on top of each other."""
    base = np.zeros(len(edges) - 1)
    for name, (label, color) in _PARTS.items():
        top = base + found[name]
        axes.stairs(top, edges, baseline=base, fill=True, color=color, alpha=0.55, linewidth=0.0, label=label)
        base = top


def _draw_waits(axes: Axes, result: Result, scale: float) -> None:
    """Draw the seconds of each load: its copy, and all until the first step of the request."""
    requests = result.requests
    loaded = (requests.tier_hit_tokens > 0) & np.isfinite(requests.scheduled_s)
    start_s = requests.tier_load_start_s[loaded]
    wait_s = requests.scheduled_s[loaded] - start_s
    factor, unit = style.latency_unit(wait_s) if len(wait_s) else (1.0, "s")
    style.dress(axes, "loads", "", f"{unit} from the start of the copy")
    if not len(wait_s):
        style.note(axes, "nothing was loaded")
        return
    copy_s = requests.tier_load_end_s[loaded] - start_s
    for values, color, label in ((wait_s, style.RUST, "to the first step"), (copy_s, style.BLUE, "to its end")):
        axes.plot(start_s * scale, values * factor, ".", color=color, markersize=3, alpha=0.6, label=label)
    style.legend(axes, columns=2)
