"""Rewrite the tables of README.md from results/*.tsv; with --run, run every script first (about twenty minutes on two cores).

usage: python report.py [--run]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results", HERE / "README.md"
SCRIPTS = (
    "errors",
    "schedule",
    "causes",
    "steps",
    "sensitivity",
    "calibration",
    "silicon",
    "joint",
    "peers",
    "figure5",
    "figure7",
    "repeated",
)


def markdown(path: Path) -> str:
    """A result file as a table; cells of the first column that equal the one above are left empty."""
    header, *lines = (line.split("\t") for line in path.read_text().splitlines())
    rows, above = [], ""
    for first, *rest in lines:
        rows.append(["" if first == above else first, *rest])
        above = first
    align = ["---" if not re.fullmatch(r"-?[\d.]+", cell) else "---:" for cell in lines[0]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run every script first")
    if parser.parse_args().run:
        for name in SCRIPTS:
            subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)
    text = README.read_text()
    for name in re.findall(r"<!-- (\w+) -->", text):
        before, rest = text.split(f"<!-- {name} -->")
        after = rest.split(f"<!-- /{name} -->")[1]
        text = f"{before}<!-- {name} -->\n{markdown(RESULTS / f'{name}.tsv')}\n<!-- /{name} -->{after}"
    README.write_text(text)


if __name__ == "__main__":
    main()
