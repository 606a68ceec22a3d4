"""What all tests share: which of them run, in which order, with which random examples, and when compiled programs are forgotten."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from absl import logging
from hypothesis import settings

from simjax.engine.programs import forget_programs
from tests.quickly import OF_TESTS, OF_USERS, efforts

# optax brings absl's log handler, which keeps the stderr of its first import: pytest's. Hydra's multirun resets logging, which closes all
# handlers, and absl's closes any stream but Python's own ones.
logging.get_absl_handler().python_handler.stream = sys.__stderr__

# Tracing makes objects by the hundred thousand, few of them in cycles: looking for these less often saves a sixth of the time of tracing.
gc.freeze()
gc.set_threshold(50_000, 20, 50)

# The same examples in every run on a commit: what fails there can be repeated, and fails because of the commit. `tests.soak` draws others.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# These take longest, first come first: what is left for the end, when one worker may wait for the other, is short.
LONGEST = (
    "tests/explore/test_sweep.py",
    "tests/engine/test_gradients.py",
    "tests/engine/test_against_reference.py",
    "tests/engine/test_combined.py",
    "tests/engine/test_two_legs.py",
    "tests/engine/test_two_leg_routers.py",
    "tests/calibrate/test_fit.py",
    "tests/library/test_library.py",
    "tests/engine/test_tiers.py",
    "tests/engine/test_groups.py",
    "tests/engine/test_batch.py",
    "tests/calibrate/test_sensitivity.py",
    "tests/sizing/test_capacity.py",
    "tests/test_notebooks.py",
    "tests/test_readme.py",
    "tests/calibrate/test_points.py",
    "tests/test_soak_mistakes.py",
    "tests/cli/test_foreign.py",
    "tests/cli/test_run.py",
    "tests/cli/test_calibrate.py",
    "tests/cli/test_multirun.py",
    "tests/cli/test_capacity.py",
    "tests/calibrate/test_intervals.py",
    "tests/calibrate/test_handover_fit.py",
    "tests/library/test_page.py",
    "tests/validate/test_figure5.py",
    "tests/engine/test_energy.py",
    "tests/cli/test_bad_input.py",
    "tests/cli/test_resume.py",
    "tests/cli/test_measured_data.py",
    "tests/engine/test_engine.py",
    "tests/calibrate/test_tables_target.py",
    "tests/calibrate/test_base.py",
)

# A process may map 65,530 areas of memory (Linux's vm.max_map_count), every compiled program takes dozens, and XLA crashes at the limit.
MOST_MAPS = 30_000


def pytest_configure(config: pytest.Config) -> None:
    """Leave slow tests out, unless SLOW=1 or -m or the name of a test asks for them."""
    named = any("::" in word for word in config.args)
    if os.environ.get("SLOW") != "1" and not config.option.markexpr and not named:
        config.option.markexpr = "not slow"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In workers of pytest-xdist, the longest files first; in one process the order of the files is easier to follow."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = {name: k for k, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n` alone, a file is the work of one worker, so that its programs and fixtures are made once, and files keep their order."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _brief_programs() -> Iterator[None]:
    """Programs of this process are compiled with less effort than for users, unless SLOW=1."""
    with efforts(OF_USERS if os.environ.get("SLOW") == "1" else OF_TESTS):
        yield


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    """Forget compiled programs between modules when there are too many of them."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        forget_programs()
        jax.clear_caches()
        gc.collect()
