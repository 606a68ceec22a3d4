"""Caveats of a front, on tables whose best rows are plain to see."""

import pandas as pd
import pytest

from simjax.explore.pareto.caveats import caveats
from simjax.explore.pareto.front import pareto
from simjax.explore.pareto.objective import parse_objective

RATES, SIZES = [2.0, 4.0, 8.0, 16.0], [1, 2, 4]


def table(**columns: list) -> pd.DataFrame:
    rows = [(rate, size) for rate in RATES for size in SIZES]
    frame = pd.DataFrame(rows, columns=["workload.rate", "cluster.instances"]).assign(device="h100", status="finished", **columns)
    return frame


def lines(
    frame: pd.DataFrame, maximize: str = "goodput", keys: tuple[str, ...] = ("workload.rate", "cluster.instances", "device")
) -> list[str]:
    return caveats(pareto(frame, parse_objective([maximize], [])), keys)


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ((8.0, 2), []),
        ((16.0, 2), ["on the edge of the sweep: best goodput (rate=16, the highest); better ones may lie beyond"]),
        (
            (16.0, 4),
            ["on the edge of the sweep: best goodput (rate=16, the highest; instances=4, the highest); better ones may lie beyond"],
        ),
        ((2.0, 2), ["on the edge of the sweep: best goodput (rate=2, the lowest); better ones may lie beyond"]),
        ((8.0, 1), []),  # fewer than one instance there is not
    ],
)
def test_a_best_row_on_an_edge_is_named(best, expected):
    frame = table()
    wanted = (frame["workload.rate"] == best[0]) & (frame["cluster.instances"] == best[1])
    assert lines(frame.assign(goodput=wanted.astype(float))) == expected


def test_axes_of_one_or_two_values_and_of_names_have_no_edge():
    frame = table(goodput=list(range(12)))
    assert lines(frame[frame["workload.rate"] >= 8.0], keys=("workload.rate", "device")) == []


def test_rows_of_the_front_that_are_not_steady_are_counted():
    frame = table(goodput=[1.0] * 11 + [2.0], steady=[1] * 9 + [0, None, 0])
    found = lines(frame, keys=("device",))
    assert found == [
        "not steady: 1 of 1 point on the front (2 of all 12), so their numbers depend on how long they run; "
        "objective.subject_to=[steady>=1] leaves them out"
    ]
    kept = pareto(frame, parse_objective(["goodput"], [], ["steady>=1"]))
    assert caveats(kept, ["device"]) == [] and len(kept.front) == 9
