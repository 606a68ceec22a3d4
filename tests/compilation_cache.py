"""One persistent compilation cache for all processes of the tests: pytest, its workers, and the programs that tests start.

Most of the time of the tests is compilation, and most programs are those of the last run. `JAX_COMPILATION_CACHE_DIR` chooses the
directory; otherwise it is below `SIMJAX_TEST_CACHE`, else below `$XDG_CACHE_HOME/simjax-tests`, one for each version of jax and processor.
Where nothing can be written there, the processes of one session share a temporary directory.
"""

from __future__ import annotations

import atexit
import os
import platform
import re
import shutil
import tempfile
import zlib
from importlib.metadata import version
from pathlib import Path

LARGEST = 2**30  # bytes; beyond it the programs that were written first go
SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    # jax 0.10 logs an error line for every program that it loads on the CPU, though the program is right: see simjax/cli/output.py.
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def share_compilation_cache() -> None:
    """Set it up for this process, which must not have imported jax yet, and for those that it starts."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_kept() or _temporary())


def without_shared_cache() -> dict[str, str]:
    """The environment of a process that is to use the cache of the command line, as users have it."""
    return {key: value for key, value in os.environ.items() if key not in SETTINGS and key != "JAX_COMPILATION_CACHE_DIR"}


def _kept() -> Path | None:
    """The directory that is kept between runs; None if nothing can be written there."""
    try:
        above = os.environ.get("SIMJAX_TEST_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simjax-tests"
        path = Path(above).expanduser() / f"jax-{version('jax')}-jaxlib-{version('jaxlib')}-{_processor()}"
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        tidy(path)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return path


def _temporary() -> Path:
    path, owner = Path(tempfile.mkdtemp(prefix="simjax-tests-")), os.getpid()
    atexit.register(lambda: shutil.rmtree(path, ignore_errors=True) if os.getpid() == owner else None)
    return path


def _processor() -> str:
    """A name of the processor with its features: a program compiled for one may be wrong on another."""
    info = Path("/proc/cpuinfo")
    features = re.search(r"^(?:flags|Features)\s*:.*$", info.read_text(), re.MULTILINE) if info.exists() else None
    return f"{platform.machine()}-{zlib.crc32((features[0] if features else platform.processor()).encode()):08x}"


def tidy(path: Path, largest: int = LARGEST) -> None:
    """Remove what a killed process or a full disk left half written, which jax would neither load nor replace, and the oldest programs."""
    checked, total = path / "checked", 0
    since = checked.stat().st_mtime if checked.exists() else 0.0
    entries = [(entry, entry.stat()) for entry in path.glob("*-cache")]
    checked.touch()
    for entry, status in sorted(entries, key=lambda x: x[1].st_mtime, reverse=True):
        total += status.st_size
        if total > largest or (status.st_mtime >= since and not _whole(entry.read_bytes())):
            entry.unlink(missing_ok=True)


def _whole(packed: bytes) -> bool:
    """Whether all of a compressed program is there; taken on trust if it is not compressed with zlib, which jax uses without zstd."""
    if packed[:1] != b"\x78":
        return len(packed) > 0
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed)
    except zlib.error:
        return False
    return unpacking.eof
