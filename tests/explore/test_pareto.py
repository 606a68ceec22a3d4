"""The front against a comparison of all pairs; what counts; the knee; the files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simjax.cli.sweep_report import write_pareto
from simjax.errors import SimjaxError
from simjax.explore.pareto import dominance
from simjax.explore.pareto.dominance import nondominated
from simjax.explore.pareto.front import pareto
from simjax.explore.pareto.objective import Constraint, parse_objective


def oracle(costs: np.ndarray) -> np.ndarray:
    """Row by row: nobody is as low everywhere and lower somewhere."""
    return np.array([not ((costs <= row).all(1) & (costs < row).any(1)).any() for row in costs], bool)


@st.composite
def tables(draw: st.DrawFn) -> np.ndarray:
    """Costs with ties, duplicates and fronts of all sizes."""
    rows, columns = draw(st.integers(0, 60)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["few values", "spread", "all on the front", "constant column"]))
    costs = rng.integers(0, 4, (rows, columns)).astype(float) if kind == "few values" else rng.normal(size=(rows, columns))
    if kind == "all on the front" and columns > 1:
        costs[:, -1] = -costs[:, :-1].sum(1)
    if kind == "constant column":
        costs[:, draw(st.integers(0, columns - 1))] = 3.0
    repeated = rng.integers(0, max(rows, 1), rows // 4)
    return np.concatenate([costs, costs[repeated]]) if rows else costs


@pytest.mark.parametrize("pairs", [1, 50, 1 << 16], ids=["divided to the end", "divided", "compared at once"])
@settings(max_examples=150, deadline=None)
@given(costs=tables())
@example(costs=np.array([[0.0, 1.0], [-0.0, 1.0]]))
@example(costs=np.zeros((7, 4)))
def test_front_is_that_of_all_pairs(pairs: int, costs: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dominance, "_PAIRS", pairs)
        np.testing.assert_array_equal(nondominated(costs), oracle(costs))


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_many_rows(columns: int) -> None:
    """More rows than are ever compared at once, all of them on the front or few."""
    rng = np.random.default_rng(columns)
    costs = rng.random((3000, columns))
    np.testing.assert_array_equal(nondominated(costs), oracle(costs))
    costs[:, -1] = -costs[:, :-1].sum(1)
    assert nondominated(costs).all()


CELLS = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.0, 3.0, float("inf")]))
ROWS = st.lists(st.tuples(CELLS, CELLS, CELLS, st.sampled_from(["finished", "finished", "finished", "stalled", None])), max_size=25)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, limit=st.sampled_from([0.0, 1.5, 3.0]))
def test_what_counts(rows: list[tuple[Any, ...]], limit: float) -> None:
    """Every row is either feasible or counted once in what was left out, and the front is that of the feasible ones."""
    table = pd.DataFrame(rows, columns=["up", "down", "limited", "status"]).astype({"up": float, "down": float, "limited": float})
    found = pareto(table, parse_objective(["up"], ["down"], [f"limited<={limit}", "down<3"]))

    finished = [row for row in rows if row[3] == "finished"]
    whole = [row for row in finished if all(cell is not None and np.isfinite(cell) for cell in row[:3])]
    kept = [row for row in whole if row[2] <= limit and row[1] < 3.0]
    left = found.left_out
    assert found.feasible.sum() == len(kept)
    assert sum(left.not_finished.values()) == len(rows) - len(finished)
    assert left.rows_missing == len(finished) - len(whole)
    assert left.rows_violating == len(whole) - len(kept)
    assert left.total + len(kept) == left.rows == len(rows)
    assert left.violated.get(Constraint("limited", "<=", limit), 0) == sum(row[2] > limit for row in whole)

    expected = [i for i, row in enumerate(rows) if row in kept and not any(beats(other, row) for other in kept)]
    assert sorted(found.front) == expected
    ups = table["up"].iloc[found.front].to_list()
    assert ups == sorted(ups, reverse=True), "best in the first metric first"
    if kept:
        assert table["up"].iloc[found.best["up"]] == max(row[0] for row in kept)
        assert table["down"].iloc[found.best["down"]] == min(row[1] for row in kept)


def beats(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one[:2] != other[:2]


def test_reasons_in_words() -> None:
    table = pd.DataFrame(
        {
            "status": ["finished"] * 5 + ["invalid", "invalid", "tick_limit"],
            "a": [1.0, 2.0, 3.0, np.nan, 9.0, np.nan, np.nan, 1.0],
            "b": [5.0, 6.0, 7.0, 1.0, np.nan, np.nan, np.nan, 1.0],
        }
    )
    left = pareto(table, parse_objective(["a"], ["b"], ["b<=5.5", "a<3"])).left_out
    assert str(left) == "2 invalid; 1 tick limit; 2 without a value of a (1), b (1); 2 outside b<=5.5 (2), a<3 (1)"
    left = pareto(table, parse_objective([], ["b"], ["b<=6"])).left_out
    assert str(left) == "2 invalid; 1 tick limit; 1 without a value of b; 1 outside b<=6"
    nearest = pareto(table, parse_objective(["a"], [], ["b<=0.5", "a>1"])).left_out.nearest
    assert nearest == {Constraint("b", "<=", 0.5): 5.0}


def front_of(*rows: tuple[float, ...], maximize: tuple[str, ...] = ()) -> Any:
    names = ["a", "b", "c"][: len(rows[0])]
    return pareto(pd.DataFrame(list(rows), columns=names), parse_objective(maximize, [name for name in names if name not in maximize]))


def test_knee_of_two_metrics_is_farthest_from_the_line() -> None:
    """In units of the front: the line is from (0, 10) to (100, 0), and (10, 4) lies farther below it than (50, 1)."""
    found = front_of((0, 10), (10, 4), (50, 1), (100, 0), (100, 10))
    assert found.knee == 1
    assert found.marks(1) == ["knee"]
    assert found.marks(0) == ["best a"]
    assert found.rows()["mark"].to_list() == ["best a", "knee", "", "best b"]
    assert front_of((0, 0), (50, 1), (90, 6), (100, 10), maximize=("b",)).knee is None, "it bulges to the worse side"
    assert front_of((0, 0), (10, 6), (50, 9), (100, 10), maximize=("b",)).knee == 1


def test_no_knee() -> None:
    assert front_of((0, 2), (1, 1), (2, 0)).knee is None, "all on the line"
    assert front_of((0, 9), (9, 0)).knee is None
    assert front_of((0, 9), (9, 0), (9, 0), (0, 9)).knee is None, "two different rows"
    assert front_of((1,), (1,), (2,), (3,)).knee is None


def test_knee_of_three_metrics_is_closest_to_the_ideal() -> None:
    found = front_of((0, 10, 100), (10, 0, 100), (10, 10, 0), (3, 3, 30), (4, 4, 31))
    assert found.knee == 3
    assert sorted(found.front) == [0, 1, 2, 3]


def test_equal_rows_are_all_kept_and_the_first_is_marked() -> None:
    found = front_of((5, 5), (1, 1), (1, 1), (2, 0))
    assert found.front.tolist() == [1, 2, 3]
    assert found.best == {"a": 1, "b": 3}


def test_best_of_a_metric_is_on_the_front() -> None:
    assert front_of((1, 9), (1, 2), (5, 0)).best == {"a": 1, "b": 2}


def test_swept_keys_and_whole_numbers_can_be_metrics() -> None:
    table = pd.DataFrame({"cluster.instances": [1, 2, 4], "gpus": pd.array([4, None, 2], dtype="Int64")})
    found = pareto(table, parse_objective(["cluster.instances"], ["gpus"]))
    assert found.front.tolist() == [2]
    assert found.left_out.missing == {"gpus": 1}


@pytest.mark.parametrize("values", [["h100", "h200"], ["null", "64"], [None, "null"], ["true", "false"]])
def test_columns_that_hold_no_numbers(values: list[str]) -> None:
    with pytest.raises(SimjaxError, match=r"objective: column 'device' does not hold numbers \(it holds '(h100|null|true)'\)"):
        pareto(pd.DataFrame({"device": values, "a": [1.0, 2.0]}), parse_objective(["a"], ["device"]))


def test_unknown_column() -> None:
    with pytest.raises(SimjaxError, match="there is no column 'goodput'; did you mean goodput_per_gpu"):
        pareto(pd.DataFrame({"goodput_per_gpu": [1.0]}), parse_objective(["goodput"], []))


def test_empty_table() -> None:
    found = pareto(pd.DataFrame({"a": [], "b": []}), parse_objective(["a"], ["b"]))
    assert len(found.front) == 0
    assert found.knee is None
    assert found.best == {}
    assert str(found.left_out) == ""


def test_files(tmp_path: Path) -> None:
    table = pd.DataFrame({"point": [0, 1, 2], "model": ["x", "y", "z"], "a": [0.1, 1 / 3, 0.2], "b": [1.0, 2.0, 0.5]})
    out = tmp_path / "new" / "folder"
    write_pareto(table, parse_objective(["a"], ["b"]), ["model", "workload.seed"], out)
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "pareto.csv").read_text() == "point,model,a,b,mark\n1,y,0.3333333333333333,2.0,best a\n2,z,0.2,0.5,best b\n"
    result = write_pareto(table, parse_objective(["a"], ["b"], ["a>1"]), ["model"], out)
    assert len(result.front) == 0
    assert (out / "pareto.csv").read_text() == "point,model,a,b,mark\n"
    assert not (out / "pareto.png").exists(), "the figure of another front was left"


GROUPED = pd.DataFrame(
    {
        "model": ["a", "a", "a", "b", "b", "b"],
        "gpus": [1, 2, 2, 4, 8, 4],
        "ttft_p99_s": [0.5, 0.2, 0.9, 0.6, 0.1, 0.6],
        "requests_per_s": [1.0, 1.0, 1.0, 5.0, 1.0, 6.0],
    }
)


def test_each_group_has_a_front_of_its_own() -> None:
    whole = pareto(GROUPED, parse_objective([], ["gpus", "ttft_p99_s"]))
    assert whole.front.tolist() == [0, 1, 4] and whole.groups == ()
    apart = pareto(GROUPED, parse_objective([], ["gpus", "ttft_p99_s"], by=["model"]))
    assert sorted(apart.front.tolist()) == [0, 1, 3, 4, 5] and apart.groups[3] == "model=b"
    assert (apart.knee, apart.best) == (None, {})
    fewest = pareto(GROUPED, parse_objective([], "gpus", ["ttft_p99_s<=0.7"], by="model"))
    assert fewest.front.tolist() == [0, 3, 5], "one model alone was the answer"


def test_each_group_has_a_knee_of_its_own() -> None:
    bent = pd.DataFrame({"model": ["a"] * 3 + ["b"] * 3 + ["c"] * 2, "gpus": [1, 2, 4, 1, 2, 4, 1, 2], "s": [9.0, 1, 0.5, 99, 90, 5, 2, 1]})
    apart = pareto(bent, parse_objective([], ["gpus", "s"], by=["model"]))
    assert apart.knee is None and apart.knees == (1,), "b bulges to the worse side, and two rows have none"
    assert apart.rows()["mark"].tolist() == ["", "knee", *[""] * 6]
    alone = pareto(bent[bent["model"] == "a"], parse_objective([], ["gpus", "s"], by=["model"]))
    assert (alone.knee, alone.knees) == (1, ())


def test_ties_are_broken_by_further_columns() -> None:
    tied = pareto(GROUPED, parse_objective([], ["gpus"], by=["model"], tie_break=["requests_per_s"]))
    assert tied.front.tolist() == [0, 5]
    same = pareto(GROUPED.assign(requests_per_s=1.0), parse_objective([], ["gpus"], by=["model"], tie_break=["requests_per_s"]))
    assert same.front.tolist() == [0, 3, 5], "those that no column tells apart stay"
    for columns, line in (
        (["gpus"], "rows that are tied have the same gpus"),
        (["nothing"], "objective.tie_break: there is no column 'nothing'"),
    ):
        with pytest.raises(SimjaxError, match=line):
            pareto(GROUPED, parse_objective([], ["gpus"], tie_break=columns))
    with pytest.raises(SimjaxError, match=r"objective\.by: there is no column 'modle'"):
        pareto(GROUPED, parse_objective([], ["gpus"], by="modle"))
