"""Mistakes, damaged files and interrupts: simjax must say each in one line, believe no changed byte, and write nowhere else.

Three parts. *Mistakes*: wrong options, values and files, drawn from the schema of every command and from kinds of damage (`wrong.py`).
*Flips*: one random byte of a file changed, 60 times for each kind of file that simjax reads (`damage.py`). *Interrupts*: SIGINT or SIGTERM
at a random moment of a process (`stops.py`). Prints every command that fails, then one line a figure: figure<TAB>value. Exit code 1 if
there was a traceback, a changed byte that was believed, a file outside, or an interrupt without its line.

usage: python experiments/soak/mistakes.py [--quick] [--minutes M] [--seed N]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


class Said(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def traceback(self) -> bool:
        """Whether it was a bug, told or not."""
        return self.code == 3 or "Traceback" in self.err or "internal error" in self.err

    @property
    def one_line(self) -> bool:
        """Whether it was refused as a mistake is to be: exit code 2, one line after the warnings."""
        lines = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        return self.code == 2 and len(lines) == 1 and lines[0].startswith("simjax: error: ")


class Soak:
    """Figures, and a folder `work` to work in, beside which nothing may change.

    Attributes:
        figures: the figures by name.
        work: the working directory of all commands.
        home: a folder beside it, with files that no command was told to touch; `$HOME` of all commands.
    """

    def __init__(self, root: Path) -> None:
        self.figures: Counter[str] = Counter()
        self.work, self.home = root / "work", root / "home"
        self.work.mkdir()
        self.home.mkdir()
        (self.home / "bashrc").write_text("precious\n")
        (root / "outside.csv").write_text("precious\n")
        os.environ |= {"HOME": str(self.home), "XDG_CACHE_HOME": str(root / "cache")}
        os.chdir(self.work)
        self._before = self._outside()

    def call(self, *words: str) -> Said:
        """Run a command in this process."""
        from simjax.cli.main import main

        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(list(words))
            except SystemExit as error:
                code = int(error.code or 0)
            except BaseException as error:
                err.write(f"Traceback: {error!r}")
        return Said(code, out.getvalue(), err.getvalue())

    def count(self, figure: str, failed: bool = True, what: str = "") -> None:
        """Add to a figure, and print what failed; the figure appears even if it is 0."""
        self.figures[figure] += failed
        if failed and what:
            print(f"{figure}: {what}", flush=True)

    def check_outside(self, what: str) -> None:
        """Count the files beside the working directory that have changed."""
        now = self._outside()
        self.count("files_outside", now != self._before, f"{what}: {sorted(set(now.items()) ^ set(self._before.items()))}")
        self._before = now

    def _outside(self) -> dict[str, str]:
        root = self.work.parent
        kept = (path for path in root.rglob("*") if path.is_file() and not path.is_relative_to(self.work))
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in kept
            if not path.is_relative_to(root / "cache") and ".cache" not in path.parts
        }


def main() -> int:
    """Run the three parts and print their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--minutes", type=float, default=0.0, help="repeat with other seeds for so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="*", default=["mistakes", "flips", "interrupts"], help="parts to run")
    given = parser.parse_args()
    import damage
    import stops
    import wrong

    counts = {"mistakes": 24, "flips": 10, "interrupts": 4} if given.quick else {"mistakes": 200, "flips": 60, "interrupts": 20}
    began, seed = time.monotonic(), given.seed
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(os.chdir, Path.cwd())
        soak = Soak(Path(folder))
        parts = {"mistakes": wrong.run, "flips": damage.run, "interrupts": stops.run}
        while True:
            for name in given.parts:
                parts[name](soak, counts[name], seed)
            seed += 1
            if time.monotonic() - began >= 60.0 * given.minutes:
                break
    for name, value in soak.figures.items():
        print(f"{name}\t{value}")
    bad = ("traceback", "believed", "outside", "without_their", "several_lines", "left_behind", "differ", "crash")
    return int(any(value and any(word in name for word in bad) for name, value in soak.figures.items()))


if __name__ == "__main__":
    sys.exit(main())
