"""Measured runs from the result files of load generators and from tables: latencies as clients saw them, and what is said of the server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from simjax.backend.releases import DEFAULT
from simjax.errors import SimjaxError
from simjax.validate.failed import FailedRequests
from simjax.validate.formats.own_run import own_settings
from simjax.validate.formats.sends import sends
from simjax.validate.formats.settings import deployed
from simjax.validate.run import EngineFacts, MeasuredRun, finish_run
from simjax.workload.formats import FORMATS
from simjax.workload.formats.base import Recorded
from simjax.workload.formats.plain import PLAIN
from simjax.workload.formats.recognise import recognise
from simjax.workload.formats.results.timed_table import read_timed_table

NOT_RECORDED = "(not recorded)"
ROUNDING_S = 1e-4  # of the two times of an answer of one token, which files hold in different units


def read_result_run(path: Path, device: str | None = None) -> MeasuredRun:
    """Read the result file of a load generator (see `simjax.workload.formats.results`), or a table of requests with their times.

    TPOT is (E2E - TTFT) / (tokens - 1), whatever the chunks in which the tokens came. Requests that failed, or answered nothing, count as
    failed. What the file does not record of the server is named in `MeasuredRun.unrecorded`.

    Raises:
        SimjaxError: it is no such file, cannot be read, lacks arrivals, first tokens or finishes, or no request succeeded.
    """
    found = _read(path)
    own = own_settings(path.parent) if path.name == "requests.csv" else None
    server, instances = (dict(found.server), 1) if own is None else own
    known = deployed(server, path)
    ok = ~found.failed & (found.output_tokens != 0)
    if not ok.any():
        raise SimjaxError(f"{path}: no request succeeded, so there is nothing to compare with")
    without = bool(np.isnan(found.arrival_s).all())
    found, due_s, notes = _with_sends(found, ok)
    for values, what in (
        (found.arrival_s, "arrivals"),
        (found.ttft_s, "times to the first token"),
        (found.e2e_s, "ends of the requests"),
        (np.where(found.prompt_tokens < 1, np.nan, 0.0), "numbers of prompt tokens"),
        (np.where(found.output_tokens < 0, np.nan, 0.0), "numbers of output tokens"),
    ):
        if (unknown := np.flatnonzero(ok & np.isnan(values))).size:
            some = "it has no" if len(unknown) == ok.sum() else f"request {unknown[0] + 1} is without"
            raise SimjaxError(f"{path}: {some} {what}, so there is nothing to compare with; workload.lengths_file={path} uses its lengths")
    ttft_s, e2e_s = found.ttft_s[ok], found.e2e_s[ok]
    e2e_s = np.where(np.abs(e2e_s - ttft_s) < ROUNDING_S, np.maximum(e2e_s, ttft_s), e2e_s)
    flags = dict(known.flags)
    flags.setdefault("enable_prefix_caching", True)
    cap = found.schedule.max_concurrency
    return finish_run(
        MeasuredRun(
            name=path.name,
            source=path,
            model=str(server["model"]) if server.get("model") and found.model is None else found.model or NOT_RECORDED,
            device=device or known.device or NOT_RECORDED,
            tensor_parallel_size=known.tensor_parallel_size or 1,
            instances=instances,
            engine=EngineFacts(vllm_version=known.vllm_version or DEFAULT.removeprefix("vllm-"), **flags),
            arrival_s=found.arrival_s[ok],
            due_s=None if due_s is None else due_s[ok],
            max_concurrency=None if cap is None or cap >= ok.sum() else cap,
            prompt_tokens=found.prompt_tokens[ok],
            output_tokens=found.output_tokens[ok],
            ttft_s=ttft_s,
            tpot_s=np.zeros(int(ok.sum())),
            e2e_s=e2e_s,
            failed=int((~ok).sum()),
            failed_requests=_failed(found, due_s, ~ok),
            unsimulated=known.unsimulated,
            drawn_arrivals=without and due_s is not None and bool(due_s.any()),
            unrecorded=() if own is not None else _unrecorded(known.flags, known.tensor_parallel_size, known.vllm_version),
            assumptions=(*known.notes, *notes),
        )
    )


def _read(path: Path) -> Recorded:
    names = [fmt.name for fmt in FORMATS.values() if fmt.reader is not None]
    what = f"a measured run is a folder, the result file of a load generator ({', '.join(names)}), or a table of requests with their times"
    try:
        fmt, header, columns = recognise(path, "auto")
    except SimjaxError as error:
        raise SimjaxError(f"{error}; {what}" if "a summary of a benchmark" not in str(error) else str(error)) from None
    if fmt.reader is not None:
        return fmt.reader(path)
    if fmt is not PLAIN:
        raise SimjaxError(f"{path}: a trace ({fmt.name}) without measured times; {what}")
    return read_timed_table(
        path, header, {name: columns[name] for name in ("arrival_s", "prompt_tokens", "output_tokens") if name in columns}
    )


def _with_sends(found: Recorded, ok: np.ndarray) -> tuple[Recorded, np.ndarray | None, tuple[str, ...]]:
    """The record with the times at which requests were sent, those at which they were due, if that is known, and lines about both."""
    recorded = ~np.isnan(found.arrival_s[ok]).any()
    told = sends(found.schedule, np.where(found.failed, np.nan, found.e2e_s))
    if recorded:
        # With a rate of infinity all requests were due at the first moment; any other schedule is random.
        at_once = found.schedule.rate == np.inf and found.schedule.max_concurrency is not None
        due_s = np.full(len(ok), found.arrival_s[ok].min()) if at_once else None
        return found, due_s, found.notes
    if told is None or not np.isnan(found.arrival_s).all() or np.isnan(found.e2e_s[ok]).any():
        return found, None, found.notes
    arrival_s, due_s, line = told
    return replace(found, arrival_s=arrival_s), due_s, (*found.notes, line)


def _failed(found: Recorded, due_s: np.ndarray | None, failed: np.ndarray) -> FailedRequests | None:
    """Failed requests that are replayed as load: those with a time at which they were sent, which some generators leave at 0."""
    first_s = found.arrival_s[~failed].min()
    failed = failed & ((found.arrival_s != 0) | (first_s <= 0))
    return FailedRequests.of(
        found.arrival_s[failed],
        found.prompt_tokens[failed].astype(np.float64),
        found.output_tokens[failed].astype(np.float64),
        ~np.isnan(found.ttft_s[failed]) & (found.output_tokens[failed] > 0),
        None if due_s is None else due_s[failed],
    )


def _unrecorded(flags: dict[str, object], size: int | None, version: str | None) -> tuple[str, ...]:
    room = "num_gpu_blocks_override" in flags or "kv_cache_memory_bytes" in flags
    asked = (
        *("max_num_seqs", "max_num_batched_tokens", *(() if room else ("gpu_memory_utilization",)), "kv_cache_dtype"),
        *("enable_prefix_caching", "enable_chunked_prefill", "async_scheduling", "enforce_eager"),
    )
    sizes = () if size is not None else ("tensor_parallel_size",)
    return (*sizes, *(() if version else ("release",)), *(name for name in asked if name not in flags))
