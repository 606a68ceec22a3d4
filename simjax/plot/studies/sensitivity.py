"""The tornado chart of a sensitivity analysis: the effect of 1 % more of each parameter on each output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.metrics.catalog import CATALOG, short_label
from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL, _LABELS, _LINE = 1.75, 2.6, 0.27  # inches: width of an output's panel and of the parameters' names, height of a parameter's line
_NONE = 5e-4  # smaller effects round to 0.000
_MOST = 24  # parameters that are drawn
_ROOM = 1.12  # reach of an axis over the longest bar


def plot_sensitivity(effects: Sequence[Mapping[str, Any]], path: Path, values: Mapping[str, str] | None = None, title: str = "") -> Path:
    """Draw a panel per output and a line per parameter, in the given order; parameters without effect are only listed.

    Args:
        effects: for each output and parameter a mapping with `output`, `parameter`, `elasticity`, `standard_error` and `gradient`, None
            where unknown.
        path: the PNG to write.
        values: values of the parameters as text, by name.
        title: title at the top of the figure.

    Returns:
        The path.
    """
    outputs = list(dict.fromkeys(x["output"] for x in effects))
    parameters = list(dict.fromkeys(x["parameter"] for x in effects))
    known = {(x["output"], x["parameter"]): x for x in effects}
    acts = [p for p in parameters if any(abs(known[o, p][key] or 0.0) >= _NONE for o in outputs for key in ("elasticity", "gradient"))]
    drawn, idle = acts[:_MOST], [p for p in parameters if p not in acts]
    height = _LINE * max(len(drawn), 3) + 1.5
    figure = style.new_figure(max(_LABELS + _PANEL * len(outputs), 6.5), height, title or "Effect of 1 % more of a parameter, in percent")
    panels = figure.subplots(1, len(outputs), sharey=True, squeeze=False)[0]
    for axes, output in zip(panels, outputs, strict=True):
        _draw(axes, output, [known[output, p] for p in drawn])
    panels[0].set_yticks(range(len(drawn)), [f"{p}  {(values or {}).get(p, '')}".strip() for p in drawn], fontsize=8.5, color=style.INK)
    panels[0].set_ylim(len(drawn) - 0.4, -0.6)
    _caption(figure, idle, len(acts) - len(drawn))
    return style.save(figure, path)


def _draw(axes: Axes, output: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draw an output's bars with their standard errors, and the gradients as diamonds."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    style.dress(axes, short_label(output))
    axes.title.set_fontsize(9.0)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0.0)
    axes.axvline(0.0, color=style.GREY, linewidth=0.9, zorder=2)
    bars = [(y, x) for y, x in enumerate(lines) if x["elasticity"] is not None]
    colors = [_color(output, x["elasticity"]) for _, x in bars]
    axes.barh([y for y, _ in bars], [x["elasticity"] for _, x in bars], height=0.66, color=colors, alpha=0.85, zorder=3)
    sure = [(y, x["elasticity"], x["standard_error"]) for y, x in bars if x["standard_error"]]
    if sure:
        y, at, error = zip(*sure, strict=True)
        axes.errorbar(at, y, xerr=error, fmt="none", ecolor=style.INK, elinewidth=0.9, capsize=1.8, zorder=4)
    held = [(x["gradient"], y) for y, x in enumerate(lines) if x["gradient"] is not None and abs(x["gradient"]) >= _NONE]
    if held:
        axes.plot(*zip(*held, strict=True), "D", color="white", markeredgecolor=style.BLUE, markeredgewidth=1.1, markersize=4.2, zorder=5)
    ends = [abs(x["elasticity"]) + (x["standard_error"] or 0.0) for _, x in bars] + [abs(at) for at, _ in held]
    reach = _ROOM * max([*ends, 0.01])
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+.10g}".replace("-", "−") if x else "0"))
    axes.tick_params(axis="x", labelsize=7.5)


def _color(output: str, effect: float) -> str:
    """Green for a change for the better, rust for the worse; grey where neither end of an output is the better one."""
    better = CATALOG[output].better if output in CATALOG else None
    if better is None:
        return style.GREY
    return style.GREEN if (effect > 0) == (better == "higher") else style.RUST


def _caption(figure: Any, idle: Sequence[str], more: int) -> None:
    """Explain the marks at the lower right, and list the parameters that are not drawn."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Patch(color=style.GREEN, alpha=0.85, label="better"),
        Patch(color=style.RUST, alpha=0.85, label="worse"),
        Line2D([], [], color=style.INK, linewidth=0.9, label="± standard error"),
        Line2D(
            [], [], marker="D", linestyle="none", markerfacecolor="white", markeredgecolor=style.BLUE, markersize=4.2, label="schedule held"
        ),
    ]
    figure.legend(handles=marks, loc="outside lower right", ncols=4, fontsize=8.5, frameon=False, handlelength=1.3, columnspacing=1.4)
    notes = [f"no effect: {', '.join(idle)}"] if idle else []
    notes += [f"{more} more have smaller effects"] if more else []
    if notes:
        figure.supxlabel("; ".join(notes), x=0.008, ha="left", fontsize=8.0, color=style.GREY)
