import dataclasses
import math
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from simjax.engine.host.result import NEVER
from simjax.plot import style
from simjax.plot.studies.calibration import plot_calibration
from simjax.validate.measured import read_measured
from tests.metrics.factory import make_result, request_log
from tests.plot.test_run_figures import figures as figures  # the fixture
from tests.plot.test_run_figures import looks_drawn
from tests.validate import samples

Z90 = 1.6448536269514722


@pytest.fixture
def tiny_run(tmp_path):
    """Two requests: arrivals 0 and 2 s, TTFT 1.000 and 0.499 s, the second of one output token."""
    return read_measured(samples.llmservingsim(tmp_path / "GPU1" / "model"))


@pytest.fixture
def run(tiny_run):
    """300 requests with widely scattered times."""
    rng, size = np.random.default_rng(3), 300
    ttft, tpot = rng.lognormal(-1.0, 1.0, size), rng.lognormal(-4.0, 0.3, size)
    output = rng.integers(2, 200, size).astype(np.int32)
    return dataclasses.replace(
        tiny_run,
        arrival_s=np.sort(rng.uniform(0.0, 60.0, size)),
        prompt_tokens=np.full(size, 100, np.int32),
        output_tokens=output,
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=ttft + tpot * (output - 1),
        queue_delay_s=None,
        timeseries=None,
    )


def only_some_finish(run, finished):
    """A simulation in which the other requests never end."""
    log = samples.answer(run).requests
    times = {name: np.where(finished, getattr(log, name), NEVER) for name in ("first_token_s", "finish_s")}
    return make_result(dataclasses.replace(log, finished=finished, **times))


def parameter(name="a", unit="factor", prior=1.0, prior_sd=0.1, moved=0.0, constrained=0.75, fitted=True, at_bound=False):
    """A posterior whose median is `moved` prior standard deviations away from the prior's."""
    transform, back = (lambda x: math.log(x), math.exp)
    if unit == "share":
        transform, back = (lambda x: math.log(x / (1.0 - x)), lambda t: 1.0 / (1.0 + math.exp(-t)))
    at, sd = transform(prior) + moved * prior_sd, prior_sd * math.sqrt(1.0 - constrained)
    return dict(
        name=name, unit=unit, text=f"what {name} is", prior=prior, prior_sd=prior_sd, value=back(at), sd=sd, low=back(at - Z90 * sd),
        high=back(at + Z90 * sd), fitted=fitted, at_bound=at_bound, constrained=constrained,
    )  # fmt: skip


def texts(axes):
    return [text.get_text() for text in axes.texts]


def titles(axes):
    return axes.get_title(loc="left"), axes.get_title(loc="right")


def test_both_figures_and_no_global_state(tmp_path, run, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # a notebook may have run in this process
    settings = matplotlib.rcParams.copy()  # with the backend
    paths = plot_calibration([(run, samples.answer(run, 1.1))], [parameter(), parameter("b")], tmp_path / "new", correlation=np.eye(2))
    assert [path.name for path in paths] == ["calibration.png", "posterior.png"] and all(map(looks_drawn, paths))
    assert matplotlib.rcParams.copy() == settings
    assert "matplotlib.pyplot" not in sys.modules


def test_panels_of_a_run(tmp_path, tiny_run, figures):
    plot_calibration([(tiny_run, samples.answer(tiny_run, 1.1))], [], tmp_path, roles=["held out"], title="a title")
    figure = figures["calibration.png"]
    assert figure.get_suptitle() == "a title"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["measured", "simulated"]
    head, ttft, tpot, e2e, scatter, *strips = figure.axes
    assert texts(head) == ["GPU1/model", "   held out", "   org/model on GPU1, TP2, 2 requests"]

    assert [titles(axes) for axes in (ttft, tpot, e2e)] == [(name, "mean +10.0 %\nP99 +10.0 %") for name in ("TTFT", "TPOT", "E2E")]
    np.testing.assert_allclose(ttft.lines[0].get_xdata(), [499.0, 499.0, 1000.0])  # ms
    np.testing.assert_allclose(ttft.lines[1].get_xdata(), [548.9, 548.9, 1100.0])
    assert len(tpot.lines[0].get_xdata()) == 2, "one request has two tokens"

    assert scatter.get_xscale() == scatter.get_yscale() == "log"
    assert [text.get_text() for text in scatter.get_legend().get_texts()] == ["TTFT", "TPOT", "E2E"]
    assert (scatter.get_xlabel(), scatter.get_ylabel()) == ("measured, s", "simulated, s")
    np.testing.assert_allclose(sorted(map(tuple, scatter.collections[0].get_offsets())), [(0.499, 0.5489), (1.0, 1.1)])
    assert [len(dots.get_offsets()) for dots in scatter.collections] == [2, 1, 2]
    np.testing.assert_allclose(*scatter.lines[0].get_data())  # the line of equality
    assert scatter.get_xlim() == scatter.get_ylim()

    assert [axes.get_ylabel() for axes in strips] == ["TTFT, %", "TPOT, %", "E2E, %"]
    assert [axes.get_xlabel() for axes in strips] == ["", "", "arrival, s"]
    assert [texts(axes) for axes in strips] == [["mean\n|error|\n10.0 %"]] * 3
    np.testing.assert_allclose(strips[0].lines[1].get_data(), [[0.0, 2.0], [10.0, 10.0]])
    assert titles(strips[0]) == ("relative errors", "— running median")


def test_a_row_a_run_below_each_other(tmp_path, run, figures):
    answers = [(run, samples.answer(run, stretch)) for stretch in (0.9, 1.0, 1.1)]
    plot_calibration(answers, [], tmp_path, roles=["fitted", "fitted", "held out"])
    axes = figures["calibration.png"].axes
    assert len(axes) == 3 * 8
    rows = [axes[i : i + 8] for i in range(0, 24, 8)]
    assert [texts(row[0])[1].strip() for row in rows] == ["fitted", "fitted", "held out"]
    assert [titles(row[1])[1].splitlines()[0] for row in rows] == ["mean −10.0 %", "mean +0.0 %", "mean +10.0 %"]
    for panels in zip(*rows, strict=True):
        assert len({(round(panel.get_position().x0, 6), round(panel.get_position().x1, 6)) for panel in panels}) == 1
    bottoms = [row[1].get_position().y0 for row in rows]
    assert bottoms == sorted(bottoms, reverse=True)


def test_dots_are_darker_where_there_are_many(tmp_path, run, figures):
    crowd = np.arange(len(run)) < 150
    run = dataclasses.replace(run, ttft_s=np.where(crowd, 0.2, np.geomspace(0.3, 50.0, len(run))))
    plot_calibration([(run, samples.answer(run))], [], tmp_path)
    dots = figures["calibration.png"].axes[4].collections[0]
    light = dots.get_facecolors()[:, :3].sum(axis=1)
    among_many = np.isclose(dots.get_offsets()[:, 0], 0.2)
    assert among_many.sum() == 150
    assert light[among_many].max() < light[~among_many].min() - 0.5
    assert among_many[-150:].all(), "the last drawn is on top"


def test_errors_along_the_run(tmp_path, run, figures):
    """The running median follows a drift, and what is beyond the axis is marked at its edge."""
    answer = samples.answer(run)
    drift = np.linspace(0.9, 1.1, len(run))
    drift[[10, 200]] = (5.0, 0.1)
    log = answer.requests
    first = log.arrival_s + drift * run.ttft_s
    answer = dataclasses.replace(answer, requests=dataclasses.replace(log, first_token_s=first))
    plot_calibration([(run, answer)], [], tmp_path)
    strip = figures["calibration.png"].axes[5]
    _, dots, above, below, median = strip.lines
    np.testing.assert_allclose(dots.get_ydata(), 100.0 * (drift - 1.0), atol=1e-6)
    np.testing.assert_allclose(above.get_data(), [[run.arrival_s[10]], [strip.get_ylim()[1]]])
    np.testing.assert_allclose(below.get_data(), [[run.arrival_s[200]], [strip.get_ylim()[0]]])
    assert strip.get_ylim()[1] < 20.0 and strip.get_ylim()[0] > -20.0
    np.testing.assert_allclose(median.get_ydata(), np.linspace(-10.0, 10.0, len(run)), atol=0.7)
    assert titles(strip)[1] == "— running median\n▲▼ beyond the axis"


def test_requests_that_did_not_finish(tmp_path, run, figures):
    finished = np.arange(len(run)) < 200
    assert looks_drawn(plot_calibration([(run, only_some_finish(run, finished))], [], tmp_path)[0])
    head, ttft, _, _, scatter, strip, *_ = figures["calibration.png"].axes
    assert texts(head)[-1] == ", 100 did not finish in the simulation"
    assert [len(line.get_xdata()) for line in ttft.lines] == [301, 201]
    assert [len(dots.get_offsets()) for dots in scatter.collections] == [200] * 3
    assert len(strip.lines[1].get_xdata()) == 200
    assert strip.get_xlim()[1] > run.arrival_s[-1], "the time when nothing finished is left empty"


def test_nothing_finished(tmp_path, run, figures):
    assert looks_drawn(plot_calibration([(run, only_some_finish(run, np.zeros(len(run), bool)))], [], tmp_path)[0])
    figure = figures["calibration.png"]
    assert [texts(axes) for axes in figure.axes[1:]] == [["no request finished"]] * 7
    assert not figure.legends
    # another run's panels are drawn nonetheless
    plot_calibration([(run, only_some_finish(run, np.zeros(len(run), bool))), (run, samples.answer(run))], [], tmp_path)
    assert len(figures["calibration.png"].legends) == 1


def test_no_request_has_two_output_tokens(tmp_path, run, figures):
    one = np.ones(len(run), np.int32)
    short = dataclasses.replace(run, output_tokens=one, tpot_s=np.full(len(run), NEVER), e2e_s=run.ttft_s)
    assert looks_drawn(plot_calibration([(short, samples.answer(short))], [], tmp_path)[0])
    _, ttft, tpot, _, scatter, first, second, _ = figures["calibration.png"].axes
    assert texts(tpot) == texts(second) == ["no request has\ntwo output tokens"]
    assert len(ttft.lines) == 2 and len(scatter.collections) == 2 and len(first.lines) == 3


def test_one_request(tmp_path, run, figures):
    log = request_log(dict(arrival_s=0.0, scheduled_s=0.0, first_token_s=1.0, finish_s=3.0, prompt_tokens=100, output_tokens=5))
    arrays = {name: getattr(run, name)[:1] for name in ("prompt_tokens", "ttft_s", "tpot_s", "e2e_s")}
    alone = dataclasses.replace(run, arrival_s=np.zeros(1), output_tokens=np.full(1, 5, np.int32), **arrays)
    assert looks_drawn(plot_calibration([(alone, make_result(log))], [], tmp_path)[0])
    assert texts(figures["calibration.png"].axes[0])[1] == "   org/model on GPU1, TP2, 1 request"


def test_what_is_not_there_is_not_drawn(tmp_path, run):
    assert [path.name for path in plot_calibration([], [parameter()], tmp_path)] == ["posterior.png"]
    assert [path.name for path in plot_calibration([(run, samples.answer(run))], [], tmp_path)] == ["calibration.png"]
    assert plot_calibration([], [], tmp_path / "nowhere") == []


def test_lines_of_parameters(tmp_path, figures):
    """On one scale whatever the unit; the best known first, frozen ones last."""
    parameters = [
        parameter("weak", moved=0.5, constrained=0.1),
        parameter("still", "share", prior=0.5, moved=0.0, fitted=False),
        parameter("share", "share", prior=0.03, prior_sd=1.0, moved=-1.0, constrained=0.5),
        parameter("stuck", moved=4.0, constrained=0.9, at_bound=True),
        parameter("host", "s", prior=50e-6, prior_sd=1.5, moved=1.0, constrained=0.999),
    ]
    plot_calibration([], parameters, tmp_path)
    (axes,) = figures["posterior.png"].axes
    words = texts(axes)
    names = [word for word in words if word in {p["name"] for p in parameters}]
    assert names == ["host", "stuck", "share", "weak", "still"]
    assert {f"what {name} is" for name in names} < set(words)
    assert [word for word in words if "%" in word and "(" not in word] == [">99 %", "90 %, at bound", "50 %", "10 %", "50 %"]
    assert "frozen" in words and words[-3:] == ["prior", "posterior", "learned"]

    priors, posteriors, dots = axes.lines[0:12:3], axes.lines[1:12:3], axes.lines[2:12:3]
    for prior in priors:
        np.testing.assert_allclose(prior.get_xdata(), [-Z90, Z90])
    np.testing.assert_allclose([dot.get_xdata()[0] for dot in dots], [1.0, 4.0, -1.0, 0.5], atol=1e-9)
    for line, moved, constrained in zip(posteriors, (1.0, 4.0, -1.0, 0.5), (0.999, 0.9, 0.5, 0.1), strict=True):
        half = Z90 * math.sqrt(1.0 - constrained)
        np.testing.assert_allclose(line.get_xdata(), [moved - half, moved + half], atol=1e-9)
    frozen = axes.lines[12]
    assert frozen.get_fillstyle() == "none" and frozen.get_color() not in {dot.get_color() for dot in dots}
    assert dots[1].get_color() != dots[0].get_color(), "one on its bound stands out"
    assert axes.get_xlim()[1] > 4.0 + Z90 * math.sqrt(0.1)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["prior, 90 %", "posterior, median and 90 %", "frozen"]
    assert "at bound" in figures["posterior.png"].get_supxlabel()


@pytest.mark.parametrize(
    ("made", "prior", "posterior"),
    [
        (parameter("a", prior_sd=0.08, constrained=0.99), "1.00 (0.88–1.14)", "1.000 (0.987–1.013)"),
        (parameter("a", "s", prior=50e-6, prior_sd=1.5, constrained=0.99), "50 µs (4.2–590)", "50 µs (39–64)"),
        (parameter("a", "s", prior=4e-3, prior_sd=0.7, constrained=0.99), "4.0 ms (1.3–13)", "4.0 ms (3.6–4.5)"),
        (parameter("a", "s", prior=2.0, prior_sd=0.1, constrained=0.75), "2.00 s (1.70–2.36)", "2.00 s (1.84–2.17)"),
        (parameter("a", "share", prior=0.03, prior_sd=1.0, constrained=0.75), "3.0 % (0.59–14)", "3.0 % (1.3–6.6)"),
    ],
)
def test_numbers_in_words(tmp_path, figures, made, prior, posterior):
    plot_calibration([], [made], tmp_path)
    assert texts(figures["posterior.png"].axes[0])[2:4] == [prior, posterior]


@pytest.mark.parametrize(("unit", "value"), [("s", 0.0), ("share", 0.0), ("share", 1.0)])
def test_frozen_at_a_value_that_the_prior_does_not_have(tmp_path, figures, unit, value):
    frozen = {**parameter("off", unit, prior=0.5, fitted=False), "value": value}
    assert looks_drawn(plot_calibration([], [frozen, parameter()], tmp_path)[0])
    axes = figures["posterior.png"].axes[0]
    assert len(axes.lines) == 3 and "off" in texts(axes) and "frozen" in texts(axes)
    assert np.isfinite(axes.get_xlim()).all()
    plot_calibration([], [frozen], tmp_path)  # nothing was fitted at all


def test_correlations_are_drawn_in_the_order_of_the_lines(tmp_path, figures):
    """`correlation` leaves the frozen one out; the best known parameter comes first."""
    parameters = [parameter("a", constrained=0.1), parameter("ice", fitted=False), parameter("b", constrained=0.9), parameter("c")]
    correlation = np.array([[1.0, -0.93, 0.1], [-0.93, 1.0, 0.55], [0.1, 0.55, 1.0]])
    plot_calibration([], parameters, tmp_path, correlation=correlation)
    axes = figures["posterior.png"].axes[1]
    assert axes.get_title(loc="left") == "correlations of the posterior, %"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["b", "c"]
    cells = axes.images[0].get_array()
    np.testing.assert_allclose(cells.compressed(), [0.55, -0.93, 0.1])
    at = {text.get_position(): text.get_text() for text in axes.texts[:3]}
    assert at == {(0, 0): "55", (0, 1): "−93", (1, 1): "10"}
    assert axes.texts[3].get_text() == "strongest correlations (50 % or more)\nb, a  −93\nb, c  +55"


def test_many_correlations_stay_readable(tmp_path, figures):
    """Numbers fit into their cells, and no text leaves the figure or covers a cell."""
    count = 20
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(count, 4))
    correlation = np.corrcoef(spread + 0.1 * rng.normal(size=(count, 4)))
    parameters = [parameter(f"parameter_number_{i}", constrained=1.0 - i / count) for i in range(count)]
    (path,) = plot_calibration([], parameters, tmp_path, correlation=correlation)
    assert looks_drawn(path)
    figure = figures["posterior.png"]
    figure.set_dpi(style.DPI)  # as it was saved and laid out
    lines, axes = figure.axes
    *numbers, said = axes.texts
    assert len(numbers) == count * (count - 1) // 2
    cell = axes.get_window_extent().width / (count - 1)
    assert max(text.get_window_extent().width for text in numbers) < cell
    words = [*axes.texts, *axes.get_yticklabels(), *axes.get_xticklabels(), *lines.texts]
    boxes = [text.get_window_extent() for text in words]
    assert min(box.x0 for box in boxes) >= 0.0 and max(box.x1 for box in boxes) <= figure.bbox.x1
    assert said.get_text().count("\n") == 9 and said.get_text().endswith("more")
    assert not any(said.get_window_extent().overlaps(text.get_window_extent()) for text in numbers)


def test_importing_needs_neither_matplotlib_nor_jax():
    code = "import sys, simjax.plot.studies.calibration; print(sorted(set(sys.modules) & {'matplotlib', 'jax'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
