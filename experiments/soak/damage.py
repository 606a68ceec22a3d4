"""One changed byte: in each kind of file that simjax reads, and in its compilation cache."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrong import ROW, TRACE

if TYPE_CHECKING:
    from mistakes import Soak

DATA = Path(os.environ.get("SIMJAX_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SIGNED = ("results.csv", "sweep.json", "points.csv", "profile.yaml", "fit.unfinished", "cache entry")
"""Files with a checksum, which simjax wrote: a change must be noticed or mean nothing. In others a number may become another number."""


def run(soak: Soak, count: int, seed: int) -> None:
    """Flip `count` bytes of each kind of file."""
    draw = random.Random(seed)
    said = soak.call("run", "-m", "workload.rate=2,4,6", "workload.num_requests=20", "plots=false", "out=s")
    assert said.code == 0, said.err
    for name in ("results.csv", "sweep.json", "points.csv"):
        _flip(soak, soak.work / "s" / name, name, count, draw, lambda: _sweep(soak))
    for name, (path, read) in _files(soak).items():
        _flip(soak, path, name, count, draw, read)
    _exchanged(soak)
    shutil.rmtree(soak.work / "s")


def _flip(soak: Soak, path: Path, kind: str, count: int, draw: random.Random, read: Callable[[], Any]) -> None:
    """Count what `read` makes of a changed byte: an error of one line, the same as before, or something else."""
    from simjax.errors import SimjaxError

    whole, before, label = path.read_bytes(), read(), kind.replace(" ", "_").replace(".", "_")
    for _ in range(count):
        at = draw.randrange(len(whole))
        changed = bytes([draw.choice([x for x in (whole[at] ^ (1 << draw.randrange(8)), draw.randrange(256)) if x != whole[at]] or [0])])
        path.write_bytes(whole[:at] + changed + whole[at + 1 :])
        what = f"byte {at} of {kind}: {whole[max(0, at - 20) : at + 20]!r}, there {changed!r}"
        soak.count(f"flips_{label}")
        try:
            found = read()
        except SimjaxError as error:
            soak.count("flips_told_in_several_lines", "\n" in str(error), what)
            soak.count(f"flips_{label}_noticed")
        except Exception as error:
            soak.count("flips_with_traceback", True, f"{what}: {error!r}")
        else:
            soak.count(f"flips_{label}_without_meaning" if kind in SIGNED else f"flips_{label}_same", found == before)
            soak.count(
                f"flips_{label}_{'believed' if kind in SIGNED else 'another_value'}", found != before, what if kind in SIGNED else ""
            )
    path.write_bytes(whole)
    soak.check_outside(kind)


def _sweep(soak: Soak) -> tuple[str, str, bytes]:
    """What `pareto` and a dry run of `sweep.resume` make of the sweep."""
    from simjax.errors import SimjaxError

    found = []
    for words in (["pareto", "s", "plots=false"], ["run", "sweep.resume=s", "sweep.dry_run=true"]):
        said = soak.call(*words)
        if said.one_line:
            raise SimjaxError(said.err.strip())
        if said.traceback or said.code:
            raise RuntimeError(said.err)
        found.append(said.out + said.err)
    return found[0], found[1], (soak.work / "s" / "pareto.csv").read_bytes()


def _files(soak: Soak) -> dict[str, tuple[Path, Callable[[], Any]]]:
    """Other kinds of files, each with a reader of its content."""
    import numpy as np

    from simjax.cli.checked_cache import CheckedCache
    from simjax.disk.checkpoint import Checkpoint
    from simjax.disk.paths import PROFILES
    from simjax.latency.profiles.file import load_profile, save_profile
    from simjax.latency.tables.bundle import read_bundle
    from simjax.workload import build_workload
    from simjax.workload.config import WorkloadConfig

    work = soak.work
    trace = lambda path: lambda: repr([x.tolist() for x in _arrays(build_workload(WorkloadConfig(kind="trace", file=str(path))))])
    save_profile(load_profile(PROFILES / "latency" / "h100" / "generic.yaml"), work / "profile.yaml")
    profile = lambda path: lambda: repr(asdict(_fresh(load_profile, path)))
    (work / "t.csv").write_text(TRACE + "".join(f"{3 + i},{20 + i},{5 + i}\n" for i in range(20)))
    (work / "t.jsonl").write_text("".join(ROW.replace('"timestamp": 0', f'"timestamp": {1000 * i}') for i in range(20)))
    shutil.copy(PROFILES / "hardware" / "h100.yaml", work / "device.yaml")
    import simjax.disk.checkpoint

    simjax.disk.checkpoint.INTERVAL_S, kept = 0.0, simjax.disk.checkpoint.INTERVAL_S
    Checkpoint(work / "fit.unfinished", "problem").save(3, u=np.arange(50.0))
    simjax.disk.checkpoint.INTERVAL_S = kept
    cache = CheckedCache(work, own=False)
    cache.put("program", bytes(range(256)) * 20)
    found = {
        "profile.yaml": (work / "profile.yaml", profile(work / "profile.yaml")),
        "t.csv": (work / "t.csv", trace(work / "t.csv")),
        "t.jsonl": (work / "t.jsonl", trace(work / "t.jsonl")),
        "fit.unfinished": (work / "fit.unfinished", lambda: _told(Checkpoint(work / "fit.unfinished", "problem").load())),
        "cache entry": (work / "program-cache", lambda: _told(cache.get("program"))),
    }
    for meta in sorted((DATA / "llmservingsim" / "profiles").rglob("meta.yaml"))[:1]:
        shutil.copytree(meta.parent, work / "tables", ignore=shutil.ignore_patterns("tp[2-9]*"))
        for name in ("meta.yaml", "tp1/dense.csv", "tp1/attention.csv"):
            found[f"tables {Path(name).name}"] = (work / "tables" / name, lambda: repr(read_bundle(work / "tables" / "tp1")))
    return found


def _fresh(read: Callable[[Path], Any], path: Path) -> Any:
    """Read a file that has changed within the resolution of its time stamp."""
    stamp = path.stat().st_mtime_ns + random.randrange(1, 10**9)
    os.utime(path, ns=(stamp, stamp))
    return read(path)


def _arrays(workload: Any) -> list[Any]:
    return [workload.arrival_s, workload.prompt_tokens, workload.output_tokens]


def _told(found: Any) -> str:
    """What was read; None stands for what was noticed."""
    from simjax.errors import SimjaxError

    if found is None:
        raise SimjaxError("noticed")
    return repr(found if isinstance(found, bytes) else {name: array.tolist() for name, array in found.items()})


def _exchanged(soak: Soak) -> None:
    """A run whose compiled programs all stand under each other's names: the same numbers, and the next run finds nothing wrong."""
    from stops import start

    words = ["run", "workload.num_requests=12", "plots=false"]
    environment = {"JAX_COMPILATION_CACHE_DIR": str(soak.work / "programs")}
    results = []
    for name in ("whole", "exchanged", "again"):
        if name == "exchanged":
            entries = sorted((soak.work / "programs").glob("*-cache"))
            contents = [entry.read_bytes() for entry in entries]
            for entry, content in zip(entries, contents[1:] + contents[:1], strict=True):
                entry.write_bytes(content)
        process = start([*words, f"out={name}"], soak.work, environment)
        _, err = process.communicate()
        soak.count("exchanged_programs_with_traceback", process.returncode != 0 or "Traceback" in err, f"{process.returncode} {err[-500:]}")
        soak.count("exchanged_programs_told", "a compiled program in this cache was damaged" in err)
        requests = soak.work / name / "requests.csv"
        results.append(requests.read_bytes() if requests.exists() else b"")
    soak.count("exchanged_programs_differ", len(set(results)) > 1)
