"""The style that all figures share: colours, a light grid, left-aligned titles. Matplotlib's global state is never changed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simjax.disk.files import make_folder, write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE = "#1f5fa8"
RUST = "#b4552d"
GREEN = "#3b7d4f"
GOLD = "#c08a1e"
VIOLET = "#6a4c93"
INK = "#2b2b2b"
GREY = "#6b6b6b"
GRID = "#e4e4e4"
SERIES = (BLUE, RUST, GREEN, GOLD, VIOLET)
DPI = 150
_WIDE = 30.0  # values that span more than this factor get a logarithmic axis


def series(count: int) -> list[str]:
    """Colours of so many lines or groups: those of `SERIES`, or else steps of one scale."""
    if count <= len(SERIES):
        return list(SERIES[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](x)) for x in np.linspace(0.0, 0.92, count)]


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """A white figure of the given size in inches, drawn without pyplot, with `title` at its top left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, x=0.008, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    return figure


def dress(axes: Axes, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Apply the shared style to a panel."""
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9a9a9a")
    axes.tick_params(which="both", colors=GREY, labelsize=8.5)
    axes.set_xlabel(xlabel, fontsize=9.5, color=INK)
    axes.set_ylabel(ylabel, fontsize=9.5, color=INK)
    if title:
        axes.set_title(title, loc="left", fontsize=10.5, color=INK)


def legend(axes: Axes, columns: int = 1) -> None:
    """A small legend without a frame, above the panel at its right, where it cannot cover a line."""
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=8.5, frameon=False, ncols=columns, handlelength=1.6, borderaxespad=0.2,
        columnspacing=1.4,
    )  # fmt: skip


def note(axes: Axes, text: str, color: str = GREY, low_right: bool = True) -> None:
    """A short text in the lower right corner of a panel, or in its upper left one."""
    x, y, across, up = (0.97, 0.06, "right", "bottom") if low_right else (0.04, 0.94, "left", "top")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2.0}
    axes.text(x, y, text, transform=axes.transAxes, ha=across, va=up, fontsize=8.5, color=color, linespacing=1.5, bbox=box)


def plain_thousands(axes: Axes) -> None:
    """Format the numbers along the y axis as 20,000."""
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))


def save(figure: Figure, path: Path, dpi: int = DPI) -> Path:
    """Write a PNG (the folder is created when missing) and return its path."""
    make_folder(path.parent)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png")
    write_file(path, drawn.getvalue())
    return path


def latency_unit(values_s: np.ndarray) -> tuple[float, str]:
    """Factor from seconds to a unit for latencies, and the unit's name: milliseconds if the largest is under ten seconds."""
    return (1.0, "s") if len(values_s) and np.max(values_s) >= 10.0 else (1e3, "ms")


def time_unit(span_s: float) -> tuple[float, str]:
    """Factor from seconds to a unit for a time axis of this span, and the unit's name."""
    return (1.0, "s") if span_s < 600.0 else (1.0 / 60.0, "min") if span_s < 6 * 3600.0 else (1.0 / 3600.0, "h")


def cdf(axes: Axes, values: np.ndarray, color: str, label: str, dashed: bool = False) -> None:
    """Draw the empirical distribution of the values as a step line, in percent."""
    ordered = np.sort(values)
    share = np.arange(1, len(ordered) + 1) / len(ordered) * 100.0
    axes.step(
        np.concatenate([ordered[:1], ordered]), np.concatenate([[0.0], share]), where="post", color=color, label=label,
        linewidth=1.8, linestyle=(0, (4, 1.6)) if dashed else "-",
    )  # fmt: skip
    axes.set_ylim(0.0, 101.0)
    axes.set_yticks([0, 25, 50, 75, 90, 100])


def is_wide(values: np.ndarray) -> bool:
    """Whether the positive values span more than a factor of 30, their lowest percent excluded, and so need a logarithmic axis."""
    values = values[values > 0]
    return len(values) > 0 and bool(np.max(values) / np.percentile(values, 1) >= _WIDE)


def log_if_wide(axes: Axes, samples: Sequence[np.ndarray]) -> None:
    """Make the x axis logarithmic if the samples are wide."""
    values = np.concatenate(samples)
    if is_wide(values):
        log_axis(axes, values, "x")


def log_axis(axes: Axes, values: np.ndarray, which: str) -> None:
    """Make the "x" or "y" axis logarithmic, with plain numbers at every power of ten, or at 1, 2, 5 when there are few powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = values[values > 0]
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    decades = np.log10(np.max(values) / np.min(values))
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
    axis.set_minor_formatter(NullFormatter())
