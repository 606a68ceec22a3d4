"""Fit the attention coefficients to measured kernel times.

Errors of this form, |fit / measured - 1|, on the seven profiles that LLMServingSim ships (RTX 4090 and RTX PRO 6000; Llama-3.1-8B,
Qwen3-32B and Qwen3-30B-A3B on one and two ranks), on points whose contexts fit one device: decode-only p50 4-7 %, p90 12-18 % (8 decodes
or more: 3-5 % and 9-16 %); mixed p50 3-5 %, p90 12-18 % (8 decodes or more: 3-5 % and 9-20 %). Most of what is left is the staircase of
whole waves of blocks, which equal contexts show and real, unequal batches smear.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from simjax.errors import SimjaxError
from simjax.latency.attention.coefficients import (
    AttentionCoefficients,
    ChunkBatch,
    DecodeBatch,
    decode_attention_s,
    mixed_attention_s,
    step_batch,
)

MIXED = (
    "mixed_floor_s",
    "mixed_sequence_s",
    "mixed_kv_s",
    "chunk_tile_s",
    "chunk_kv_s",
    "empty_tile_s",
    "longest_s",
    "spill_s",
    "spill_tokens",
    "spill_sequences",
)
ENOUGH = 4000  # points: every second or fifth of a denser profile gives the same coefficients, sooner
MANY = 8  # decodes from which errors are reported apart


class AttentionPoints(NamedTuple):
    """Measured attention times; arrays of one length.

    chunk: queries of the one prefill chunk (0: none); chunk_kv: its earlier tokens; decodes: number of decodes, all with context
    `decode_kv`; seconds: measured time, of one layer or of all (the fit has the same meaning).
    """

    chunk: np.ndarray
    chunk_kv: np.ndarray
    decodes: np.ndarray
    decode_kv: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class FitErrors:
    """Errors |fit / measured - 1|: number of points, p50 and p90 on all of them, and on those with at least `MANY` decodes."""

    points: int
    p50: float
    p90: float
    p50_many: float
    p90_many: float


def fit_attention(points: AttentionPoints, max_kv_tokens: float = 700e3) -> tuple[AttentionCoefficients, dict[str, FitErrors]]:
    """Coefficients for points of one device and model, and the errors of the "decode" and "mixed" fits.

    Points whose contexts together exceed `max_kv_tokens` take no part: no device holds such a batch. `decode_skew` is 0: equal contexts
    do not show it (`fit_decode_skew` does). Raises SimjaxError when there are too few points of either kind.
    """
    kept = points.decodes * points.decode_kv + points.chunk_kv <= max_kv_tokens
    decode, mixed = (AttentionPoints(*(x[kept & kind] for x in points)) for kind in (points.chunk == 0, points.chunk > 0))
    for name, part, least in (("decode-only", decode, 3), ("with a prefill chunk", mixed, len(MIXED))):
        if len(part.seconds) < least:
            raise SimjaxError(f"cannot fit attention: {len(part.seconds)} points {name}, at least {least} are needed")
    floor_s, sequence_s, kv_s = _fit_decode(decode)
    a = AttentionCoefficients(floor_s, sequence_s, kv_s, 0.0, **_fit_mixed(mixed))
    errors = {
        "decode": _errors(decode_attention_s(a, decodes_of(decode), np), decode),
        "mixed": _errors(mixed_attention_s(a, chunks_of(mixed), decodes_of(mixed), np), mixed),
    }
    return a, errors


def fit_decode_skew(mean_s: np.ndarray, longest_s: np.ndarray, skewed_s: np.ndarray) -> float:
    """`decode_skew` from decode batches measured thrice: all at the mean context, all at the longest, and with their unequal contexts.

    Weighted least squares of (skewed - mean) on (longest - mean), clipped to [0, 1]; 0 without points.
    """
    away, extra = (longest_s - mean_s) / skewed_s, (skewed_s - mean_s) / skewed_s
    return float(np.clip(np.sum(away * extra) / max(np.sum(away**2), 1e-30), 0.0, 1.0))


def decodes_of(p: AttentionPoints) -> DecodeBatch:
    n, kv = p.decodes.astype(float), np.where(p.decodes > 0, p.decode_kv, 0).astype(float)
    return DecodeBatch(n, n * kv, kv)


def chunks_of(p: AttentionPoints) -> ChunkBatch:
    return step_batch(p.chunk[:, None].astype(np.int64), p.chunk_kv[:, None].astype(np.int64), np)[0]


def _fit_decode(p: AttentionPoints) -> list[float]:
    """(floor, per sequence, per KV token): non-negative least squares of relative errors, softened below the shortest time.

    Softening halves the weight of the very short kernels, which hardly count in a step: their floor depends on n in steps that no line
    follows.
    """
    weight = 1.0 / (p.seconds + p.seconds.min())
    features = np.stack([np.ones(len(p.seconds)), p.decodes, p.decodes * p.decode_kv], axis=1)
    return [float(x) for x in _nnls(features * weight[:, None], p.seconds * weight)]


def _fit_mixed(p: AttentionPoints) -> dict[str, float]:
    """Robust least squares of log times over log coefficients, from a linear start."""
    p = AttentionPoints(*(x[:: 1 + len(x) // ENOUGH] for x in p))
    c, d = chunks_of(p), decodes_of(p)
    # most keys walked one after another, and the spread of decodes at which heads part, on the devices measured so far
    start = np.append(_linear_start(p, c, d), [130e3, 90.0])
    target = np.log(p.seconds)

    def coefficients(log: np.ndarray) -> AttentionCoefficients:
        return AttentionCoefficients(0.0, 0.0, 0.0, 0.0, **dict(zip(MIXED, np.exp(log), strict=True)))

    def residual(log: np.ndarray) -> np.ndarray:
        return np.log(mixed_attention_s(coefficients(log), c, d, np)) - target

    from scipy.optimize import least_squares  # here, not at the top: simulating does not need it

    # f_scale: beyond 10 % a residual is a wave staircase, not a reason to bend the coefficients
    low = np.log(start) - 12.0
    found = least_squares(residual, np.log(start), bounds=(low, low + 24.0), loss="soft_l1", f_scale=0.1, max_nfev=200)
    return {name: float(value) for name, value in zip(MIXED, np.exp(found.x), strict=True)}


def _linear_start(p: AttentionPoints, c: ChunkBatch, d: DecodeBatch) -> np.ndarray:
    """The first eight of MIXED by non-negative least squares, with the work and its tail added; none is exactly 0."""
    empty = (d.n + c.count) * c.most_tiles - c.tiles
    longest = np.maximum(c.longest, d.kv_max)
    features = np.stack([np.ones_like(d.n), d.n, d.kv_sum, c.tiles, c.tile_keys, empty, longest], axis=1)
    found = _nnls(features / p.seconds[:, None], np.ones_like(d.n))
    typical = np.median(p.seconds) / np.maximum(np.mean(features, axis=0), 1e-30)  # a term alone would explain the typical time
    found = np.maximum(found, 1e-3 * typical)
    return np.append(found, found[2])  # spilled keys take about as long again


def _nnls(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    from scipy.optimize import nnls

    scale = np.maximum(np.abs(features).max(axis=0), 1e-300)  # columns differ by 1e6: equalise before solving
    return nnls(features / scale, target)[0] / scale


def _errors(fit_s: np.ndarray, p: AttentionPoints) -> FitErrors:
    error = np.abs(fit_s / p.seconds - 1.0)
    many = error[p.decodes >= MANY]
    quantiles = [float(np.quantile(x, q)) if len(x) else 0.0 for x in (error, many) for q in (0.5, 0.9)]
    return FitErrors(len(error), *quantiles)
