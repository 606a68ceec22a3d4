import dataclasses

import numpy as np
import pytest

from simjax.plot import style
from simjax.plot.studies.validation import plot_validation
from simjax.validate.measured import read_measured
from tests.metrics.factory import leap_log, make_result, request_log
from tests.plot.test_run_figures import looks_drawn
from tests.validate import samples


@pytest.fixture
def run(tmp_path):
    return read_measured(samples.llmservingsim(tmp_path / "GPU1" / "model"))


@pytest.fixture
def figures(monkeypatch):
    saved, save = {}, style.save

    def spy(figure, path):
        saved[path.name] = figure
        return save(figure, path)

    monkeypatch.setattr(style, "save", spy)
    return saved


def with_leaps(result):
    leaps = leap_log(dict(start_s=0.0, first_step_s=1.0, prompt_tokens=10, first_outputs=1, running=1, kv_blocks=5))
    return dataclasses.replace(result, leaps=leaps)


def test_three_figures(tmp_path, run, figures):
    paths = plot_validation(run, with_leaps(samples.answer(run, stretch=1.1)), tmp_path / "out")
    assert [path.name for path in paths] == ["validation_cdf.png", "validation_requests.png", "validation_timeline.png"]
    assert all(map(looks_drawn, paths))
    assert figures["validation_cdf.png"].get_suptitle() == "GPU1/model: org/model on GPU1"
    ttft = figures["validation_cdf.png"].axes[0]
    np.testing.assert_allclose(ttft.lines[0].get_xdata(), [499.0, 499.0, 1000.0])
    np.testing.assert_allclose(ttft.lines[1].get_xdata(), [548.9, 548.9, 1100.0])

    over_time, scatter, _ = figures["validation_requests.png"].axes
    np.testing.assert_allclose(over_time.lines[0].get_data(), [[0.0, 2.0], [1000.0, 499.0]], atol=1e-6)
    np.testing.assert_allclose(scatter.lines[1].get_data(), [[1000.0, 499.0], [1100.0, 548.9]])
    assert scatter.texts[0].get_text() == "mean |error| 10.0 %"

    panels = figures["validation_timeline.png"].axes
    assert len(panels) == 5  # the recording has KV use
    values, edges, _ = panels[0].patches[0].get_data()
    np.testing.assert_allclose(values, [0.0, 2.0])
    np.testing.assert_allclose(edges, [-0.5, 0.5, 1.5])


def test_parts_that_cannot_be_drawn_are_left_out(tmp_path, run):
    nobody = make_result(request_log(dict(prompt_tokens=10, output_tokens=5), dict(prompt_tokens=20)), leap_log(dict(running=1)))
    assert [path.name for path in plot_validation(run, nobody, tmp_path / "a")] == ["validation_timeline.png"]
    bare = dataclasses.replace(run, timeseries=None)
    assert len(plot_validation(bare, with_leaps(samples.answer(run)), tmp_path / "b")) == 2
    assert len(plot_validation(run, samples.answer(run), tmp_path / "c")) == 2
