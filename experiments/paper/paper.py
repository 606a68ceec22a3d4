"""The figures of LLMServingSim 2.0 (arXiv 2602.23036), each by one command: measured, theirs and ours.

usage: python experiments/paper/paper.py [5a 5b 5c 6 7 8 10]   # some figures, as a table; all of them without a number
       python experiments/paper/paper.py --write                      # all of them, into README.md
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "validation"))  # whose scripts hold the simulations
import fig5
import fig6
import fig7
import fig8
import fig10
from table import markdown, rows_of

FIGURES = {"5a": fig5.apart, "5b": fig5.a6000, "5c": fig5.h100, "6": fig6.rows, "7": fig7.rows, "8": fig8.rows, "10": fig10.rows}


def main(words: list[str]) -> None:
    names = [word for word in words if word != "--write"] or list(FIGURES)
    if unknown := [name for name in names if name not in FIGURES]:
        sys.exit(f"figure {unknown[0]}: there are {', '.join(FIGURES)}")
    if "--write" in words and names != list(FIGURES):
        sys.exit("--write: it writes all figures; leave their numbers out")
    logging.disable(logging.WARNING)
    tables = {"figures": markdown(rows_of(FIGURES, names))}
    if "8" in names:
        tables["simulators"] = fig8.others()
    print(*tables.values(), sep="\n\n")
    if "--write" in words:
        page = Path(__file__).with_name("README.md")
        text = page.read_text(encoding="utf-8")
        for name, table in tables.items():
            before, rest = text.split(f"<!-- {name} -->\n")
            after = rest.split(f"<!-- /{name} -->")[1]
            text = f"{before}<!-- {name} -->\n{table}\n<!-- /{name} -->{after}"
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
