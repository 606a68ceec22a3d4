"""Synthetic arrival times.

Every function returns float64[R] seconds, non-decreasing, and takes the number of arrivals as `n`, or their time span as `duration_s`
(arrivals in [0, duration_s)), or both (whichever ends first). Random gaps are drawn one after the other, so the first arrivals do not
depend on `n`, and a change of `rate` only stretches them. The first arrival of a random process comes after its first gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from simjax.errors import SimjaxError

Gaps = Callable[[int], np.ndarray]

_MAX_REQUESTS = 100_000_000  # a duration and a rate that give more are a mistake in the units
_WEIBULL_SHAPES = (0.05, 200.0)  # CV 8.6e5 to 0.0064


def at_once(n: int | None) -> np.ndarray:
    """`n` arrivals at 0: the limit of every process as its rate grows."""
    if n is None:
        raise SimjaxError("rate=inf sends all requests at once: how many? give num_requests")
    _need_extent(n, None)
    return np.zeros(n)


def poisson(rate: float, rng: np.random.Generator, n: int | None = None, duration_s: float | None = None) -> np.ndarray:
    """A Poisson process of `rate` arrivals/s."""
    return _renewal(rng.standard_exponential, rate, n, duration_s)


def gamma(rate: float, cv: float, rng: np.random.Generator, n: int | None = None, duration_s: float | None = None) -> np.ndarray:
    """Independent gamma-distributed gaps of mean 1/rate and coefficient of variation `cv`: shape 1/cv², scale cv²/rate."""
    _need_positive("cv", cv)
    shape = 1.0 / cv**2
    return _renewal(lambda count: rng.standard_gamma(shape, count) / shape, rate, n, duration_s)


def weibull(rate: float, cv: float, rng: np.random.Generator, n: int | None = None, duration_s: float | None = None) -> np.ndarray:
    """Independent Weibull-distributed gaps of mean 1/rate and coefficient of variation `cv`.

    A Weibull gap is an exponential one to the power 1/shape, so all CVs share their random numbers with `poisson`.
    """
    shape = weibull_shape(cv)
    unit_mean = math.exp(-math.lgamma(1.0 + 1.0 / shape))
    return _renewal(lambda count: unit_mean * rng.standard_exponential(count) ** (1.0 / shape), rate, n, duration_s)


def weibull_shape(cv: float) -> float:
    """The Weibull shape k whose coefficient of variation is `cv`: cv² = Γ(1 + 2/k) / Γ(1 + 1/k)² - 1."""
    from scipy.optimize import brentq  # here, not at the top: importing the package stays quick

    _need_positive("cv", cv)

    def excess(log_k: float) -> float:
        inverse = math.exp(-log_k)
        return math.lgamma(1.0 + 2.0 * inverse) - 2.0 * math.lgamma(1.0 + inverse) - math.log1p(cv**2)

    low, high = map(math.log, _WEIBULL_SHAPES)
    if excess(low) < 0 or excess(high) > 0:
        raise SimjaxError(f"cv={cv:g} is outside the range of Weibull gaps (0.0065 to 300000); kind=constant gives regular arrivals")
    return math.exp(float(brentq(excess, low, high, xtol=1e-13)))  # type: ignore[arg-type]


def constant(rate: float, n: int | None = None, duration_s: float | None = None) -> np.ndarray:
    """Arrivals every 1/rate seconds, the first at 0."""
    _need_positive("rate", rate)
    _need_extent(n, duration_s)
    times = np.arange(n if n is not None else _checked_count(np.ceil(rate * (duration_s or 0.0)) + 1)) / rate
    return _before(times, duration_s)


def pulses(size: int, interval_s: float, count: int | None = None, n: int | None = None, duration_s: float | None = None) -> np.ndarray:
    """`size` simultaneous arrivals every `interval_s` seconds, the first at 0, for `count` pulses (or until `n` or `duration_s`)."""
    if size < 1:
        raise SimjaxError(f"pulse_size={size}; it must be at least 1")
    if count is not None and count < 1:
        raise SimjaxError(f"pulse_count={count}; it must be at least 1")
    _need_positive("pulse_interval_s", interval_s)
    if count is None and n is None and duration_s is None:
        raise SimjaxError("how many pulses? give pulse_count, num_requests or duration_s")
    if n is not None or duration_s is not None:
        _need_extent(n, duration_s)
    if count is None:
        count = -(-n // size) if n is not None else _checked_count(np.ceil((duration_s or 0.0) / interval_s) + 1)
    times = np.repeat(np.arange(count) * interval_s, size)[:n]
    return _before(times, duration_s)


def piecewise(
    segments: Sequence[Sequence[float]], rng: np.random.Generator, n: int | None = None, duration_s: float | None = None
) -> np.ndarray:
    """A Poisson process with a piecewise constant rate: `segments` are (start_s, rate) in order, the first at 0; the last has no end.

    Unit-rate arrivals are mapped through the inverse of the integrated rate Λ(t) = ∫ rate, so a change of rates keeps the random numbers.
    """
    _need_extent(n, duration_s)
    starts, rates = _checked_segments(segments)
    area = np.concatenate([[0.0], np.cumsum(np.diff(starts) * rates[:-1])])  # Λ at the starts
    if duration_s is not None:
        last = int(np.searchsorted(starts, duration_s, side="right")) - 1
        reachable = float(area[last] + (duration_s - starts[last]) * rates[last])
    else:
        reachable = np.inf if rates[-1] > 0 else float(area[-1])
    unit = _accumulate(rng.standard_exponential, n, reachable)
    if duration_s is None and n is not None and len(unit) < n:
        raise SimjaxError(
            f"the rate stays 0 after {starts[-1]:g} s, when {len(unit)} of {n} requests have arrived; end with a positive rate"
        )
    piece = np.searchsorted(area, unit, side="right") - 1
    return _before(starts[piece] + (unit - area[piece]) / rates[piece], duration_s)


def _renewal(unit_gaps: Gaps, rate: float, n: int | None, duration_s: float | None) -> np.ndarray:
    """Arrivals after independent gaps of mean 1/rate."""
    _need_positive("rate", rate)
    _need_extent(n, duration_s)
    return _before(_accumulate(unit_gaps, n, np.inf if duration_s is None else rate * duration_s) / rate, duration_s)


def _accumulate(unit_gaps: Gaps, n: int | None, limit: float) -> np.ndarray:
    """Sums of unit-mean gaps: the first `n` of them that lie below `limit` (up to rounding, see `_before`)."""
    if n is not None and not np.isfinite(limit):
        return np.cumsum(unit_gaps(n))
    chunk = _checked_count(limit + 4.0 * np.sqrt(limit) + 16.0) if n is None else n
    gaps = unit_gaps(chunk)
    while n is None and gaps.sum() < limit:
        gaps = np.concatenate([gaps, unit_gaps(chunk)])
    times = np.cumsum(gaps)
    return times[times < limit * (1 + 1e-12)]


def _before(times: np.ndarray, duration_s: float | None) -> np.ndarray:
    """The arrivals before the end; the test on unit gaps rounds differently, so this test decides."""
    return times if duration_s is None else times[times < duration_s]


def _checked_segments(segments: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    pairs: np.ndarray
    try:
        pairs = np.asarray(segments, np.float64)
    except (TypeError, ValueError):
        pairs = np.empty(0)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise SimjaxError(f"piecewise={segments}; it must be a list of [start_s, rate] pairs, such as [[0, 2], [60, 8]]")
    starts, rates = pairs[:, 0], pairs[:, 1]
    if starts[0] != 0 or not np.all(np.diff(starts) > 0):
        raise SimjaxError(f"piecewise={segments}; the starts must rise from 0")
    if not np.all(np.isfinite(rates) & (rates >= 0)) or not np.any(rates > 0):
        raise SimjaxError(f"piecewise={segments}; no rate may be negative, and one must be positive")
    return starts, rates


def _need_positive(name: str, value: float) -> None:
    if not (value > 0 and np.isfinite(value)):
        raise SimjaxError(f"{name}={value:g}; it must be positive")


def _need_extent(n: int | None, duration_s: float | None) -> None:
    if n is None and duration_s is None:
        raise SimjaxError("how many requests? give num_requests, duration_s or both")
    if n is not None and n < 1:
        raise SimjaxError(f"num_requests={n}; it must be at least 1")
    if duration_s is not None:
        _need_positive("duration_s", duration_s)


def _checked_count(count: float) -> int:
    if count > _MAX_REQUESTS:
        raise SimjaxError(f"rate and duration_s give {count:.3g} requests, more than {_MAX_REQUESTS:g}; units are requests/s and seconds")
    return int(count)
