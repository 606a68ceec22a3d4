"""Synthetic prompt and output lengths.

Every function returns int32[n] tokens, at least 1. Each length takes one random number of its stream, so the first lengths do not depend
on how many are drawn. The bounds `low` and `high` clip, as a server's `max_tokens` does: `mean` and `cv` are those before clipping.
"""

from __future__ import annotations

import numpy as np

from simjax.errors import SimjaxError

MAX_TOKENS = 2**31 - 1
_MAX_ZIPF = 10_000_000  # the distribution is tabulated


def fixed(tokens: int, n: int) -> np.ndarray:
    """Lengths that are all `tokens`."""
    check_bounds(tokens, tokens, "tokens", "tokens")
    return np.full(n, tokens, np.int32)


def uniform(low: int, high: int, rng: np.random.Generator, n: int) -> np.ndarray:
    """Lengths in [low, high], all equally likely."""
    check_bounds(low, high, "low", "high")
    return (low + np.floor(rng.random(n) * (high - low + 1))).astype(np.int32)


def lognormal(
    rng: np.random.Generator,
    n: int,
    *,
    mean: float | None = None,
    median: float | None = None,
    cv: float | None = None,
    sigma: float | None = None,
    low: int = 1,
    high: int | None = None,
) -> np.ndarray:
    """Log-normal lengths with a given mean or median, and a given coefficient of variation `cv` or standard deviation `sigma` of the log.

    sigma² = ln(1 + cv²); the median is exp(µ), the mean exp(µ + sigma²/2). Rounded to whole tokens, then clipped to [low, high].

    Raises:
        SimjaxError: not exactly one of mean and median, or not exactly one of cv and sigma, or one of them out of range.
    """
    centre_name, centre = _exactly_one(mean=mean, median=median)
    spread_name, spread = _exactly_one(cv=cv, sigma=sigma)
    if not (centre > 0 and np.isfinite(centre)):
        raise SimjaxError(f"{centre_name}={centre:g} tokens; it must be positive")
    if not (spread >= 0 and np.isfinite(spread)):
        raise SimjaxError(f"{spread_name}={spread:g}; it must not be negative")
    log_sigma = np.sqrt(np.log1p(spread**2)) if spread_name == "cv" else spread
    mu = np.log(centre) - (log_sigma**2 / 2 if centre_name == "mean" else 0.0)
    return clip(np.exp(mu + log_sigma * rng.standard_normal(n)), low, high)


def zipf(alpha: float, low: int, high: int, rng: np.random.Generator, n: int) -> np.ndarray:
    """Lengths k in [low, high] with probability proportional to k^-alpha."""
    check_bounds(low, high)
    if not (alpha > 0 and np.isfinite(alpha)):
        raise SimjaxError(f"alpha={alpha:g}; it must be positive")
    if high - low > _MAX_ZIPF:
        raise SimjaxError(f"max={high}; a Zipf distribution may span at most {_MAX_ZIPF} lengths")
    cumulative = np.cumsum(np.arange(low, high + 1, dtype=np.float64) ** -alpha)
    return (low + np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")).astype(np.int32)


def resample(values: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows of `values` drawn with replacement: int32[n] from int[K], or int32[n, 2] from joint (prompt, output) pairs int[K, 2]."""
    return values[np.floor(rng.random(n) * len(values)).astype(np.int64)].astype(np.int32)


def clip(lengths: np.ndarray, low: int = 1, high: int | None = None) -> np.ndarray:
    """Lengths rounded to whole tokens and clipped to [low, high], as int32."""
    check_bounds(low, high)
    return np.clip(np.rint(lengths), low, MAX_TOKENS if high is None else high).astype(np.int32)


def check_bounds(low: int, high: int | None, low_name: str = "min", high_name: str = "max") -> None:
    """Raise `SimjaxError` unless 1 <= low <= high <= 2^31 - 1."""
    if low < 1:
        raise SimjaxError(f"{low_name}={low} tokens; it must be at least 1")
    if high is not None and high < low:
        raise SimjaxError(f"{high_name}={high} tokens; it must be at least {low_name}={low}")
    if max(low, high or 0) > MAX_TOKENS:
        raise SimjaxError(f"{high_name}={max(low, high or 0)} tokens; it must be at most {MAX_TOKENS}")


def _exactly_one(**options: float | None) -> tuple[str, float]:
    given = [(name, value) for name, value in options.items() if value is not None]
    if len(given) != 1:
        got = " and ".join(f"{name}={value:g}" for name, value in given) or "neither"
        raise SimjaxError(f"log-normal lengths need exactly one of {' and '.join(options)}; got {got} (null unsets one)")
    return given[0]
