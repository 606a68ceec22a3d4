"""Output of all commands: the directory of the results, progress, warnings."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from simjax.caveat import Estimate
from simjax.cli.interrupts import NOTHING, hint
from simjax.errors import SimjaxError
from simjax.text import printable

LOG_EVERY_S = 60.0
"""Seconds between two lines on the progress of a command whose stderr is a log."""


def console(stderr: bool = False) -> Console:
    """The console for texts; wide enough for tables if it is not a terminal, and without emoji, so that colons in file names are safe."""
    out = Console(stderr=stderr, emoji=False)
    return out if out.is_terminal else Console(stderr=stderr, emoji=False, width=140)


def say(line: str) -> None:
    """Print a line verbatim."""
    console().print(printable(line), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def results_in(out: str | None, command: str) -> Iterator[Path]:
    """The directory of the results, created if missing, and removed again if the command fails before writing anything.

    Args:
        out: the directory that the user chose; None for a new dated directory under outputs/.
        command: part of the dated name.

    Raises:
        SimjaxError: the path is a file, or the directory cannot be created or written to.
    """
    path = _dated(command) if out is None else Path(out).expanduser()
    if out is not None and not out.strip():
        raise SimjaxError("out= is empty; give a directory, or leave it out for a dated one under outputs/")
    made, began = not path.exists(), time.time()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise SimjaxError(f"out={path}: this is a file; give a directory") from None
    except OSError as error:
        raise SimjaxError(f"out={path}: cannot make this directory: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise SimjaxError(f"out={path}: no permission to write into this directory")
    if (path / "config.yaml").exists():
        warn([f"out={path}: it holds results already; those of the same names are replaced"])

    def clean_up() -> str:
        if made and path.exists() and not any(path.iterdir()):
            path.rmdir()
        written = path.exists() and any(file.stat().st_mtime >= began for file in path.iterdir())
        return f"{path} holds a part of the results; the same command writes them anew" if written else NOTHING

    with hint(clean_up):
        try:
            yield path
        except BaseException:
            clean_up()
            raise


def _dated(command: str) -> Path:
    """A name that is not in use: two runs may start in the same second."""
    first = Path("outputs") / datetime.now().strftime(f"%Y-%m-%d_%H-%M-%S_{command}")
    path, number = first, 2
    while path.exists():
        path, number = first.with_name(f"{first.name}_{number}"), number + 1
    return path


@contextmanager
def progress(before: str, text: str = "simulating") -> Iterator[Callable[[int, int], None]]:
    """A callback (requests done, requests in all) that moves a `moving_bar`."""
    with moving_bar(before) as move:
        yield lambda done, total: move(description=text, completed=done, total=total, count=f"{done:,} of {total:,} requests")


@contextmanager
def moving_bar(before: str) -> Iterator[Callable[..., None]]:
    """A function that moves a bar on the terminal: it takes rich's `description`, `completed` and `total`, and `count`, a text at its end.

    Until it is moved, the bar shows `before` and pulses. It is removed at the end. If stderr is not a terminal but a log, what the bar
    would show is printed as a line once a minute.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn())
    out = console(stderr=True)
    if not out.is_terminal:
        yield _logged_progress(before)
        return
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(before, total=None, count="")
        yield lambda **changes: bar.update(task, **changes)


def _logged_progress(before: str) -> Callable[..., None]:
    """A function with the arguments of that of `moving_bar`, which prints a line once in `LOG_EVERY_S`."""
    began_s = time.monotonic()
    state: dict[str, Any] = {"description": before, "completed": None, "total": None, "count": "", "told_s": began_s}

    def move(**changes: Any) -> None:
        state.update(changes)
        now_s = time.monotonic()
        if now_s - state["told_s"] < LOG_EVERY_S:
            return
        state["told_s"] = now_s
        done, total, count = state["completed"], state["total"], str(state["count"])
        steps = f"{done:,} of {total:,}" if done is not None and total else ""
        parts = [part for part in (steps if " of " not in count else "", count) if part]
        print(
            f"{state['description']}{': ' if parts else ''}{', '.join(parts)}, after {now_s - began_s:,.0f} s", file=sys.stderr, flush=True
        )

    return move


def warn(lines: tuple[str, ...] | list[str]) -> None:
    """Print warnings on stderr, one line each; what is true of nearly every run, in a quieter style."""
    out = console(stderr=True)
    for line in lines:
        word, style = ("estimates:", "dim") if isinstance(line, Estimate) else ("warning:", "yellow")
        out.print(word, printable(line), style=style, markup=False, highlight=False, soft_wrap=True)


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warn([record.getMessage()])


@contextmanager
def logged() -> Iterator[None]:
    """Print the library's log messages (such as numbers of skipped rows) as warnings."""
    logger, handler = logging.getLogger("simjax"), _Warnings()
    before, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagate
