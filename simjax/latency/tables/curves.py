"""Measured kernel times at every size: between the measured ones, below and beyond them.

Times are linear between measurements, held below the smallest, and beyond the largest continued with the mean slope of the last octave.
(The slope of the last two points is noise: 16 tokens apart, it is between -1.3 and +0.2 times the true one for the matrix multiplications
of the shipped bundles.)
"""

import numpy as np

from simjax.latency.profiles.profile import ValidRange
from simjax.latency.tables.bundle import Bundle, Curve, MoePoints


def valid_range(bundle: Bundle) -> ValidRange:
    """Tokens and sequences of a step at which every operator was measured, and contexts of the measured decodes."""
    context = bundle.attention.decode_kv[bundle.attention.decodes > 0]
    return ValidRange(_common(bundle.dense), _common(bundle.per_sequence), (int(context.min()), int(context.max())))


def _common(curves: dict[str, Curve]) -> tuple[int, int]:
    return int(max(curve.size[0] for curve in curves.values())), int(min(curve.size[-1] for curve in curves.values()))


def at_sizes(curve: Curve, sizes: np.ndarray) -> np.ndarray:
    """Seconds of a kernel at any size: linear between points, held below, continued with the slope of the last octave above."""
    seconds = np.interp(sizes, curve.size, curve.seconds)
    last = curve.size[-1]
    octave_s = curve.seconds[-1] - np.interp(0.5 * last, curve.size, curve.seconds)
    return seconds + np.maximum(sizes - last, 0.0) * max(octave_s, 0.0) / (0.5 * last)


def moe_s(points: MoePoints, tokens: np.ndarray, activated: np.ndarray) -> np.ndarray:
    """Seconds of the expert kernel of one layer, for `tokens` on the rank that hit `activated` distinct experts (any real number).

    Linear in tokens along each measured row of equal activated experts, then linear across rows; held below the fewest and beyond the most.
    """
    rows = np.unique(points.activated)
    by_row = []
    for experts in rows:
        mine = points.activated == experts
        order = np.argsort(points.tokens[mine])
        by_row.append(at_sizes(Curve(points.tokens[mine][order], points.seconds[mine][order]), tokens))
    seconds, position = np.stack(by_row), np.interp(activated, rows, np.arange(len(rows)))
    low = np.minimum(position.astype(int), max(len(rows) - 2, 0))
    weight, each = position - low, np.arange(len(tokens))
    return (1.0 - weight) * seconds[low, each] + weight * seconds[np.minimum(low + 1, len(rows) - 1), each]


def distinct_experts(tokens: np.ndarray, experts: int, experts_per_token: int) -> np.ndarray:
    """Expected number of distinct experts that `tokens` tokens hit when each draws `experts_per_token` of `experts` evenly."""
    return experts * (1.0 - (1.0 - experts_per_token / experts) ** tokens)
