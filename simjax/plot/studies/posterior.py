"""The figure of a posterior: what a calibration learned about each parameter, and which parameters it cannot separate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _LINE, _CELL = 10.5, 0.34, 0.33  # inches: figure width, height of a parameter's line, size of a cell of the correlations
_Z90 = 1.6448536269514722  # half-width of the 90 % interval of a normal distribution, in standard deviations
_PRIOR = "#d5d5d5"
_LEAST_REACH = 2.2  # prior standard deviations that the axis shows on either side
_STRONG = 0.5  # correlations of at least this size are listed
_MOST_PAIRS = 8  # pairs listed
_MOST_DECIMALS = 4
_COLUMNS = ((10.0, "prior"), (105.0, "posterior"), (225.0, "learned"))  # points from the right edge of the panel


def plot_posterior(parameters: Sequence[Mapping[str, Any]], path: Path, correlation: np.ndarray | None = None, title: str = "") -> Path:
    """Draw the priors and posteriors of parameters, and the correlations of the fitted ones.

    Each parameter's line is in standard deviations of its prior (of the logarithm, or of the logit of a share) from the prior's median:
    the one scale that factors, times and shares have in common. The numbers next to it are in the parameter's own unit.

    Args:
        parameters: one mapping per parameter with `name`, `unit` ("factor", "s" or "share"), `text` (description), `prior` (median),
            `prior_sd` (of the logarithm or logit), `value` (posterior median, or the value of a frozen parameter) and `fitted`; fitted ones
            also have `low` and `high` (90 % interval of the value), `at_bound` and `constrained` (share of the prior's variance that the
            data removed).
        path: the PNG to write.
        correlation: float64[P, P] of the fitted parameters, in their order in `parameters`; not drawn if None or if P < 2.
        title: title at the top of the figure.

    Returns:
        The path.
    """
    fitted = [i for i, p in enumerate(parameters) if p["fitted"]]
    places = {parameter: place for place, parameter in enumerate(fitted)}
    best = sorted(fitted, key=lambda i: -parameters[i]["constrained"])
    lines = [parameters[i] for i in best] + [p for p in parameters if not p["fitted"]]
    related = correlation is not None and len(fitted) > 1
    heights = [_LINE * (len(lines) + 1) + 0.5, *([_CELL * len(fitted) + 1.2] if related else [])]
    figure = style.new_figure(_WIDTH, sum(heights) + 0.7, title or "Posterior of each parameter")
    # Subfigures have margins of their own: names and numbers next to the lines need more room than those next to the correlations.
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_lines(parts[0].subplots(), lines)
    if related:
        order = [places[i] for i in best]
        _draw_correlations(parts[1].subplots(), np.asarray(correlation)[np.ix_(order, order)], [parameters[i]["name"] for i in best])
    _caption(figure, lines)
    return style.save(figure, path)


def _draw_lines(axes: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    """Priors as bars, posteriors as dots with their intervals; names and descriptions at the left, numbers at the right."""
    style.dress(axes, "", "standard deviations of the prior, from its median")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0.0)
    ends = []
    labels = {"prior": "prior, 90 %", "posterior": "posterior, median and 90 %", "frozen": "frozen"}  # each named once in the legend
    for y, p in enumerate(lines):
        color = _color(p)
        if p["fitted"]:
            axes.plot([-_Z90, _Z90], [y, y], color=_PRIOR, linewidth=11.0, solid_capstyle="butt", zorder=2, label=labels.pop("prior", ""))
            at, low, high = (_whitened(p, p[key]) for key in ("value", "low", "high"))
            axes.plot([low, high], [y, y], color=color, linewidth=3.0, solid_capstyle="butt", zorder=3)
            label = "" if p["at_bound"] else labels.pop("posterior", "")
            axes.plot([at], [y], "o", color=color, markersize=5.0, zorder=4, label=label)
            ends += [low, high]
        elif math.isfinite(at := _whitened(p, p["value"])):
            axes.plot([at], [y], "o", color=color, markersize=5.0, fillstyle="none", zorder=4, label=labels.pop("frozen", ""))
        _describe(axes, y, p, color)
    reach = max(_LEAST_REACH, 1.08 * float(np.max(np.abs(ends), initial=0.0)))
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks([])
    for x, header in _COLUMNS:
        _beside(axes, -0.75, 1.0, (x, 0.0), header, color=style.INK, va="bottom", fontsize=9.0)
    if axes.get_legend_handles_labels()[0]:
        style.legend(axes, columns=3)


def _color(p: Mapping[str, Any]) -> str:
    return style.GREY if not p["fitted"] else style.RUST if p["at_bound"] else style.BLUE


def _describe(axes: Axes, y: int, p: Mapping[str, Any], color: str) -> None:
    """Write a parameter's name and description at the left of its line, and its numbers at the right."""
    ink = style.INK if p["fitted"] else style.GREY
    _beside(axes, y, 0.0, (-7.0, 0.5), p["name"], color=ink, ha="right", va="bottom", fontsize=9.0)
    _beside(axes, y, 0.0, (-7.0, -0.5), p["text"], color=style.GREY, ha="right", va="top", fontsize=7.0)
    if p["fitted"]:
        low, high = (_unwhitened(p, end) for end in (-_Z90, _Z90))
        learned = ">99 %" if p["constrained"] >= 0.995 else f"{100.0 * p['constrained']:.0f} %"
        learned += ", at bound" if p["at_bound"] else ""
        texts = (_in_words(p["unit"], p["prior"], low, high), _in_words(p["unit"], p["value"], p["low"], p["high"]), learned)
    else:
        texts = ("", _in_words(p["unit"], p["value"], p["value"], p["value"]), "frozen")
    for (x, _), text, tint in zip(_COLUMNS, texts, (style.GREY, color, color), strict=True):
        _beside(axes, y, 1.0, (x, 0.0), text, color=tint, va="center", fontsize=8.5)


def _beside(axes: Axes, y: float, edge: float, offset: tuple[float, float], text: str, **how: Any) -> None:
    """Write text some points away from the left (0) or right (1) edge of a panel, at the height of a line."""
    axes.annotate(
        text, (edge, y), xycoords=axes.get_yaxis_transform(), xytext=offset, textcoords="offset points", annotation_clip=False, **how
    )


def _whitened(p: Mapping[str, Any], value: float) -> float:
    """Distance of a value from the prior's median in prior standard deviations; infinite outside the prior's support."""
    if not 0.0 < value < (1.0 if p["unit"] == "share" else math.inf):
        return math.copysign(math.inf, value - p["prior"])
    return (_transformed(p["unit"], value) - _transformed(p["unit"], p["prior"])) / p["prior_sd"]


def _transformed(unit: str, value: float) -> float:
    return math.log(value) - (math.log1p(-value) if unit == "share" else 0.0)


def _unwhitened(p: Mapping[str, Any], at: float) -> float:
    moved = _transformed(p["unit"], p["prior"]) + at * p["prior_sd"]
    return 1.0 / (1.0 + math.exp(-moved)) if p["unit"] == "share" else math.exp(moved)


def _in_words(unit: str, value: float, low: float, high: float) -> str:
    """A value with its interval, such as "52 µs (41–66)", to the digits that are significant given the interval."""
    scale, name = 1.0, ""
    if unit == "share":
        scale, name = 100.0, " %"
    elif unit == "s":
        scale, name = (1e6, " µs") if value < 1e-3 else (1e3, " ms") if value < 1.0 else (1.0, " s")
    known = scale * (high - low) / 8.0 or math.inf
    numbers = [scale * x for x in (value, low, high)]
    decimals = [_decimals(x, known) for x in numbers]
    if high < 10.0 * low:
        decimals = [max(decimals)] * 3
    shown = [f"{x:,.{places}f}" for x, places in zip(numbers, decimals, strict=True)]
    return f"{shown[0]}{name}" if low == high else f"{shown[0]}{name} ({shown[1]}–{shown[2]})"


def _decimals(x: float, known: float) -> int:
    """Decimals that show at least two digits of a number, and resolve `known`."""
    wanted = [0 if math.isinf(known) else -math.floor(math.log10(known)), 1 - math.floor(math.log10(abs(x))) if x else 0]
    return min(max(0, *wanted), _MOST_DECIMALS)


def _draw_correlations(axes: Axes, correlation: np.ndarray, names: Sequence[str]) -> None:
    """Draw the lower triangle of the correlations as a heat map with numbers in percent, and list the strongest of them."""
    from matplotlib.colors import LinearSegmentedColormap

    style.dress(axes, "correlations of the posterior, %")
    axes.grid(False)
    cells = np.ma.masked_array(correlation, np.triu(np.ones_like(correlation, bool)))[1:, :-1]
    colors = LinearSegmentedColormap.from_list("", [style.RUST, "#f7f7f7", style.BLUE])
    axes.imshow(cells, cmap=colors, vmin=-1.0, vmax=1.0, aspect="equal")
    axes.set_anchor("NW")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0.0)
    axes.set_yticks(range(len(names) - 1), names[1:])
    axes.set_xticks(range(len(names) - 1), names[:-1], rotation=40.0, ha="right", rotation_mode="anchor")
    for row, column in _below_diagonal(len(names)):
        r = float(correlation[row, column])
        ink = "white" if abs(r) > 0.6 else style.INK if abs(r) > 0.2 else "#a0a0a0"
        axes.text(column, row - 1, f"{round(100.0 * r)}".replace("-", "−"), ha="center", va="center", fontsize=7.5, color=ink)
    # At the right edge of the figure, where the upper triangle always leaves room.
    axes.annotate(
        _strongest(correlation, names), (0.99, 1.0), xycoords=("subfigure fraction", "axes fraction"), ha="right", va="top",
        multialignment="left", fontsize=8.5, color=style.INK, linespacing=1.5, annotation_clip=False,
    ).set_in_layout(False)  # fmt: skip


def _below_diagonal(size: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(size) for j in range(i)]


def _strongest(correlation: np.ndarray, names: Sequence[str]) -> str:
    """The pairs of parameters that are hard to separate, the strongest first."""
    pairs = sorted(_below_diagonal(len(names)), key=lambda pair: -abs(correlation[pair]))
    strong = [f"{names[j]}, {names[i]}  {100.0 * correlation[i, j]:+.0f}" for i, j in pairs if abs(correlation[i, j]) >= _STRONG]
    if not strong:
        return f"no two are correlated\nby {100.0 * _STRONG:.0f} % or more"
    more = [f"and {len(strong) - _MOST_PAIRS} more"] if len(strong) > _MOST_PAIRS else []
    return "\n".join([f"strongest correlations ({100.0 * _STRONG:.0f} % or more)", *strong[:_MOST_PAIRS], *more]).replace("-", "−")


def _caption(figure: Figure, lines: Sequence[Mapping[str, Any]]) -> None:
    """Explain the terms in the panels below them."""
    notes = []
    if any(p["fitted"] for p in lines):
        notes.append("learned: share of the prior's variance that the data removed; in brackets: 90 % intervals")
    if any(p["fitted"] and p["at_bound"] for p in lines):
        notes.append("at bound: the fit stopped at the limit of the prior's range, so neither value nor interval can be trusted")
    figure.supxlabel("\n".join(notes), x=0.008, ha="left", fontsize=8.0, color=style.GREY, linespacing=1.4)
