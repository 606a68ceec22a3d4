"""Step times for tests: round numbers, with and without a measured attention table. Call inside `jax.enable_x64(True)`."""

import jax.numpy as jnp
import numpy as np

from simjax.latency.attention.coefficients import AttentionCoefficients
from simjax.latency.attention.table import AttentionTable
from simjax.latency.step_time import StepTime

COEFFICIENTS = {
    "decode_floor_s": 4e-4,
    "decode_sequence_s": 3e-6,
    "decode_kv_s": 9e-8,
    "decode_skew": 0.05,
    "mixed_floor_s": 1e-4,
    "mixed_sequence_s": 2e-5,
    "mixed_kv_s": 1.2e-7,
    "chunk_tile_s": 3e-5,
    "chunk_kv_s": 1e-7,
    "empty_tile_s": 2e-6,
    "longest_s": 7e-7,
    "spill_s": 2e-7,
    "spill_tokens": 3e3,
    "spill_sequences": 4.0,
}


def attention(scale: float = 1.0) -> AttentionCoefficients:
    return AttentionCoefficients(**{name: jnp.asarray([value * scale], jnp.float64) for name, value in COEFFICIENTS.items()})


def example_step_time(scale: float = 1.0, measured: bool = False) -> StepTime:
    tokens, sequences = np.arange(513), np.arange(65)
    return StepTime(
        tokens_s=jnp.asarray(scale * (tokens > 0) * (2e-3 + 1e-5 * tokens))[None],
        sequences_s=jnp.asarray(scale * (sequences > 0) * (5e-4 + 2e-6 * sequences))[None],
        host_s=jnp.asarray([1e-3 * scale]),
        attention=attention(scale),
        table=table(scale) if measured else None,
    )


def table(scale: float = 1.0) -> AttentionTable:
    """A table that no formula gives: every entry drawn, growing along every axis."""
    rng = np.random.default_rng(7)
    axes = ([16, 64, 256, 512], [0, 128, 1024, 8192], [0, 1, 4, 16, 64], [16, 100, 1000, 5000, 20000])
    mixed_s, decode_s = (rng.uniform(0.5, 1.5, [len(a) for a in some]) for some in (axes, axes[2:]))
    for axis in range(4):
        mixed_s = np.cumsum(mixed_s, axis=axis)
    decode_s = np.cumsum(np.cumsum(decode_s, axis=0), axis=1)
    arrays = [np.array(a, dtype=float) for a in axes] + [1e-5 * scale * mixed_s, 1e-4 * scale * decode_s]
    return AttentionTable(*(jnp.asarray(a)[None] for a in arrays))
