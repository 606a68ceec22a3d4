"""Reads a measured run from a folder in any of the known layouts, or from the result file of a load generator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simjax.errors import SimjaxError
from simjax.validate.formats.inference_perf import read_inference_perf
from simjax.validate.formats.llmservingsim import read_llmservingsim
from simjax.validate.formats.request_trace import read_request_trace
from simjax.validate.formats.results import read_result_run
from simjax.validate.run import MeasuredRun

Reader = Callable[[Path, str | None], MeasuredRun]

# The file that identifies a layout, and the layout's reader.
_LAYOUTS: dict[str, Reader] = {
    "vllm/requests.jsonl": read_llmservingsim,
    "trace.csv.gz": read_request_trace,
    "trace.csv": read_request_trace,
    "exp-config.yaml": read_inference_perf,
}


OWN_RUN = ("requests.csv", "config.yaml")
"""Files of a simulation, which is a measured run too."""


def read_measured(path: str | Path, device: str | None = None) -> MeasuredRun:
    """Read a measured run from its folder, or from a file.

    Layouts:
        LLMServingSim bench: `config.json` (its cluster schema; optional with `device`), `vllm/meta.json`, `vllm/requests.jsonl`,
            `vllm/timeseries.csv` (optional).
        Request trace: `trace.csv.gz` with one row per request, `server_config.json` next to it or in the parent folder.
        inference-perf: `exp-config.yaml`, `requests.csv.gz`, `index.csv` in the parent folder.
        A simulation: the `requests.csv` of a run with its `config.yaml`.
        A file: the result of a load generator, or a table of requests with their times, see `simjax.validate.formats.results`.

    Args:
        path: the run's folder, or its result file.
        device: the GPU, which overrides the one in the files.

    Raises:
        SimjaxError: the folder is missing, has none of the layouts, or a file in it is missing or malformed; the message is one line.
    """
    folder = Path(path)
    if folder.is_file():
        return read_result_run(folder, device)
    if not folder.is_dir():
        raise SimjaxError(f"{folder}: no such folder; a measured run is a folder, or the result file of a load generator")
    # The user may name the subfolder that holds requests.jsonl.
    if folder.name == "vllm" and (folder / "requests.jsonl").is_file():
        folder = folder.parent
    if (reader := _reader(folder)) is not None:
        return reader(folder, device)
    if all((folder / name).is_file() for name in OWN_RUN):
        return read_result_run(folder / OWN_RUN[0], device)
    inside = sorted(child.name for child in folder.iterdir() if child.is_dir() and _reader(child) is not None)
    if inside:
        raise SimjaxError(f"{folder}: holds {len(inside)} measured runs, name one of them: {', '.join(inside[:8])}")
    files = sorted(child.name for child in folder.iterdir() if child.suffix in (".json", ".jsonl"))
    results = f"; name the result file of a load generator itself: {', '.join(files[:8])}" if files else ""
    raise SimjaxError(f"{folder}: not a measured run; it has none of {', '.join(_LAYOUTS)}{results}")


def _reader(folder: Path) -> Reader | None:
    return next((reader for marker, reader in _LAYOUTS.items() if (folder / marker).is_file()), None)
