"""The soak of mistakes, changed bytes and interrupts, a tenth of it: no traceback, no changed byte believed, nothing written elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "experiments" / "soak" / "mistakes.py"


def test_quick_soak() -> None:
    soak("mistakes")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["flips", "interrupts"])
def test_quick_soak_of_files_and_signals(part: str) -> None:
    soak(part)


def soak(part: str) -> None:
    said = subprocess.run([sys.executable, str(SOAK), "--quick", "--parts", part], capture_output=True, text=True, check=False)
    figures = dict(line.split("\t") for line in said.stdout.splitlines() if "\t" in line)
    assert said.returncode == 0, said.stdout + said.stderr
    bad = ("traceback", "believed", "outside", "without_their", "crash", "left_behind", "differ", "several_lines")
    assert not {name: value for name, value in figures.items() if any(word in name for word in bad) and value != "0"}
    counted = {"mistakes": "mistakes", "flips": "flips_results_csv", "interrupts": "interrupts"}[part]
    assert int(figures[counted]) >= 4
    if part == "mistakes":
        told, made = int(figures["mistakes_told_in_one_line"]), int(figures["mistakes"])
        assert told >= made - 2, said.stdout  # one or two of those drawn may mean something
