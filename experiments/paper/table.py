"""Rows of the comparison with the paper, and their table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

HEADER = ("figure", "what", "measured", "LLMServingSim", "off, %", "simjax", "off, %", "CPU, s")


@dataclass(frozen=True)
class Compared:
    """A number of a figure.

    Attributes:
        figure: the figure, and the run of it where it has several.
        what: the quantity with its unit; one that is an error already says so by `is_error`.
        measured: of the real system; None where the figure has none.
        theirs: of LLMServingSim, from its artifact; None where the artifact does not have it.
        ours: of simjax; None where simjax does not simulate it.
        is_error: whether the numbers are errors against a measurement, so that no error of them is taken.
        digits: digits after the point.
    """

    figure: str
    what: str
    measured: float | None
    theirs: float | None
    ours: float | None
    is_error: bool = False
    digits: int = 1

    def cells(self) -> list[str]:
        """The row without its time."""
        numbers = [_number(x, self.digits) for x in (self.measured, self.theirs, self.ours)]
        off = [
            None if self.is_error or not self.measured or x is None else 100.0 * (x / self.measured - 1.0) for x in (self.theirs, self.ours)
        ]
        return [self.figure, self.what, numbers[0], numbers[1], _signed(off[0]), numbers[2], _signed(off[1])]


Figure = Callable[[], list[Compared]]


def rows_of(figures: dict[str, Figure], names: list[str]) -> list[list[str]]:
    """The rows of some figures; the CPU seconds of all that a figure simulates, compilation included, are in its first row."""
    rows = []
    for name in names:
        began = time.process_time()
        compared = figures[name]()
        seconds = time.process_time() - began
        rows += [[*one.cells(), f"{seconds:.0f}" if one is compared[0] else ""] for one in compared]
    return rows


def markdown(rows: list[list[str]]) -> str:
    """The rows as a table for a page."""
    align = ["---", "---", *["---:"] * (len(HEADER) - 2)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (HEADER, align, *rows))


def read_tsv(path: Path) -> pd.DataFrame:
    """A table of the artifact."""
    return pd.read_csv(path, sep="\t")


def _number(x: float | None, digits: int) -> str:
    return "" if x is None else f"{x:,.{digits}f}"


def _signed(x: float | None) -> str:
    return "" if x is None else f"{x:+.1f}"
