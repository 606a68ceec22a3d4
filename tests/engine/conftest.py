"""The engine's tests refuse what would pass silently elsewhere: implicit changes of rank and of data type."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _strict() -> Iterator[None]:
    """Tracing raises where an array's rank or data type would change by itself."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
