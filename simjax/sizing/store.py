"""The table of a search in a directory, in the format of a sweep's, so that `simjax pareto` and the readers of sweeps take it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from simjax.explore.points import Points
from simjax.explore.store.store import SweepStore
from simjax.sizing.record import METRICS, Capacities

OBJECTIVE = {"maximize": ["capacity_requests_per_s"], "minimize": ["gpus"], "subject_to": []}
"""The objective that `simjax pareto DIR` takes by default."""


def write_table(found: Capacities, out: str | Path, points: Points, base: Sequence[str]) -> pd.DataFrame:
    """Write results.csv, points.csv and sweep.json of the capacities of many designs, and return the table.

    Args:
        found: the capacities.
        out: the directory.
        points: values of the swept keys of each design.
        base: overrides that all designs share.

    Raises:
        SimjaxError: the directory holds a sweep already, or cannot be written.
    """
    with SweepStore.create(out, points, base=base, command="capacity", objective=OBJECTIVE, metrics=METRICS, whole={"gpus"}) as store:
        store.append([one.as_row() for one in found.designs])
        table = store.finish()
    assert table is not None
    return table
