"""What the commands share: the output directory, the compilation cache, progress, warnings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simjax.errors import SimjaxError

SLOW_S = 2.0  # a progress bar appears on anything that takes longer


def console(stderr: bool = False) -> Console:
    """Where text goes; wide enough for the tables when it is not a terminal."""
    out = Console(stderr=stderr)
    return out if out.is_terminal else Console(stderr=stderr, width=120)


def output_directory(out: str | None, command: str) -> Path:
    """The directory of the results, made if it is missing.

    Raises:
        SimjaxError: it is a file, or cannot be made.
    """
    path = Path(out) if out is not None else Path("outputs") / datetime.now().strftime(f"%Y-%m-%d_%H-%M-%S_{command}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SimjaxError(f"out={path}: cannot make this directory: {error.strerror}") from None
    return path


def use_compilation_cache() -> None:
    """Keep compiled programs between processes, in $XDG_CACHE_HOME/simjax, unless the user chose a place (JAX_COMPILATION_CACHE_DIR).

    Only the command line does this: the library leaves JAX's settings alone.
    """
    # jax 0.10 logs an error line for every cache hit on the CPU, though the program it loads is right (machine features spelt differently).
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    if not jax.config.jax_compilation_cache_dir:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "simjax" / f"xla-{jax.__version__}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that draws a bar on the terminal once the work has taken a while."""
    import time

    began, task = time.monotonic(), None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("requests"), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:

        def update(done: int, total: int) -> None:
            nonlocal task
            if task is None and time.monotonic() - began > SLOW_S:
                task = bar.add_task(text, total=total)
            if task is not None:
                bar.update(task, completed=done)

        yield update


def warn(lines: tuple[str, ...] | list[str]) -> None:
    """Print warnings, one line each."""
    out = console(stderr=True)
    for line in lines:
        out.print(f"[yellow]warning:[/] {line}", highlight=False, soft_wrap=True)
