"""The measured attention table: what was measured comes back, holes are filled sensibly, and corrections are the coefficients'."""

import jax
import numpy as np
import pytest

from simjax.latency.attention.coefficients import AttentionCoefficients, mixed_attention_s, step_batch
from simjax.latency.attention.fit import AttentionPoints
from simjax.latency.attention.grid import attention_table, padded
from simjax.latency.attention.table import table_decode_s, table_mixed_s
from tests.latency.step_times import COEFFICIENTS, table

A = AttentionCoefficients(**COEFFICIENTS)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def made_up(q, k, n, kv):
    return 1e-5 + 1e-7 * q + 2e-9 * q * k + 3e-7 * n + 4e-10 * n * kv


def made_up_points(sizes, keep=1.0):
    q, k, n, kv = (x.ravel() for x in np.meshgrid(*sizes, indexing="ij"))
    possible = ((q > 0) | (k == 0)) & (q + n > 0) & ((n > 0) == (kv > 0)) & (np.random.default_rng(1).random(len(q)) <= keep)
    q, k, n, kv = (x[possible].astype(float) for x in (q, k, n, kv))
    return AttentionPoints(q, k, n, kv, made_up(q, k, n, kv))


def test_the_grid_keeps_what_was_measured_and_fills_the_rest():
    points = made_up_points(([0, 16, 64, 256], [0, 100, 200, 1000], [0, 1, 4, 16], [0, 16, 100, 1000]), keep=0.6)
    grid = attention_table(points, A)
    assert np.isfinite(grid.mixed_s).all() and np.isfinite(grid.decode_s).all() and (grid.mixed_s > 0).all()
    for q, k, n, kv, seconds in zip(*points, strict=True):
        chunks, decodes = step_batch(np.array([int(q), *[1] * int(n)]), np.array([int(k), *[int(kv)] * int(n)]), np)
        found = table_mixed_s(grid, 0, A, chunks, decodes) if q else table_decode_s(grid, 0, 0.0, decodes)[0]
        assert float(found) == pytest.approx(seconds, rel=1e-12)


def test_holes_between_measurements_are_linear():
    full = made_up_points(([16, 64], [0, 100, 200], [0, 1, 4], [0, 16, 100, 1000]))
    inside = ~((full.chunk_kv == 100) & (full.decodes == 1)) & ~((full.decodes == 4) & (full.decode_kv == 100))
    decodes = made_up_points(([0], [0], [1, 4], [16, 100, 1000]))
    points = AttentionPoints(*(np.concatenate([x[inside], y]) for x, y in zip(full, decodes, strict=True)))
    grid = attention_table(points, A)  # made_up is linear along the context and along the history
    q, k, n, kv = np.meshgrid([16, 64], [0, 100, 200], [1, 4], [16, 100, 1000], indexing="ij")
    np.testing.assert_allclose(grid.mixed_s[0, :2, :3, 1:3, :3], made_up(q, k, n, kv), rtol=1e-12)


def test_several_chunks_follow_the_coefficients():
    entries = jax.tree.map(np.asarray, table())
    chunks, decodes = step_batch(np.array([200, 100, 1, 1]), np.array([0, 900, 50, 3000]), np)
    alone, equal = step_batch(np.array([300, 1, 1]), np.array([300, 1525, 1525]), np)
    single_s = float(table_mixed_s(entries, 0, A, alone, equal))
    chunks_s = mixed_attention_s(A, chunks, equal, np)
    expected = single_s * chunks_s / mixed_attention_s(A, alone, equal, np) + mixed_attention_s(A, chunks, decodes, np) - chunks_s
    assert float(table_mixed_s(entries, 0, A, chunks, decodes)) == pytest.approx(expected, rel=1e-12)


def test_longer_axes_are_the_same_table():
    entries = jax.tree.map(np.asarray, table())
    longer = padded(entries, (6, 7, 8, 9))
    assert longer.mixed_s.shape == (1, 6, 7, 8, 9) and longer.decode_s.shape == (1, 8, 9)
    for pairs in ([(300, 50), (1, 40)], [(4000, 100_000), *[(1, 300_000)] * 200], [(2, 0)]):
        chunks, decodes = step_batch(*np.array(pairs).T, np)
        mixed_s = [float(table_mixed_s(t, 0, A, chunks, decodes)) for t in (entries, longer)]
        decode_s = [float(table_decode_s(t, 0, 0.1, decodes)[0]) for t in (entries, longer)]
        assert mixed_s[1] == pytest.approx(mixed_s[0], rel=1e-9)
        assert decode_s[1] == pytest.approx(decode_s[0], rel=1e-9)
