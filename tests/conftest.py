"""What all tests share."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from absl import logging

from simjax.engine.programs import forget_programs

# optax brings absl's log handler, which keeps the stderr of its first import: pytest's. Hydra's multirun resets logging, which closes all
# handlers, and absl's closes any stream but Python's own ones.
logging.get_absl_handler().python_handler.stream = sys.__stderr__

# A process may map 65,530 areas of memory (Linux's vm.max_map_count), every compiled program takes dozens, and XLA crashes at the limit.
MOST_MAPS = 30_000


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    """Forget compiled programs between modules when there are too many of them."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        forget_programs()
        jax.clear_caches()
        gc.collect()
