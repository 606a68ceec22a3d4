"""Figures of fronts: positions of marks, labels that stay within the panel and apart, scales, texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simjax.explore.pareto.front import ParetoResult, pareto
from simjax.explore.pareto.objective import parse_objective
from simjax.metrics.catalog import label, short_label
from simjax.metrics.rows import METRICS
from simjax.plot import style
from simjax.plot.pareto.front import plot_pareto

KEYS = ["model", "device", "scheduler.max_num_seqs", "workload.rate"]
Draw = Callable[..., Figure]


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Draw:
    """Draws a front and returns the figure; the file must not be empty."""
    saved, save = [], style.save

    def spy(figure: Figure, path: Path) -> Path:
        saved.append(figure)
        return save(figure, path)

    monkeypatch.setattr(style, "save", spy)

    def call(result: ParetoResult, keys: list[str] = KEYS, title: str = "a sweep") -> Figure:
        path = plot_pareto(result, tmp_path / "new" / "pareto.png", keys, title)
        assert path is not None
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[1] > 1000
        assert len(np.unique(pixels[..., 0])) > 10
        return saved[-1]

    return call


def sweep(seed: int = 0, rows: int = 300) -> pd.DataFrame:
    """A table that looks like a sweep's: latencies over orders of magnitude, a few rows without numbers."""
    rng = np.random.default_rng(seed)
    load = rng.uniform(0.05, 1.6, rows)
    table = pd.DataFrame(
        {
            "point": np.arange(rows),
            "model": rng.choice(["llama-3.1-8b", "qwen3-32b"], rows),
            "device": rng.choice(["h100", "h200"], rows),
            "scheduler.max_num_seqs": rng.choice([64, 128, 256], rows),
            "workload.rate": np.round(load * 8, 2),
            "status": "finished",
            "gpus": rng.integers(1, 5, rows),
            "ttft_p99_s": 0.05 * (1 + load**3) * np.exp(rng.normal(0, 0.3, rows)) + np.maximum(load - 1, 0) * 50,
            "tpot_p99_s": 0.01 * (1 + load) * np.exp(rng.normal(0, 0.2, rows)),
            "goodput_per_gpu": np.minimum(load, 1) * rng.uniform(2, 8, rows),
        }
    )
    table.loc[:4, "status"] = "invalid"
    table.loc[:4, ["ttft_p99_s", "tpot_p99_s", "goodput_per_gpu"]] = np.nan
    return table


def front(table: pd.DataFrame, maximize: list[str], minimize: list[str], subject_to: list[str] | None = None) -> ParetoResult:
    return pareto(table, parse_objective(maximize, minimize, subject_to or []))


def line(axes: Axes, label: str) -> np.ndarray:
    """The points drawn under a name, float64[n, 2]."""
    (found,) = (one for one in axes.lines if one.get_label() == label)
    return np.stack([np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)], axis=1)


def check_labels(figure: Figure, axes: Axes, count: int) -> None:
    """All of the labels are within the panel, and none covers another one."""
    boxes = [text.get_window_extent() for text in axes.texts]
    panel = axes.get_window_extent()
    assert len(boxes) == count
    for place, box in enumerate(boxes):
        assert panel.x0 <= box.x0 < box.x1 <= panel.x1, axes.texts[place].get_text()
        assert panel.y0 <= box.y0 < box.y1 <= panel.y1, axes.texts[place].get_text()
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])


def test_two_metrics(draw: Draw) -> None:
    table = sweep()
    result = front(table, ["goodput_per_gpu"], ["ttft_p99_s"], ["ttft_p99_s<=1", "tpot_p99_s<=0.025"])
    figure = draw(result)
    (axes,) = figure.axes
    assert figure.get_suptitle() == "a sweep"
    assert axes.get_xlabel() == "P99 TTFT, s   (← better)"
    assert axes.get_ylabel() == "goodput per GPU, requests/s   (better →)"
    assert axes.get_xscale() == "log"

    points = table[["ttft_p99_s", "goodput_per_gpu"]].to_numpy()
    np.testing.assert_array_equal(np.sort(line(axes, "front"), axis=0), np.sort(points[result.front], axis=0))
    beaten = result.feasible.copy()
    beaten[result.front] = False
    np.testing.assert_array_equal(line(axes, "dominated"), points[beaten])
    np.testing.assert_array_equal(line(axes, "outside the constraints"), points[~result.feasible][5:])
    assert line(axes, "limit")[0, 0] == 1.0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["front", "dominated", "outside the constraints", "limit"]

    said = [text.get_text() for text in axes.texts]
    assert [text.split("\n")[0] for text in said] == ["knee", "best goodput per GPU", "best P99 TTFT"]
    knee = table.iloc[result.knee]
    assert f"max_num_seqs={knee['scheduler.max_num_seqs']}" in said[0].replace("\n", " ")
    assert f", rate={knee['workload.rate']:.4g}" in said[0].replace("\n", ", ")
    check_labels(figure, axes, 3)
    assert "left out: 5 invalid; " in figure.get_supxlabel()


def test_the_line_is_the_border_of_what_is_dominated(draw: Draw) -> None:
    """For any directions of the metrics, a corner lies on the dominated side: as bad as one neighbour in each metric."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"a": rng.random(60), "b": rng.random(60)})
    for up, down in ((["a"], ["b"]), (["b"], ["a"]), (["a", "b"], []), ([], ["a", "b"])):
        result = front(table, up, down)
        (axes,) = draw(result, keys=[]).axes
        corners = line(axes, "_line")
        names = {"a", "b"} - set(up)
        across = "a" if axes.get_xlabel().startswith("a") else "b"
        signs = np.array([1.0 if name in names else -1.0 for name in (across, "b" if across == "a" else "a")])
        costs, tops = corners * signs, table[[across, "b" if across == "a" else "a"]].to_numpy()[result.front] * signs
        assert len(corners) == 2 * len(result.front) - 1
        for corner in costs[1::2]:
            assert (tops <= corner).all(1).sum() == 2


def test_rows_outside_the_constraints_do_not_squeeze_the_front(draw: Draw) -> None:
    table = sweep(rows=400)
    table.loc[10:40, "ttft_p99_s"] = 5e4
    result = front(table, ["goodput_per_gpu"], ["ttft_p99_s"], ["ttft_p99_s<=1"])
    figure = draw(result)
    assert figure.axes[0].get_xlim()[1] < 100.0
    assert "some of those outside the constraints lie beyond the axes" in figure.get_supxlabel()
    assert figure.axes[0].get_xlim()[1] > 1.0, "the limit itself is shown"


@pytest.mark.parametrize(("spread", "scale"), [(10.0, "linear"), (100.0, "log")])
def test_wide_metrics_are_on_a_logarithmic_axis(draw: Draw, spread: float, scale: str) -> None:
    table = pd.DataFrame({"a": np.geomspace(1.0, spread, 40), "b": np.linspace(1.0, 2.0, 40)})
    (axes,) = draw(front(table, ["b"], ["a"]), keys=[]).axes
    assert axes.get_xscale() == scale
    assert axes.get_yscale() == "linear"


def test_values_that_are_zero_or_negative(draw: Draw) -> None:
    table = pd.DataFrame({"a": [0.0, 1.0, 100.0, 5000.0], "b": [-5.0, 1.0, 7.0, 7.5]})
    (axes,) = draw(front(table, ["b"], ["a"]), keys=[]).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")


def test_one_point_on_the_front(draw: Draw) -> None:
    table = pd.DataFrame({"device": ["h100", "h200", "l40s"], "a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]})
    figure = draw(front(table, ["a"], ["b"], ["a>=3"]), keys=["device"])
    check_labels(figure, figure.axes[0], 1)
    assert figure.axes[0].texts[0].get_text() == "best a, best b\nl40s"
    figure = draw(front(table.iloc[:1], ["a"], ["b"]), keys=["device"])
    check_labels(figure, figure.axes[0], 1)


def test_no_point_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "pareto.png"
    assert plot_pareto(front(sweep(), ["goodput_per_gpu"], ["ttft_p99_s"], ["ttft_p99_s<0"]), path, KEYS) is None
    assert not path.exists()


def test_confidence_intervals(draw: Draw) -> None:
    table = pd.DataFrame({"replicates": [3, 3, 3], "rate": [1, 2, 3], "a": [1.0, 2.0, 3.0], "b": [3.0, 5.0, 9.0]})
    plain = draw(front(table, ["b"], ["a"]), keys=["rate"])
    assert not plain.axes[0].containers
    table["b_ci95"] = [0.5, np.nan, 1.5]
    figure = draw(front(table, ["b"], ["a"]), keys=["rate"])
    (axes,) = figure.axes
    (bars,) = axes.containers[0].get_children()[-1:]
    segments = np.array(bars.get_segments())
    np.testing.assert_allclose(segments[:, :, 1], [[2.5, 3.5], [5.0, 5.0], [7.5, 10.5]])
    assert axes.get_ylim()[1] > 10.5
    assert axes.get_title(loc="left") == "3 of 3 designs on the front"


def test_three_metrics_have_a_colour(draw: Draw) -> None:
    table = sweep()
    result = front(table, ["goodput_per_gpu"], ["ttft_p99_s", "tpot_p99_s"])
    figure = draw(result)
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("P99 TTFT, s   (← better)", "goodput per GPU, requests/s   (better →)")
    assert bar.get_ylabel() == "P99 TPOT, s   (← better)"
    (dots,) = axes.collections
    np.testing.assert_allclose(np.sort(np.asarray(dots.get_array())), np.sort(table["tpot_p99_s"].to_numpy()[result.front]))
    check_labels(figure, axes, len({result.knee, *result.best.values()}))


def test_a_front_has_the_colours_of_a_key(draw: Draw) -> None:
    table = sweep()
    goal = parse_objective(["goodput_per_gpu"], ["ttft_p99_s"], color=["device"])
    result = pareto(table, goal)
    (axes,) = draw(result).axes
    for device, rows in table.iloc[result.front].groupby("device"):
        points = line(axes, f"device={device}")
        np.testing.assert_array_equal(np.sort(points, axis=0), np.sort(rows[["ttft_p99_s", "goodput_per_gpu"]].to_numpy(), axis=0))
    assert len([one for one in axes.lines if one.get_label() == "_line"]) == 1 and len(axes.texts) == 3


def test_fronts_of_groups_have_lines_of_their_own(draw: Draw) -> None:
    table = sweep()
    result = pareto(table, parse_objective(["goodput_per_gpu"], ["ttft_p99_s"], by=["device"]))
    (axes,) = draw(result).axes
    lines = [one for one in axes.lines if one.get_label() == "_line"]
    devices = table.iloc[result.front]["device"].nunique()
    assert len(lines) == devices > 1 and len({one.get_color() for one in lines}) == devices
    assert {text.get_text() for text in axes.get_legend().get_texts()} >= {f"device={name}" for name in table["device"].unique()}
    bars = draw(pareto(table, parse_objective([], ["gpus"], ["ttft_p99_s<=1"], by=["device"], tie_break=["ttft_p99_s"]))).axes[0]
    assert len(bars.patches) == table["device"].nunique(), "the best of each"


def test_four_metrics_are_drawn_in_pairs(draw: Draw) -> None:
    result = front(sweep(), ["goodput_per_gpu"], ["ttft_p99_s", "tpot_p99_s", "gpus"], ["ttft_p99_s<=10"])
    figure = draw(result)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 6
    assert shown[0].get_title(loc="left").endswith("points on the front")
    (legend,) = figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said[0].startswith("knee\n")
    assert said[-3:] == ["front", "dominated", "outside the constraints"]
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in shown)


@pytest.mark.parametrize("rows", [2, 300])
def test_one_metric_is_a_ranking(draw: Draw, rows: int) -> None:
    table = sweep(rows=rows + 5).iloc[5:]
    result = front(table, [], ["ttft_p99_s"])
    (axes,) = draw(result).axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted(table["ttft_p99_s"])[:10]
    assert len(axes.get_yticklabels()) == min(rows, 10)
    assert [text.get_text() for text in axes.texts] == [f"{width:,.4g}" for width in widths]
    assert axes.get_xlim()[0] == 0.0


def test_labels_name_what_differs_on_the_front(draw: Draw) -> None:
    """Words need no key; values that the whole front shares are below the panel; keys are shortened to two parts if one is ambiguous."""
    keys = ["device", "model", "workload.prompt.mean", "workload.output.mean", "scheduler.reserve_full_isl"]
    rows = [
        ("h100", "a/b/qwen3.json", 100, 512.0, "true", 1.0, 1.0),
        ("h200", "llama", 100, 128.0, "true", 2.0, 5.0),
        ("h200", "llama", 100, 128.125, "false", 3.0, 6.0),
        ("l40s", "llama", 200, 512.0, "true", 9.0, 1.0),
    ]
    result = front(pd.DataFrame(rows, columns=[*keys, "a", "b"]), ["b"], ["a"])
    figure = draw(result, keys=keys)
    said = {text.get_text().split("\n")[0]: " ".join(text.get_text().split("\n")[1:]) for text in figure.axes[0].texts}
    assert said["best b"] == "h200, llama, output.mean=128.1 reserve_full_isl=false"
    assert said["best a"] == "h100, qwen3.json, output.mean=512 reserve_full_isl=true"
    assert figure.get_supxlabel() == "all on the front: prompt.mean=100"


def test_too_many_keys_for_a_label(draw: Draw) -> None:
    rng = np.random.default_rng(5)
    keys = [f"group.a_rather_long_option_{i}" for i in range(12)]
    table = pd.DataFrame(rng.integers(0, 5, (50, 12)), columns=keys).assign(point=np.arange(100, 150), a=rng.random(50), b=rng.random(50))
    result = front(table, ["a"], ["b"])
    figure = draw(result, keys=keys)
    marked = len({result.knee, *result.best.values()} - {None})
    check_labels(figure, figure.axes[0], marked)
    assert f"… (point {100 + result.best['a']})" in "".join(text.get_text() for text in figure.axes[0].texts)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), shape=st.sampled_from(["cloud", "corner", "edge"]))
def test_labels_stay_in_the_panel_and_apart(seed: int, shape: str) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random(80), rng.random(80)
    if shape == "corner":  # all labels want the same corner
        a, b = 1000.0 + a / 1e3, b
    if shape == "edge":
        b = np.round(b)
    table = pd.DataFrame(
        {"scheduler.max_num_seqs": rng.integers(1, 512, 80), "model": rng.choice(["llama-3.1-8b", "qwen3-32b"], 80), "a": a, "b": b}
    )
    result = front(table, ["b"], ["a"])
    saved: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", lambda figure, path: saved.append(figure) or path)
        plot_pareto(result, "x.png", ["scheduler.max_num_seqs", "model"])
    check_labels(saved[0], saved[0].axes[0], len({result.knee, *result.best.values()} - {None}))


def test_nothing_global_is_changed(draw: Draw) -> None:
    settings = matplotlib.rcParams.copy()
    draw(front(sweep(), ["goodput_per_gpu"], ["ttft_p99_s"]))
    assert matplotlib.rcParams.copy() == settings


def test_every_metric_has_a_label() -> None:
    assert label("ttft_p99_s") == "P99 TTFT, s"
    assert label("e2e_mean_s") == "mean E2E latency, s"
    assert label("tpot_max_s") == "maximum TPOT, s"
    assert short_label("goodput_per_gpu") == "goodput per GPU"
    assert label("scheduler.max_num_seqs") == "scheduler.max_num_seqs"
    labels = [label(name) for name in METRICS]
    assert len(set(labels)) == len(METRICS)
    assert not [name for name, said in zip(METRICS, labels, strict=True) if said == name and name != "preemptions"]
