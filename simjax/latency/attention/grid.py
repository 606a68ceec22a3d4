"""Host side of the attention table: from measured points to a full grid.

A profile has holes: sizes that were not measured (the grid is not a product) and batches that no device holds. Holes between two measured
points of a line along the decode context, then of a line along the chunk's history, are filled linearly: the rule of LLMServingSim (each
(chunk, decodes) pair interpolates its own rows). All others take the fitted coefficients times the ratio measured / fitted of the nearest
filled entry, and so do two entries beyond each axis, because an attention chunk takes longer than the line through the last two sizes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from simjax.latency.attention.coefficients import AttentionCoefficients, DecodeBatch, decode_attention_s, mixed_attention_s, step_batch
from simjax.latency.attention.fit import AttentionPoints
from simjax.latency.attention.table import AttentionTable

AXES = ("chunk", "history", "decodes", "context")
BEYOND = 2  # entries, each twice the one before, that continue an axis by the coefficients


def attention_table(points: AttentionPoints, a: AttentionCoefficients) -> AttentionTable:
    """The full grid of one step-time model (a leading axis of 1, numpy) in the time unit of the points and of the coefficients a."""
    mixed, decoding = points.chunk > 0, points.decodes > 0
    chunk = _axis(points.chunk[mixed])
    history = _axis(points.chunk_kv[mixed])
    decodes = _axis(np.append(points.decodes, 0.0))
    context = _axis(points.decode_kv[decoding])
    mixed_s = np.full((len(chunk), len(history), len(decodes), len(context)), np.nan)
    decode_s = np.full((len(decodes), len(context)), np.nan)
    at = [np.searchsorted(axis, x) for axis, x in zip((chunk, history, decodes, context), points[:4], strict=True)]
    both = mixed & decoding
    mixed_s[tuple(i[both] for i in at)] = points.seconds[both]
    alone = mixed & ~decoding  # without decodes their context means nothing: the same time all along that axis
    mixed_s[tuple(i[alone] for i in at[:3])] = points.seconds[alone, None]
    only = ~mixed & decoding
    decode_s[tuple(i[only] for i in at[2:])] = points.seconds[only]
    mixed_s = _fill(_between(_between(mixed_s, context, 3), history, 1), _mixed_by_coefficients(a, chunk, history, decodes, context))
    decode_s = _fill(_between(decode_s, context, 1), _decode_by_coefficients(a, decodes, context))
    return AttentionTable(*(x[None] for x in (chunk, history, decodes, context, mixed_s, decode_s)))


def padded(table: AttentionTable, lengths: Sequence[int]) -> AttentionTable:
    """The same function (of a numpy table) on longer `AXES`: entries that lie on the line through the last two change nothing."""
    for number, (name, length) in enumerate(zip(AXES, lengths, strict=True)):
        while getattr(table, name).shape[1] < length:
            axis = getattr(table, name)
            table = replace(
                table,
                **{name: np.concatenate([axis, 2.0 * axis[:, -1:] - axis[:, -2:-1]], axis=1)},
                mixed_s=_continued(table.mixed_s, 1 + number),
                decode_s=_continued(table.decode_s, number - 1) if number >= 2 else table.decode_s,
            )
    return table


def _axis(values: np.ndarray) -> np.ndarray:
    axis = np.unique(values)
    return np.concatenate([axis, axis[-1] * 2.0 ** np.arange(1, BEYOND + 1)])


def _continued(values: np.ndarray, axis: int) -> np.ndarray:
    last, before = (np.take(values, [i], axis=axis) for i in (-1, -2))
    return np.concatenate([values, 2.0 * last - before], axis=axis)


def _between(values: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Fill the holes between measured entries of each line along `axis`, linearly."""
    lines = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).copy()
    for line in lines:
        known = np.flatnonzero(np.isfinite(line))
        if len(known) > 1:
            inside = slice(known[0], known[-1] + 1)
            line[inside] = np.interp(at[inside], at[known], line[known])
    shape = np.moveaxis(values, axis, -1).shape
    return np.moveaxis(lines.reshape(shape), -1, axis)


def _fill(values: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Fill what is left with `fitted`, scaled to agree with the nearest known entry (nearest in steps along the axes)."""
    missing = ~np.isfinite(values)
    if not missing.any():
        return values
    from scipy.ndimage import distance_transform_edt  # here, not at the top: only measured tables need it

    nearest = np.asarray(distance_transform_edt(missing, return_distances=False, return_indices=True))
    ratio = np.where(missing, 1.0, values) / fitted
    return np.where(missing, fitted * ratio[tuple(nearest)], values)


def _mixed_by_coefficients(
    a: AttentionCoefficients, chunk: np.ndarray, history: np.ndarray, decodes: np.ndarray, context: np.ndarray
) -> np.ndarray:
    q, k, n, kv = np.meshgrid(chunk, history, decodes, context, indexing="ij")
    chunks, _ = step_batch(q.astype(np.int64)[..., None], k.astype(np.int64)[..., None], np)
    return mixed_attention_s(a, chunks, _equal(n, kv), np)


def _decode_by_coefficients(a: AttentionCoefficients, decodes: np.ndarray, context: np.ndarray) -> np.ndarray:
    return decode_attention_s(a, _equal(*np.meshgrid(decodes, context, indexing="ij")), np)


def _equal(n: np.ndarray, kv: np.ndarray) -> DecodeBatch:
    kv = np.where(n > 0, kv, 0.0)
    return DecodeBatch(n, n * kv, kv)
