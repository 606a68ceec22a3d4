"""Figures of hand-overs: what they draw, checked on a run made by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from simjax.metrics.handover.parts import PARTS
from simjax.plot.run import plot_run
from tests.metrics.factory import handed_over, tiny, without_leaps
from tests.plot.test_run_figures import figures as figures  # the fixture
from tests.plot.test_run_figures import looks_drawn


def test_only_runs_with_hand_overs_have_the_figures(tmp_path: Path) -> None:
    assert [path.name for path in plot_run(tiny(), tmp_path)] == ["latency_cdf.png", "timeline.png"]
    paths = plot_run(handed_over(), tmp_path)
    assert [path.name for path in paths] == ["latency_cdf.png", "timeline.png", "ttft_parts.png", "pools.png"]
    assert all(map(looks_drawn, paths))
    assert [path.name for path in plot_run(without_leaps(handed_over()), tmp_path)] == ["latency_cdf.png", "ttft_parts.png"]


def test_a_waterfall_goes_from_the_arrival_to_the_first_token(tmp_path: Path, figures) -> None:
    plot_run(handed_over(), tmp_path)
    left, right = figures["ttft_parts.png"].axes
    bars = [(bar.get_x(), bar.get_width()) for bar in left.patches]
    np.testing.assert_allclose([width for _, width in bars], [500.0, 1000.0, 500.0, 2500.0, 500.0])
    np.testing.assert_allclose([x for x, _ in bars[1:]], [x + width for x, width in bars[:-1]])
    assert [text.get_text() for text in left.texts] == ["500 ms, 10 %", "1 s, 20 %", "500 ms, 10 %", "2.5 s, 50 %", "500 ms, 10 %"]
    tops = np.sort([bar.get_y() + bar.get_height() for bar in right.patches])
    assert tops[-2:] == pytest.approx([5000.0, 5500.0]), "the requests of A and B, one in a group each"
    assert [text.get_text() for text in right.get_legend().get_texts()] == list(PARTS.values())[::-1]


def test_pools_and_links_over_time(tmp_path: Path, figures) -> None:
    plot_run(handed_over(), tmp_path)
    prefill, decode, kv, links = figures["pools.png"].axes
    assert prefill.get_title(loc="left") == "prefill: 1 instance" and decode.get_title(loc="left") == "decode: 2 instances"
    values, edges, _ = links.patches[0].get_data()
    assert (values * np.diff(edges)).sum() / 100 * 100.0 == pytest.approx(400.0), "the wire that both transfers cross"
    assert "wire 0" in links.get_legend().get_texts()[0].get_text()
    running = [patch.get_data() for patch in decode.patches]
    assert (running[0].values * np.diff(running[0].edges)).sum() == pytest.approx(1.0 + 0.25 + 0.5)
    assert len(kv.patches) == 3, "a line for each pool, and the range of the decode instances"


def test_nothing_moved(tmp_path: Path, figures) -> None:
    """All requests stayed on one instance: there are no parts to draw, and no link was used."""
    result = handed_over()
    nobody = dataclasses.replace(result.handovers, prefill_instance=np.full(3, -1, np.int32))
    names = [path.name for path in plot_run(dataclasses.replace(result, handovers=nobody), tmp_path)]
    assert names == ["latency_cdf.png", "timeline.png", "pools.png"]
    assert "nothing was moved" in figures["pools.png"].axes[-1].texts[0].get_text()
