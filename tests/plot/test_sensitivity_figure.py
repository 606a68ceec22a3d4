"""The tornado chart: its colours are those of the catalogue's better ends."""

from pathlib import Path

import matplotlib.colors
import pytest
from matplotlib.figure import Figure

from simjax.plot import style
from simjax.plot.studies import sensitivity


@pytest.mark.parametrize(
    ("output", "colors"),
    [
        ("output_tokens_per_s", (style.GREEN, style.RUST)),
        ("slo_attainment", (style.GREEN, style.RUST)),
        ("ttft_p99_s", (style.RUST, style.GREEN)),
        ("preemptions", (style.RUST, style.GREEN)),
        ("kv_num_blocks", (style.GREY, style.GREY)),
    ],
)
def test_bars_of_more_and_of_less(output: str, colors: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    save = style.save
    monkeypatch.setattr(style, "save", lambda figure, path: (figures.append(figure), save(figure, path))[1])
    effects = [
        {"output": output, "parameter": name, "elasticity": effect, "standard_error": None, "gradient": None}
        for name, effect in (("more", 0.5), ("less", -0.5))
    ]
    assert sensitivity.plot_sensitivity(effects, tmp_path / "sensitivity.png").stat().st_size > 0
    (axes,) = figures[0].axes
    assert [bar.get_facecolor()[:3] for bar in axes.patches] == [matplotlib.colors.to_rgb(color) for color in colors]
