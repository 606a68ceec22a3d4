"""The page about the library: its blocks run, one after the other, and print what the page says of them."""

import re
from pathlib import Path
from typing import Any

import jax
import pytest

PAGE = (Path(__file__).parents[2] / "notebooks" / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    before = jax.config.jax_enable_x64
    try:
        for block in BLOCKS:
            assert sum(bool(line.strip()) for line in block.splitlines()) <= 5
            exec(compile(block, "library.md", "exec"), names)
    finally:
        jax.config.update("jax_enable_x64", before)
    said = capsys.readouterr().out.splitlines()
    assert 0.0 < float(said[0]) < 0.2
    more, fewer = map(float, said[1].split())
    assert more < fewer, "2 seats make requests wait"
    assert all(float(x) < 0.0 for x in said[-1].split()), "bandwidth helps"
    first, *_, last = map(float, re.findall(r"[\d.]+", said[2]))
    assert first < last, "at three times the rate requests wait longer"
