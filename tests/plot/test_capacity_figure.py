"""Figures of a capacity search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest

from simjax.plot.studies.capacity import plot_capacity
from simjax.sizing.record import Capacities, Capacity, Tried
from simjax.sizing.verdict import Outcome

LIMITS = {"ttft_s": 1.0}


def tried(rate: float, runs: int = 4) -> Tried:
    attained = 1.0 if rate < 10.0 else 0.5
    metrics = {"ttft_p99_s": 0.1 * rate, "tpot_p99_s": 0.02, "e2e_p99_s": None}
    return Tried(rate, rate < 10.0, attained, 1.0, (Outcome(True, attained, {"ttft_s": attained}),) * runs, metrics)


ONE = Capacity(
    *(0, {"device": "h100"}, 2, 9.9, 1.0, 9.5, 10.5, (9.9, 10.1), "bracket", "TTFT: 50.0 % within 1 s", True, 4, 1000, 11.0),
    tried=tuple(tried(rate) for rate in (9.0, 9.9, 10.1)),
    looked=tuple(tried(rate, 1) for rate in (5.0, 12.0)),
)
NONE = Capacity(1, {"device": "l40s"}, 1, limited_by="not even 0.1/s passes")


def found(*designs: Capacity) -> Capacities:
    return Capacities(("device",), designs, 10, 3, ())


@pytest.mark.parametrize("designs", [(ONE,), (ONE, NONE), (ONE, replace(ONE, point=1, design={"device": "h200"}, rate_per_s=9.7))])
def test_something_is_drawn(designs: tuple[Capacity, ...], tmp_path: Path) -> None:
    path = plot_capacity(found(*designs), tmp_path / "capacity.png", 0.99, LIMITS)
    assert path is not None
    image = matplotlib.image.imread(path)
    assert image.shape[0] > 200 and image[..., :3].std() > 0.02


def test_nothing_to_draw_removes_an_earlier_figure(tmp_path: Path) -> None:
    path = tmp_path / "capacity.png"
    path.write_bytes(b"earlier")
    assert plot_capacity(found(NONE), path, 0.99, LIMITS) is None and not path.exists()
