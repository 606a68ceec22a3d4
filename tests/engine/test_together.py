"""Results in one kernel: the same values and derivatives, alone and in a batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from simjax.engine.control.together import entry, together


class Record(NamedTuple):
    whole: Array
    real: Array
    flag: Array


def record(x: Array) -> Record:
    return Record(jnp.floor(x).astype(jnp.int32), x * x, x > 1.0)


X = np.array([0.5, 1.5, np.inf, -2.0])


def test_together_changes_no_value() -> None:
    for got, want in zip(together(record(jnp.asarray(X))), record(jnp.asarray(X)), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("i", [0, 2, 3])
def test_entry_is_the_indexed_row_alone_and_in_a_batch(i: int) -> None:
    values = record(jnp.asarray(X))
    for rows in (entry(values, i), entry(values, jnp.asarray(i, jnp.int32)), jax.jit(entry)(values, jnp.asarray(i, jnp.int32))):
        for got, whole in zip(rows, values, strict=True):
            np.testing.assert_array_equal(got, whole[i])
    each = jax.vmap(entry, in_axes=(None, 0))(values, jnp.arange(4, dtype=jnp.int32))
    for got, whole in zip(each, values, strict=True):
        np.testing.assert_array_equal(got, whole)


def test_derivatives_pass() -> None:
    def real(x: Array) -> Array:
        return together(record(x)).real.sum() + entry(record(x), jnp.asarray(1, jnp.int32)).real

    x = jnp.asarray(X[[0, 1, 3]])
    want = np.array([1.0, 6.0, -4.0])
    np.testing.assert_allclose(jax.grad(real)(x), want, rtol=1e-15)
    np.testing.assert_allclose([jax.jvp(real, (x,), (jnp.eye(3)[k],))[1] for k in range(3)], want, rtol=1e-15)


def test_together_is_one_kernel_for_all_fields() -> None:
    """What three fields share is computed once."""
    text = jax.jit(lambda x: together(record(x * x + 1.0))).lower(jnp.asarray(X)).compile().as_text()
    assert text is not None and text.count(" fusion(") == 1
