import dataclasses
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from simjax.engine.host.result import Result, Status
from simjax.metrics.latency import latencies
from simjax.metrics.slo import Slo
from simjax.plot import style
from simjax.plot.run import plot_run
from simjax.workload.sessions import from_waits
from tests.metrics.factory import leap_log, make_result, random_result, request_log, tiny, two_sessions, without_leaps


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, by file name."""
    saved, save = {}, style.save

    def spy(figure, path):
        saved[path.name] = figure
        return save(figure, path)

    monkeypatch.setattr(style, "save", spy)
    return saved


def looks_drawn(path: Path) -> bool:
    pixels = matplotlib.image.imread(path)
    return pixels.shape[0] > 300 and pixels.shape[1] > 1000 and len(np.unique(pixels[..., 0])) > 10


def test_both_figures_and_no_global_state(tmp_path):
    settings = matplotlib.rcParams.copy()  # with the backend
    paths = plot_run(random_result(1), tmp_path / "new", "a title")
    assert [path.name for path in paths] == ["latency_cdf.png", "timeline.png"] and all(map(looks_drawn, paths))
    assert matplotlib.rcParams.copy() == settings


def test_cdf_has_limits_and_bands_of_intervals(tmp_path, figures):
    result = random_result(1)
    values = np.sort(latencies(result.requests).ttft_s[result.requests.finished])
    limit = float(np.median(values))
    bands = {"level": 0.9, "ttft_s": {"p50": [0.9 * limit, 1.2 * limit], "p90": None}}
    plot_run(result, tmp_path, slo=Slo(ttft_s=limit), intervals=bands)
    ttft, tpot, _ = figures["latency_cdf.png"].axes
    (drawn,) = (line for line in ttft.lines if line.get_label() == "limit")
    scale, unit = style.latency_unit(values)
    assert drawn.get_xdata()[0] == limit * scale
    (band,) = (line for line in ttft.lines if line.get_linewidth() == 6.0)
    np.testing.assert_allclose(band.get_xdata(), [0.9 * limit * scale, 1.2 * limit * scale])
    assert list(band.get_ydata()) == [50, 50]
    (said,) = (text.get_text() for text in ttft.texts)
    met = 100.0 * np.mean(values <= limit)
    assert f"{met:.3g} % meet it" in said and "bands: 90 % intervals" in said and unit in said
    assert not any(line.get_label() == "limit" for line in tpot.lines)


def test_cdf_draws_every_finished_request(tmp_path, figures):
    plot_run(tiny(), tmp_path)
    ttft, tpot, e2e = figures["latency_cdf.png"].axes
    np.testing.assert_allclose(ttft.lines[0].get_xdata(), [500.0, 500.0, 1000.0, 1000.0])  # ms
    np.testing.assert_allclose(ttft.lines[0].get_ydata(), [0.0, 100 / 3, 200 / 3, 100.0])
    assert len(tpot.lines[0].get_xdata()) == 3 and len(e2e.lines[0].get_xdata()) == 4
    np.testing.assert_allclose(ttft.lines[1].get_xdata(), [1000.0] * 3)  # P50, P90, P99
    assert "P99" in ttft.texts[0].get_text()


def test_timeline_draws_a_line_an_instance_up_to_four(tmp_path, figures):
    plot_run(random_result(2, instances=3, leaps_each=10), tmp_path)
    prompt, _, requests, kv = figures["timeline.png"].axes
    assert len(prompt.patches) == 3 and len(requests.patches) == 6 and len(kv.patches) == 3
    assert [text.get_text() for text in prompt.get_legend().get_texts()] == ["instance 0", "instance 1", "instance 2"]


def test_timeline_sums_over_more_instances(tmp_path, figures):
    result = random_result(3, instances=6, leaps_each=10)
    plot_run(result, tmp_path)
    prompt, output, _, kv = figures["timeline.png"].axes
    assert "6 instances together" in prompt.get_title(loc="left")
    assert len(prompt.patches) == 1 and len(kv.patches) == 2  # the mean, and the band between the emptiest and the fullest
    values, edges, _ = output.patches[0].get_data()
    steps = result.leaps.steps
    assert (values * np.diff(edges)).sum() == pytest.approx((result.leaps.first_outputs + (steps - 1) * result.leaps.outputs).sum())


def cached(instances: int) -> Result:
    """A noisy run in which 3 of 100 blocks are cached in addition to those in use, and a third of every prompt was cached."""
    result = random_result(4, instances=instances, leaps_each=10)
    leaps = dataclasses.replace(result.leaps, cached_blocks=np.full_like(result.leaps.kv_blocks, 3))
    requests = dataclasses.replace(result.requests, prompt_tokens=np.full(60, 30), cached_tokens=np.full(60, 10))
    return dataclasses.replace(result, leaps=leaps, requests=requests)


@pytest.mark.parametrize(("instances", "filled"), [(1, True), (2, False), (6, False)])
def test_timeline_shows_the_prefix_cache(tmp_path, figures, instances, filled):
    (path,) = (path for path in plot_run(cached(instances), tmp_path) if path.name == "timeline.png")
    *_, kv, hits = figures["timeline.png"].axes
    assert looks_drawn(path) and len(figures["timeline.png"].axes) == 5
    labels = [text.get_text() for text in kv.get_legend().get_texts()]
    assert labels == ["used", "cached" if filled else "used or cached"]
    used, kept = (next(patch for patch in kv.patches if patch.get_label() == label).get_data() for label in labels)
    assert (kept.values >= used.values - 1e-9).all() and kept.values[-1] > used.values[-1]
    assert len(hits.patches) == (2 if instances == 2 else 1)
    share = hits.patches[0].get_data().values
    np.testing.assert_allclose(share[np.isfinite(share)], 100 / 3)
    assert np.isfinite(share).sum() > 3 and hits.get_xlabel() == "time, s" and kv.get_xlabel() == ""


def test_sessions(tmp_path, figures):
    paths = plot_run(two_sessions(), tmp_path, "a title")
    assert [path.name for path in paths] == ["latency_cdf.png", "sessions.png"] and all(map(looks_drawn, paths))
    times, tokens, spans = figures["sessions.png"].axes
    e2e, ttft = times.lines
    np.testing.assert_allclose(e2e.get_xdata(), [1.0, 2.0, 3.0])
    np.testing.assert_allclose(e2e.get_ydata(), [1500.0, 2000.0, 2500.0])  # ms; medians of 2 and 1, 3 and 1, 4 and 1 s
    np.testing.assert_allclose(ttft.get_ydata(), [1000.0, 750.0, 500.0])
    np.testing.assert_allclose(tokens.lines[0].get_ydata(), [15.0, 18.0, 27.0])
    np.testing.assert_allclose(spans.lines[0].get_xdata(), [5.0, 5.0, 10.0])
    np.testing.assert_allclose(spans.lines[1].get_xdata(), [4.0, 4.0, 7.0])


def test_sessions_of_which_none_has_finished_and_very_long_ones(tmp_path, figures):
    plot_run(two_sessions(cut=True), tmp_path)
    assert "no session has finished" in figures["sessions.png"].axes[2].texts[0].get_text()
    turns = 500
    rows = [dict(arrival_s=t, scheduled_s=t, first_token_s=t + 0.1, finish_s=t + 0.5, prompt_tokens=t + 1) for t in range(turns)]
    one = from_waits(np.zeros(turns), ("a",), np.arange(turns), np.arange(turns - 1), np.arange(1, turns), np.full(turns - 1, 0.5))
    plot_run(dataclasses.replace(make_result(request_log(*rows)), sessions=one), tmp_path)
    tokens = figures["sessions.png"].axes[1].lines[0]
    x, mean = tokens.get_xdata(), tokens.get_ydata()
    assert len(x) <= 40 and x[0] == 7.0 and mean[0] == 7.0, "13 turns go together"


def test_runs_that_lack_something(tmp_path):
    nobody = make_result(request_log(dict(arrival_s=0.0)), leap_log(dict(running=1)), status=Status.TICK_LIMIT)
    assert [path.name for path in plot_run(nobody, tmp_path)] == ["timeline.png"]
    assert [path.name for path in plot_run(without_leaps(tiny()), tmp_path)] == ["latency_cdf.png"]
    one_token = make_result(
        request_log(dict(arrival_s=0.0, scheduled_s=0.0, first_token_s=1.0, finish_s=1.0)), leap_log(dict(first_outputs=1))
    )
    assert all(looks_drawn(path) for path in plot_run(one_token, tmp_path))


def test_wide_latencies_go_on_a_logarithmic_axis(tmp_path, figures):
    rows = [dict(arrival_s=0.0, scheduled_s=0.0, first_token_s=t, finish_s=100.0, output_tokens=5) for t in np.geomspace(0.05, 60.0, 50)]
    plot_run(without_leaps(make_result(request_log(*rows))), tmp_path)
    ttft, _, e2e = figures["latency_cdf.png"].axes
    assert ttft.get_xscale() == "log" and e2e.get_xscale() == "linear"


def test_matplotlib_and_jax_are_imported_only_when_needed():
    modules = "simjax.plot.run, simjax.plot.studies.validation, simjax.metrics.files, simjax.metrics.table, simjax.validate.measured"
    code = f"import sys, {modules}; print(sorted(set(sys.modules) & {{'matplotlib', 'jax', 'matplotlib.pyplot'}}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
