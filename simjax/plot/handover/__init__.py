"""Figures of hand-overs from prefill to decode instances: parts of the time to first token, pools and links over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simjax.engine.host.result import Result
from simjax.metrics.handover.parts import handed_over
from simjax.plot.handover.parts import plot_ttft_parts
from simjax.plot.handover.pools import plot_pools


def plot_handovers(result: Result, out: Path, title: str = "", counts: np.ndarray | None = None) -> list[Path]:
    """Write `ttft_parts.png` if a request was handed over, and with a leap log `pools.png`.

    Args:
        result: a run with hand-overs.
        out: the folder.
        title: title at the top of the figures.
        counts: bool[R], the requests that count for the parts; None for all.
    """
    assert result.handovers is not None
    there = handed_over(result.requests, result.handovers) & (True if counts is None else counts)
    paths = [plot_ttft_parts(result, out / "ttft_parts.png", title, there)] if there.any() else []
    return paths if result.leaps is None else [*paths, plot_pools(result, out / "pools.png", title)]
