"""Points: grids, seeds, their file, and values that come back from Hydra's grammar exactly."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import example, given, settings
from hypothesis import strategies as st

import simjax
from simjax.errors import SimjaxError
from simjax.explore.axes import axis, zipped
from simjax.explore.points import (
    Points,
    format_value,
    grid,
    parse_value,
    points_csv,
    read_points,
    read_seeds,
    sha256,
    with_seeds,
    write_points,
)

HYDRA = OverridesParser.create()
NASTY = "aZ_09 -+.,:=/\\'\"()[]{}$%*@?|~#&\t\u00e9\u4e16\u2028"
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8) | st.text(NASTY, max_size=8)
WORDS = st.sampled_from(
    ["true", "NULL", "inf", "-nan", "1", "1e5", "01", "1_0", ".5", "range(3)", "a=b", "h100", "../x/y.json", "${a.b}", ""]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | WORDS
KEYS = st.sampled_from(["instances", "device", "max_num_seqs", "workload.rate", "a-b"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6)


def same(a: Any, b: Any) -> bool:
    """Equal in kind and to the last bit."""
    return repr(a) == repr(b)


@settings(max_examples=400, deadline=None)
@given(VALUES)
@example(1e-05)
@example(1e22)
@example(-0.0)
@example([{"instances": 2, "device": "h100"}])
@example("a\\")
@example("it's \\'quoted\\' \\\\")
def test_values_come_back_exactly(value: Any) -> None:
    text = format_value(value)
    assert same(parse_value(text), value)
    override = HYDRA.parse_override(f"key={text}")
    assert not override.is_sweep_override()
    assert same(override.value(), value), "Hydra reads another value than was written"


@settings(max_examples=400, deadline=None)
@given(st.text(NASTY, max_size=8) | st.text("01eE.+-_a", max_size=7))
@example("1.")
@example("1_0.5e-1_0")
@example("inf/x")
def test_values_are_read_as_hydra_reads_them(text: str) -> None:
    try:
        override = HYDRA.parse_override(f"key={text.strip()}")
    except HydraException:
        override = None
    if override is None or override.is_sweep_override():
        with pytest.raises(SimjaxError):
            parse_value(text)
    else:
        assert same(parse_value(text), override.value())


@pytest.mark.parametrize("value", [{"a b": 1}, {"1": 2}, {"null": 2}, {3: 4}, b"x", {1, 2}, 1j, "two\nlines", ["\r"], "\0"])
def test_values_that_no_override_can_say(value: Any) -> None:
    with pytest.raises(SimjaxError):
        format_value(value)


def test_nan_and_infinity_come_back() -> None:
    assert math.isnan(parse_value(format_value(float("nan"))))
    assert parse_value(format_value(float("-inf"))) == float("-inf")


def test_grid_has_the_first_axis_slowest() -> None:
    points = grid([axis("workload.rate", "1,2"), zipped({"device": ["h100", "h200"], "cluster.instances": [1, 3]})])
    assert points.keys == ("workload.rate", "device", "cluster.instances")
    assert points.rows == ((1, "h100", 1), (1, "h200", 3), (2, "h100", 1), (2, "h200", 3))
    assert points.overrides(3) == ["workload.rate=2", "device=h200", "cluster.instances=3"]
    assert len(points) == 4


def test_grid_of_nothing_is_the_base() -> None:
    assert grid([]) == Points((), ((),))


def test_a_point_composes_to_its_values() -> None:
    groups = [{"instances": 2, "device": "h100"}, {"device": "l40s", "max_num_seqs": 64}]
    row = ("vllm_small", 0.1 + 0.2, "models/a, b=[c]'s.json", groups, None, False)
    keys = ("scheduler", "workload.rate", "model", "cluster.groups", "scheduler.max_model_len", "sim.leap")
    config = simjax.compose(Points(keys, (row,)).overrides(0))
    assert config.scheduler.max_num_batched_tokens == 2048
    assert (config.workload.rate, config.model, config.cluster.groups) == (0.1 + 0.2, row[2], groups)
    assert (config.scheduler.max_model_len, config.sim.leap) == (None, False)


def test_grid_refuses_a_key_in_two_axes_and_too_many_points() -> None:
    with pytest.raises(SimjaxError, match="model is swept twice"):
        grid([axis("model", "a,b"), zipped({"device": ["x"], "model": ["c"]})])
    with pytest.raises(SimjaxError, match="1000 x 1000 x 10 = 10,000,000 points; at most 5,000,000"):
        grid([axis("workload.rate", range(1000)), axis("workload.cv", range(1000)), axis("workload.seed", range(10))])


def test_seeds_are_innermost() -> None:
    points = with_seeds(grid([axis("workload.rate", "1,2")]), (0, 7))
    assert points == Points(("workload.rate", "workload.seed"), ((1, 0), (1, 7), (2, 0), (2, 7)))
    assert with_seeds(grid([]), (0, 1)) == Points(("workload.seed",), ((0,), (1,)))
    with pytest.raises(SimjaxError, match=r"workload\.seed is swept already; leave sweep.seeds out"):
        with_seeds(points, (0, 1))


@pytest.mark.parametrize(("given_", "seeds"), [(None, None), (3, (0, 1, 2)), ([5, 2], (5, 2)), ((0,), (0,))])
def test_seeds(given_: Any, seeds: tuple[int, ...] | None) -> None:
    assert read_seeds(given_) == seeds


@pytest.mark.parametrize("given_", [0, -1, True, 1.5, "3", [], [1, 1], [-1], [True], [1.5], 10**9])
def test_seeds_refused(given_: Any) -> None:
    with pytest.raises(SimjaxError, match="give a number of seeds"):
        read_seeds(given_)


POINTS = Points(
    ("model", "workload.rate", "cluster.groups"),
    (
        ("a,b \"c\" 'd'", 0.1, [{"instances": 2, "device": "h100"}]),
        ("1", 1e-05, []),
        ("", 3, [{"device": "x y"}]),
        ("\t # \u2028", 1e22, []),
    ),
)


def test_the_file_of_points(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    write_points(path, POINTS)
    assert same(read_points(path), POINTS)
    assert path.read_text() == points_csv(POINTS)
    assert path.read_text().splitlines()[0] == "point,model,workload.rate,cluster.groups"
    assert sha256(POINTS) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [file.name for file in tmp_path.iterdir()] == ["points.csv"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5))
def test_any_points_come_back_from_their_file(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, Any]]) -> None:
    path = tmp_path_factory.getbasetemp() / "any_points.csv"
    points = Points(("model", "device"), tuple(rows))
    write_points(path, points)
    assert same(read_points(path), points)


def test_the_hash_tells_points_apart() -> None:
    different = [
        Points(("model",), (("1",),)),
        Points(("model",), ((1,),)),
        Points(("model",), ((1.0,),)),
        Points(("device",), ((1,),)),
        Points(("model",), ((1,), (1,))),
    ]
    assert len({sha256(points) for points in different}) == len(different)


def test_a_table_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(
        b"\xef\xbb\xbfscheduler.max_num_seqs, point, profile ,workload.rate\r\n64.0,9,a.yaml,1\r\n\r\n 7 ,x, null,2.5e0\r\n1.5,,'',3\r\n"
    )
    points = read_points(path)
    assert points.keys == ("scheduler.max_num_seqs", "profile.file", "workload.rate")
    assert same(points.rows, ((64, "a.yaml", 1), (7, None, 2.5), (1.5, "", 3)))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "its first line must name the swept keys, like point,workload.rate"),
        ("point\n1\n", "its first line must name the swept keys"),
        ("model\n", "it has no points, only a header"),
        ("model,model\na,b\n", "p.csv:1: the column model is there twice"),
        ("profile,profile.file\na,b\n", "p.csv:1: the column profile.file is there twice"),
        ("modle\na\n", "p.csv:1: unknown option 'modle'; did you mean model"),
        ("out\na\n", "p.csv:1: out cannot be swept"),
        ("model,device\na,b\nc\n", "p.csv:3: 1 cells where the header names 2"),
        ("model,device\na,b,c\n", "p.csv:2: 3 cells where the header names 2"),
        ("model,device\na,b\n\nc, \n", "p.csv:4: device: the cell is empty; write null for an unset option"),
        ('model\n"a,b"\n', "p.csv:2: model: a,b: several values where one is expected"),
        ("model\n[1\n", "p.csv:2: model: cannot read '[1'"),
        ("workload.rate\nrange(3)\n", "p.csv:2: workload.rate: range(3): several values"),
        ("workload.rate\nlinspace(1)\n", "p.csv:2: workload.rate: cannot read 'linspace(1)' (Unknown function 'linspace')"),
    ],
)
def test_a_table_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.csv").write_text(text)
    with pytest.raises(SimjaxError) as error:
        read_points(Path("p.csv"))
    assert line in str(error.value)
    assert str(error.value).startswith("p.csv")
    assert "\n" not in str(error.value)


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    for name, reason in (("none.csv", "no such file of points"), (".", "Is a directory"), ("binary.csv", "not a text file")):
        with pytest.raises(SimjaxError, match=reason):
            read_points(tmp_path / name)
