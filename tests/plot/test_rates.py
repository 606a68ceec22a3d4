"""Latency against the request rate: lines of designs, saturation, and what is left out."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from simjax.plot import style
from simjax.plot.studies.rates import MOST_LINES, plot_rates

KEYS = ["scheduler.max_num_seqs", "workload.rate", "workload.seed"]


@pytest.fixture
def figures(monkeypatch):
    saved, save = [], style.save
    monkeypatch.setattr(style, "save", lambda figure, path: (saved.append(figure), save(figure, path))[1])
    return saved


def table(seqs=(8, 64), rates=(1.0, 2.0, 4.0, 8.0)):
    rows = [
        {
            "scheduler.max_num_seqs": n,
            "workload.rate": rate,
            "status": "finished",
            "ttft_p99_s": 0.1 + max(rate - n / 16, 0.0) * 10,
            "tpot_p99_s": 0.01 * (1 + rate),
            "requests_per_s": min(rate, n / 16),
            "steady": float(rate <= n / 16),
        }
        for n in seqs
        for rate in rates[::-1]
    ]
    return pd.DataFrame(rows)


def test_a_line_for_each_design_with_saturated_points_hollow(tmp_path, figures):
    frame = table()
    path = plot_rates(frame, tmp_path / "rates.png", KEYS, "a sweep")
    assert path == tmp_path / "rates.png" and matplotlib.image.imread(path).shape[1] > 1000
    ttft, tpot, served = figures[0].axes
    assert [axes.get_title(loc="left") for axes in (ttft, served)] == ["P99 TTFT, s", "throughput, requests/s"]
    lines, full, hollow = ttft.lines[::3], ttft.lines[1::3], ttft.lines[2::3]
    for n, line, steady, saturated in zip((8, 64), lines, full, hollow, strict=True):
        rows = frame[frame["scheduler.max_num_seqs"] == n].sort_values("workload.rate")
        np.testing.assert_array_equal(line.get_xdata(), rows["workload.rate"])
        np.testing.assert_array_equal(line.get_ydata(), rows["ttft_p99_s"])
        assert list(saturated.get_xdata()) == [rate for rate in (1.0, 2.0, 4.0, 8.0) if rate > n / 16]
        assert saturated.get_markerfacecolor() == "white" and len(steady.get_xdata()) == 4 - len(saturated.get_xdata())
    assert ttft.get_yscale() == "log" and tpot.get_yscale() == "linear"
    said = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert said == ["max_num_seqs=8", "max_num_seqs=64", "saturated: the load is not steady", "as many as arrive"]


def test_of_many_designs_some_are_drawn(tmp_path, figures):
    plot_rates(table(seqs=range(1, 31)), tmp_path / "rates.png", KEYS)
    assert len(figures[0].axes[0].lines) == 3 * MOST_LINES
    assert figures[0].get_supxlabel() == "8 of 30 designs"


@pytest.mark.parametrize(
    ("frame", "keys"),
    [(table(rates=(1.0, 2.0)), KEYS), (table(), ["scheduler.max_num_seqs"]), (table().assign(status="invalid"), KEYS)],
)
def test_without_three_rates_there_is_no_figure(tmp_path: Path, frame, keys):
    assert plot_rates(frame, tmp_path / "rates.png", keys) is None and not (tmp_path / "rates.png").exists()
