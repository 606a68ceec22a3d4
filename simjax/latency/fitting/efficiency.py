"""Time of one operation from a roofline with a few efficiencies.

seconds = factor(T) · (floor + (memory^p + compute^p)^(1/p))

- memory: weights and rows at a fraction of the device's bandwidth; rows that the cache still holds move at a multiple of it.
- compute: a matrix product is cut in tiles of m × n outputs, and the tiles (or `split` parts of each along k) are dealt out in whole
  waves over the multiprocessors. A small tile reuses each operand less: its efficiency is that of an endless tile divided by
  1 + penalty (1/m + 1/n). The library is taken to pick the tile and split that end first. Rows (T) grow the number of waves, which is
  why efficiency rises with T, in steps.
- p: how completely reading and computing overlap (large: the larger of the two; 1: their sum).
- factor: what the choice of kernel adds or saves, measured per bucket of rows, or by shape on a coarse grid
  (`simjax.latency.fitting.shape_factors`); absent from profiles without such measurements.

Measured on an RTX PRO 6000 (dense models of 8 and 32 billion parameters, tensor parallelism 1 and 2, 1 to 2048 tokens): one set of
efficiencies gives the sum of a step's matrix products within 2.4 to 3.6 % rms, 3.3 to 4.5 % on a model that took no part in the fit. A
smooth efficiency T/(T + T½) in place of tiles and waves leaves 4.4 to 7.4 % and 4.4 to 10.5 %. Efficiencies and kernel factors of each
operation bring the whole sum to a median of 0.2 to 0.6 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from simjax.hardware import DeviceSpec
from simjax.latency.fitting.shape_factors import shape_factor
from simjax.model.ops import Op

# Tile shapes (rows, columns) and cuts along k that the vendors' libraries offer for 16-bit matrix products.
TILES = np.array([(16, 64), (32, 64), (64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (256, 64), (128, 256), (256, 128)], float)
SPLITS = np.array([1.0, 2.0, 3.0, 4.0])
# Largest row count of each bucket of kernel factors: libraries switch kernels at multiples of a tile.
ROW_EDGES = np.array([1, 16, 32, 64, 128, 192, 256, *range(384, 2049, 128)])
SPILL_WIDTH = 0.25  # the cache overflows gradually, over about this fraction of its size


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OpEfficiency:
    """Efficiencies of one operation on a device; every leaf is a float (or a scalar array) and differentiable.

    Attributes:
        floor_s: seconds of a call that moves and computes nothing (launch and latency).
        bandwidth_efficiency: fraction of the device's memory bandwidth.
        compute_efficiency: fraction of the peak that an endless tile would reach.
        tile_penalty: elements; see the module's formula.
        overlap: p of the formula.
        cache_bytes: rows' bytes that the cache holds between one operation and the next, 0 for none.
        cache_ratio: bandwidth of the cache as a multiple of the device's memory bandwidth.
        kernel_factors: f[len(ROW_EDGES)] or shorter, by bucket of rows; empty for none.
        shape_factors: f[shape_factors.SIZE], by shape of a matrix product or of experts; empty for none.
    """

    floor_s: Any = 0.0
    bandwidth_efficiency: Any = 1.0
    compute_efficiency: Any = 1.0
    tile_penalty: Any = 0.0
    overlap: Any = 4.0
    cache_bytes: Any = 0.0
    cache_ratio: Any = 1.0
    kernel_factors: Any = ()
    shape_factors: Any = ()


def op_seconds(op: Op, e: OpEfficiency, device: DeviceSpec, dtype: str, rows: Any, xp: Any, distinct: Any = None, pairs: Any = None) -> Any:
    """Seconds of one call on one rank.

    Args:
        op: computed operation.
        e: its efficiencies.
        device: bandwidth, peak and number of multiprocessors.
        dtype: data type whose peak counts, unless the operation has its own.
        rows: tokens (or sequences) of the call, at least 1, integers of shape [N].
        xp: numpy, or jax.numpy when the efficiencies are traced.
        distinct: experts that the rows hit, shape [N]; `op.distinct_experts` when None.
        pairs: token-expert pairs that the rank computes, shape [N]; `op.pairs` for each row when None.

    Returns:
        f[N].
    """
    known_rows, rows = rows, xp.asarray(rows, dtype=float)
    if op.experts:
        distinct = op.distinct_experts(rows, xp) if distinct is None else distinct
        pairs = op.pairs * rows if pairs is None else pairs
    seconds = memory_s(op, e, device, rows, xp, distinct, pairs)
    if op.is_gemm:
        units = device.multiprocessors
        compute = compute_s(op, e, device.peak(op.dtype or dtype) / units, units, rows, xp, distinct, pairs)
        larger, smaller = xp.maximum(seconds, compute), xp.minimum(seconds, compute)
        seconds = larger * (1.0 + (smaller / larger) ** e.overlap) ** (1.0 / e.overlap)
        if len(e.shape_factors):
            seconds, factor = seconds + e.floor_s, shape_factor(e.shape_factors, op, known_rows, xp)
            return seconds * factor * kernel_factor(e.kernel_factors, rows, xp)
    return (e.floor_s + seconds) * kernel_factor(e.kernel_factors, rows, xp)


def memory_s(op: Op, e: OpEfficiency, device: DeviceSpec, rows: Any, xp: Any, distinct: Any = None, pairs: Any = None) -> Any:
    """Seconds to move the bytes of one call, f[N]."""
    weights = op.weight_bytes + (op.expert_bytes * distinct if op.experts else 0.0)
    moved = op.row_bytes * rows
    if op.experts:  # by which the rank has more than its share
        moved = moved + op.pair_bytes * (pairs - op.pairs * rows)
    width = SPILL_WIDTH * e.cache_bytes + 1.0  # at least a byte: without a cache everything spills
    spilled = width * (xp.logaddexp(0.0, (moved - e.cache_bytes) / width) - xp.logaddexp(0.0, -e.cache_bytes / width))
    slow = (weights + spilled) / e.bandwidth_efficiency + (moved - spilled) / e.cache_ratio
    return slow / device.memory_bandwidth_bytes_per_s


def compute_s(
    op: Op, e: OpEfficiency, peak_per_unit: float, units: int, rows: Any, xp: Any, distinct: Any = None, pairs: Any = None
) -> Any:
    """Seconds of the matrix product with the best of the tiles and splits, f[N]."""
    tile_rows, tile_columns, split = (x[:, None] for x in _configurations())
    rows = rows[None, :]
    if op.experts:  # they see equal shares of the pairs; a fraction of an expert is the chance that it is hit
        distinct, pairs = distinct[None, :], pairs[None, :]
        row_tiles = distinct * _ceil(pairs / distinct / tile_rows, xp)
    else:
        row_tiles = _ceil(rows / tile_rows, xp)
    waves = _ceil(row_tiles * np.ceil(op.n / tile_columns) * split / units, xp)
    tile_flops = 2.0 * tile_rows * tile_columns * op.k / split
    slowdown = 1.0 + e.tile_penalty * (1.0 / tile_rows + 1.0 / tile_columns)
    return xp.min(waves * tile_flops * slowdown, axis=0) / (peak_per_unit * e.compute_efficiency)


def _ceil(x: Any, xp: Any) -> Any:
    """The next whole number; its derivative is the mean one across the steps, 1, where loads of experts are traced."""
    up = xp.ceil(x)
    return up if xp is np else jax.lax.stop_gradient(up) + (x - jax.lax.stop_gradient(x))


def _configurations() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tiles, splits = np.repeat(TILES, len(SPLITS), axis=0), np.tile(SPLITS, len(TILES))
    return tiles[:, 0], tiles[:, 1], splits


def row_bucket(rows: Any, xp: Any) -> Any:
    """Bucket of kernel factors that a number of rows belongs to; len(ROW_EDGES) beyond the last edge."""
    return xp.searchsorted(xp.asarray(ROW_EDGES), rows)


def kernel_factor(factors: Any, rows: Any, xp: Any) -> Any:
    """The factor of each row count; beyond the factors given, the geometric mean of those of the last octave (where waves average out)."""
    known = len(factors)
    if known == 0:
        return 1.0
    values = xp.asarray(factors, dtype=float)
    last_octave = np.flatnonzero(ROW_EDGES[:known] > ROW_EDGES[known - 1] / 2)
    beyond = xp.exp(xp.mean(xp.log(values[last_octave[0] :])))
    bucket = row_bucket(rows, xp)
    return xp.where(bucket < known, values[xp.minimum(bucket, known - 1)], beyond)
