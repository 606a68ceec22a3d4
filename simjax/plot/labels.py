"""Labels of points in a panel, put where they cover neither each other nor what is drawn, and stay within the panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

_DIRECTIONS = 24
_DISTANCES = (9.0, 16.0, 26.0, 40.0, 58.0, 80.0, 110.0, 150.0, 200.0)  # points between a label's box and what it names
_GAP = 4.0  # points between two labels, and to the edge of the panel
_MARKER = 3.0  # radius of what stands at a point, in points
_ROUNDS = 3
_SAMPLE = 1500  # of the cloud: more say nothing more about where it is thick
_LEADER = 12.0  # points beyond which a thin line leads from the label to its point
_PIXEL = style.DPI / 72.0  # pixels of a point
_OUTWARD = np.array([-1.0, -1.0, 1.0, 1.0])  # how the sides of a box x0, y0, x1, y1 move when it grows


@dataclass(frozen=True)
class Label:
    """A text at a point of a panel, in its data coordinates."""

    x: float
    y: float
    text: str
    color: str


def place_labels(axes: Axes, labels: Sequence[Label], line: np.ndarray, dots: np.ndarray, cloud: np.ndarray) -> None:
    """Write labels beside their points. The panel's limits are frozen: draw everything else before.

    Every label goes to the best of some 200 places around its point: within the panel and clear of the labels before it (where any such
    place is left), then as little as possible over the line, the dots and the cloud, then near.

    Args:
        axes: the panel.
        labels: what to write, the most important first.
        line: float64[n, 2], vertices of a line that is not to be covered.
        dots: float64[m, 2], points that are not to be covered.
        cloud: float64[l, 2], points that had better not be covered.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_dpi(style.DPI)  # as it is going to be saved: boxes of text are measured in pixels
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    figure.draw_without_rendering()  # where the layout puts the panel
    panel = axes.get_window_extent(renderer)
    inside = np.array([panel.x0, panel.y0, panel.x1, panel.y1]) - _OUTWARD * _GAP * _PIXEL
    each = max(len(cloud) // _SAMPLE, 1)
    scene = _Scene(inside, np.concatenate([_dense(_pixels(axes, line)), _pixels(axes, dots)]), _pixels(axes, cloud[::each]), each)
    notes = [_write(axes, label) for label in labels]
    extents = [note.get_window_extent(renderer) for note in notes]
    at = _pixels(axes, np.array([[label.x, label.y] for label in labels]))
    half = np.array([[extent.width, extent.height] for extent in extents]) / 2.0 + 1.5 * _PIXEL
    for note, label, point, size, (centre, gap) in zip(notes, labels, at, half, scene.arrange(at, half), strict=True):
        note.set_position(tuple((centre - point) / _PIXEL))
        if gap > _LEADER:
            ends = axes.transData.inverted().transform(_leader(point, centre, size))
            axes.plot(*ends.T, color=label.color, linewidth=0.7, alpha=0.7, zorder=5, scalex=False, scaley=False, label="_leader")


def _write(axes: Axes, label: Label) -> Annotation:
    return axes.annotate(
        label.text, (label.x, label.y), xytext=(0.0, 0.0), textcoords="offset points", ha="center", va="center", multialignment="left",
        fontsize=8.0, color=label.color, linespacing=1.25, zorder=6, annotation_clip=False,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.5},
    )  # fmt: skip


@dataclass(frozen=True)
class _Scene:
    """What is drawn in a panel, in pixels, and where there is room.

    Attributes:
        inside: x0, y0, x1, y1 of what no label may leave.
        line: points that are not to be covered, float64[n, 2].
        cloud: points that had better not be covered, float64[m, 2].
        each: how many points each of the cloud stands for.
    """

    inside: np.ndarray
    line: np.ndarray
    cloud: np.ndarray
    each: int

    def arrange(self, at: np.ndarray, half: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """The centres of boxes of half sizes `half` around points `at`, both float64[labels, 2], and the distances in points.

        One after the other, then each once more with all others in place: the first ones do not know what comes.
        """
        places: dict[int, tuple[np.ndarray, float]] = {}
        for _ in range(_ROUNDS):
            for i in range(len(at)):
                others = [(at[j], centre, half[j]) for j, (centre, _) in places.items() if j != i]
                boxes = np.array([np.concatenate([c - h, c + h]) + _OUTWARD * _GAP * _PIXEL for _, c, h in others]).reshape(-1, 4)
                leaders = [_dense(_leader(*other)) for other in others]
                scene = _Scene(self.inside, np.concatenate([self.line, *leaders]), self.cloud, self.each)
                places[i] = scene.best_place(at[i], half[i], boxes)
        return [places[i] for i in range(len(at))]

    def best_place(self, at: np.ndarray, half: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, float]:
        """The centre of the best box of a half size around a point, beside the boxes of other labels, and its distance in points."""
        angles = np.arange(_DIRECTIONS) * (2.0 * np.pi / _DIRECTIONS)
        best, lowest, best_gap = at, np.inf, 0.0
        for gap in _DISTANCES:
            for way in np.stack([np.cos(angles), np.sin(angles)], axis=1):
                reach = np.min(half / np.maximum(np.abs(way), 1e-9))  # from the box's centre to its edge
                centre = at + way * (gap * _PIXEL + reach)
                cost = self._cost(at, centre, half, boxes) + gap / 12.0
                if cost < lowest:
                    best, lowest, best_gap = centre, cost, gap
        return best, best_gap

    def _cost(self, at: np.ndarray, centre: np.ndarray, half: np.ndarray, boxes: np.ndarray) -> float:
        box = np.concatenate([centre - half, centre + half])
        outside = np.maximum(0.0, np.concatenate([self.inside[:2] - box[:2], box[2:] - self.inside[2:]])).sum()
        leader = _dense(_leader(at, centre, half))
        crossed = sum(_within(other, leader) for other in boxes)
        covered = _within(box + _OUTWARD * _MARKER * _PIXEL, self.line)
        hidden = _within(box, self.cloud) * self.each
        faint = 6.0 * hidden / max(len(self.cloud) * self.each, 1) + 0.3 * min(hidden, 20)
        return float(100.0 * outside + 10.0 * _overlap(box, boxes) + 4.0 * covered + 8.0 * crossed + faint)


def _leader(at: np.ndarray, centre: np.ndarray, half: np.ndarray) -> np.ndarray:
    """The ends of a line from a box to (almost) its point."""
    edge = np.clip(at, centre - half, centre + half)
    return np.stack([edge, edge + (at - edge) * 0.85])


def _pixels(axes: Axes, points: np.ndarray) -> np.ndarray:
    return np.asarray(axes.transData.transform(points)) if len(points) else np.zeros((0, 2))


def _overlap(box: np.ndarray, others: np.ndarray) -> float:
    """How far a box reaches into others, in pixels: the shorter side of each intersection, summed."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.maximum(sides.min(1), 0.0).sum()) if len(others) else 0.0


def _within(box: np.ndarray, points: np.ndarray) -> int:
    if len(points) == 0:
        return 0
    return int(((points >= box[:2]) & (points <= box[2:])).all(1).sum())


def _dense(vertices: np.ndarray) -> np.ndarray:
    """Points along a line at most a few pixels apart, so that a box that the line crosses has some of them."""
    if len(vertices) < 2:
        return vertices
    pieces = [vertices[:1]]
    for start, end in pairwise(vertices):
        count = int(np.clip(np.hypot(*(end - start)) / 8.0, 1, 500))
        pieces.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(pieces)
