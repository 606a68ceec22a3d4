"""The non-dominated rows of an array, for many rows: divide and conquer after Kung, Luccio and Preparata.

H. T. Kung, F. Luccio, F. P. Preparata, "On finding the maxima of a set of vectors", Journal of the ACM 22 (1975): O(n log n) for two and
three columns, O(n log^(k-2) n) for k. Small problems are compared pair by pair, which numpy does faster than any recursion.
"""

from __future__ import annotations

import numpy as np

_PAIRS = 1 << 16  # up to this number of pairs all are compared at once instead of dividing further


def nondominated(losses: np.ndarray) -> np.ndarray:
    """The rows that no other row dominates, that is, no other row is at most as high in every column and lower in one.

    Args:
        losses: float64[n, k] with k >= 1, finite; lower is better in every column.

    Returns:
        bool[n]. Equal rows do not dominate each other: all or none of them are True.
    """
    if len(losses) == 0:
        return np.zeros(0, bool)
    # In lexicographic order no row is dominated by a later one; adding 0 turns -0.0 into 0.0.
    unique, inverse = np.unique(losses + 0.0, axis=0, return_inverse=True)
    keep = np.zeros(len(unique), bool)
    keep[_front(unique, np.arange(len(unique)))] = True
    return keep[inverse.reshape(-1)]


def _front(losses: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The subset of `rows` (distinct, in lexicographic order) that is not dominated by any of them."""
    if len(rows) == 1 or losses.shape[1] == 1:
        return rows[:1]
    if len(rows) ** 2 <= _PAIRS:
        some = losses[rows]
        below = np.ones((len(rows), len(rows)), bool)
        for column in some.T:
            below &= column[:, None] <= column[None, :]
        return rows[below.sum(0) == 1]  # only itself: the rows are distinct
    half = len(rows) // 2
    first, second = _front(losses, rows[:half]), _front(losses, rows[half:])
    # Every row of `first` is at most as high in column 0 as every row of `second`, and differs from it: the other columns decide.
    beaten = _covered(losses[first, 1:], losses[second, 1:])
    return np.concatenate([first, second[~beaten]])


def _covered(above: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """bool[m]: for each of `rows` [m, d], whether some row of `above` [l, d] is at most as high in every column."""
    columns = rows.shape[1]
    if len(above) == 0 or len(rows) == 0:
        return np.zeros(len(rows), bool)
    if columns == 1:
        return np.greater_equal(rows[:, 0], above.min())
    if columns == 2:
        order = np.argsort(above[:, 0], kind="stable")
        lowest = np.minimum.accumulate(above[order, 1])
        place = np.searchsorted(above[order, 0], rows[:, 0], side="right") - 1
        return np.logical_and(place >= 0, lowest[np.maximum(place, 0)] <= rows[:, 1])
    if len(above) * len(rows) <= _PAIRS:
        below = np.ones((len(above), len(rows)), bool)
        for left, right in zip(above.T, rows.T, strict=True):
            below &= left[:, None] <= right[None, :]
        return np.any(below, axis=0)
    return _split(above, rows)


def _split(above: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`_covered`, divided at the median of the last column; if the last column is constant, by the other columns."""
    last = np.concatenate([above[:, -1], rows[:, -1]])
    top, middle = last.max(), np.median(last)
    if middle == top:  # a value below the top, so that both halves have rows
        lower = last[last < top]
        if len(lower) == 0:
            return _covered(above[:, :-1], rows[:, :-1])
        middle = lower.max()
    low_above, low = above[:, -1] <= middle, rows[:, -1] <= middle
    covered = np.zeros(len(rows), bool)
    covered[low] = _covered(above[low_above], rows[low])
    high = np.flatnonzero(~low)
    by_low = _covered(above[low_above, :-1], rows[high, :-1])
    covered[high[by_low]] = True
    left = high[~by_low]
    covered[left] = _covered(above[~low_above], rows[left])
    return covered
