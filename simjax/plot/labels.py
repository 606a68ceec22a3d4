"""Labels of points in a panel, placed so that they stay within the panel and cover neither each other nor what is drawn."""

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
_DISTANCES = (9.0, 16.0, 26.0, 40.0, 58.0, 80.0, 110.0, 150.0, 200.0)  # points between a label's box and its point
_GAP = 4.0  # points between two labels, and to the edge of the panel
_MARKER = 3.0  # radius of a marker, in points
_ROUNDS = 3
_SAMPLE = 1500  # dots of the cloud that are considered: more do not change where it is dense
_LEADER = 12.0  # distance in points beyond which a thin line leads from the label to its point
_PIXEL = style.DPI / 72.0  # pixels per point
_OUTWARD = np.array([-1.0, -1.0, 1.0, 1.0])  # directions in which the sides x0, y0, x1, y1 of a box move when it grows


@dataclass(frozen=True)
class Label:
    """A text for a point of a panel; x and y are in data coordinates."""

    x: float
    y: float
    text: str
    color: str


def place_labels(axes: Axes, labels: Sequence[Label], line: np.ndarray, dots: np.ndarray, cloud: np.ndarray) -> None:
    """Write labels next to their points. The panel's limits are frozen, so draw everything else first.

    Every label goes to the best of some 200 positions around its point: within the panel and clear of the labels before it (if there is
    such a position), then covering as little as possible of the line, the dots and the cloud, then near.

    Args:
        axes: the panel.
        labels: the labels, the most important first.
        line: float64[n, 2], vertices of a line that should not be covered.
        dots: float64[m, 2], points that should not be covered.
        cloud: float64[l, 2], points that may be covered if necessary.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_dpi(style.DPI)  # the resolution of the saved file: boxes of text are measured in pixels
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    figure.draw_without_rendering()  # runs the layout, which positions the panel
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
    """The drawn contents of a panel, in pixels.

    Attributes:
        inside: x0, y0, x1, y1 of the box within which labels must stay.
        line: points that should not be covered, float64[n, 2].
        cloud: points that may be covered if necessary, float64[m, 2].
        each: number of dots that each point of the cloud represents.
    """

    inside: np.ndarray
    line: np.ndarray
    cloud: np.ndarray
    each: int

    def arrange(self, at: np.ndarray, half: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Centres and distances (in points) of boxes with half sizes `half` around the points `at`, both float64[labels, 2] in pixels.

        Boxes are placed one after the other, then each again with all others in place, since the first ones cannot know what follows.
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
        """Centre and distance (in points) of the best box of half size `half` around a point, given the boxes of other labels."""
        angles = np.arange(_DIRECTIONS) * (2.0 * np.pi / _DIRECTIONS)
        best, lowest, best_gap = at, np.inf, 0.0
        for gap in _DISTANCES:
            for way in np.stack([np.cos(angles), np.sin(angles)], axis=1):
                reach = np.min(half / np.maximum(np.abs(way), 1e-9))  # from the box's centre to its edge
                centre = at + way * (gap * _PIXEL + reach)
                penalty = self._penalty(at, centre, half, boxes) + gap / 12.0
                if penalty < lowest:
                    best, lowest, best_gap = centre, penalty, gap
        return best, best_gap

    def _penalty(self, at: np.ndarray, centre: np.ndarray, half: np.ndarray, boxes: np.ndarray) -> float:
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
    """Overlap of a box with others in pixels: the shorter side of each intersection, summed."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.maximum(sides.min(1), 0.0).sum()) if len(others) else 0.0


def _within(box: np.ndarray, points: np.ndarray) -> int:
    if len(points) == 0:
        return 0
    return int(((points >= box[:2]) & (points <= box[2:])).all(1).sum())


def _dense(vertices: np.ndarray) -> np.ndarray:
    """Points along a line at most a few pixels apart, so that every box that the line crosses contains some of them."""
    if len(vertices) < 2:
        return vertices
    pieces = [vertices[:1]]
    for start, end in pairwise(vertices):
        count = int(np.clip(np.hypot(*(end - start)) / 8.0, 1, 500))
        pieces.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(pieces)
