"""Recognises the format of a file from the names of its columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simjax.errors import SimjaxError, closest
from simjax.workload.formats.base import TraceFormat
from simjax.workload.formats.discover import formats_in
from simjax.workload.formats.sessions.kvcache_tester import KVCACHE_TESTER
from simjax.workload.formats.tables.rows import Header, read_header

FORMATS: dict[str, TraceFormat] = formats_in("simjax.workload.formats")
"""Every format by name, in the order in which "auto" tries them."""

_SAME_ROWS = {("parquet", "csv"), ("parquet", "jsonl"), ("jsonl", "json"), ("array", "jsonl"), ("array", "csv"), ("jsonl", "csv")}
"""Containers of a file -> of a format whose rows it can hold; a JSON object on one line looks like JSON Lines."""

_SUMMARY = "mean_ttft_ms"


def recognise(path: Path, name: str) -> tuple[TraceFormat, Header, dict[str, str]]:
    """The format of a file, its header, and the columns of the format in it: name in the format -> name in the file.

    Names are compared exactly first, then without regard to letter case, spaces and hyphens.

    Raises:
        SimjaxError: an unknown format, or a file that is none of the known ones, or not of the format `name`.
    """
    # A directory needs no look inside at this point: only session files come in directories.
    header = Header("json", KVCACHE_TESTER.required) if path.is_dir() else read_header(path)
    if name == "auto":
        for spelt in (str, _loosely):
            for fmt in FORMATS.values():
                found = _spelling(fmt, header, spelt)
                if _holds(header, fmt) and fmt.recognises(set(found)):
                    return fmt, header, found
        if _SUMMARY in header.columns:
            raise SimjaxError(f"{path}: a summary of a benchmark without its requests; vllm bench writes them with --save-detailed")
        shown = ", ".join(header.columns[:12]) + (", ..." if len(header.columns) > 12 else "")
        raise SimjaxError(
            f"{path}: cannot tell the format from its columns ({shown}); known formats: {', '.join(FORMATS)}; "
            "or rename the columns to arrival_s, prompt_tokens, output_tokens"
        )
    if name not in FORMATS:
        raise SimjaxError(f"unknown trace format {name!r}; {closest(name, ['auto', *FORMATS])}")
    fmt = FORMATS[name]
    if not _holds(header, fmt):
        raise SimjaxError(f"{path}: looks like {header.container}, but the {name} format is {fmt.container}")
    for spelt in (str, _loosely):
        found = _spelling(fmt, header, spelt)
        if fmt.recognises(set(found)):
            return fmt, header, found
    missing = [column for column in fmt.required if column not in header.columns]
    raise SimjaxError(f"{path}: the {name} format needs the column(s) {', '.join(missing)}; format=auto recognises files by their columns")


def _holds(header: Header, fmt: TraceFormat) -> bool:
    """Whether the file's container can hold the format."""
    if fmt.reader is not None and header.container not in (fmt.container, "jsonl"):
        return False
    return header.container == fmt.container or (header.container, fmt.container) in _SAME_ROWS


def _spelling(fmt: TraceFormat, header: Header, spelt: Callable[[str], str]) -> dict[str, str]:
    """The format's columns that the file has: name in the format -> name in the file."""
    columns = {spelt(name): name for name in reversed(header.columns)}
    return {name: columns[spelt(name)] for name in (*fmt.columns, *fmt.also) if spelt(name) in columns}


def _loosely(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
