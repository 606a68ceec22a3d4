"""The installed JAX computes what it should: jax 0.10.2 does not, on CPUs, and gives no warning (jax issue 39103)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-12)])
def test_vmapped_matrix_vector_product_with_a_reduction(dtype: str, tolerance: float) -> None:
    # jax 0.10.2 gets 1 row of the float32 case wrong and about half of the float64 rows; n is one more than a multiple of its block.
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 3)).astype(dtype)
    vectors = rng.normal(size=(32_769, 3)).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        found = np.asarray(jax.jit(jax.vmap(lambda x: jnp.sum((matrix @ x) ** 2)))(jnp.asarray(vectors)))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, ((vectors @ matrix.T) ** 2).sum(axis=1), rtol=tolerance, atol=tolerance)
