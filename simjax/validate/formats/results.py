"""Measured runs from the result files of load generators: latencies as clients saw them; little is known about what served them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simjax.errors import SimjaxError
from simjax.validate.run import EngineFacts, MeasuredRun, default_async_scheduling, finish_run
from simjax.workload.formats import FORMATS
from simjax.workload.formats.recognise import recognise

NOT_RECORDED = "(not recorded)"
_VLLM_VERSION = "0.19.0"


def read_result_run(path: Path, device: str | None = None) -> MeasuredRun:
    """Read the result file of a load generator (see `simjax.workload.formats.results`).

    TPOT is (E2E - TTFT) / (tokens - 1), whatever the chunks in which the tokens came. Requests that failed, or answered nothing, count as
    failed. The device, the parallelism and vLLM's flags are not recorded, and only some generators name the model: options state them.

    Raises:
        SimjaxError: it is no such file, cannot be read, lacks arrivals, first tokens or finishes, or no request succeeded.
    """
    names = [fmt.name for fmt in FORMATS.values() if fmt.reader is not None]
    try:
        fmt = recognise(path, "auto")[0]
        reader = fmt.reader
    except SimjaxError:
        reader = None
    if reader is None:
        raise SimjaxError(f"{path}: a file; a measured run is a folder, or the result file of a load generator ({', '.join(names)})")
    found = reader(path)
    ok = ~found.failed & (found.output_tokens != 0)
    if not ok.any():
        raise SimjaxError(f"{path}: no request succeeded, so there is nothing to compare with")
    for values, what in (
        (found.arrival_s, "arrivals"),
        (found.first_token_s - found.arrival_s, "times to the first token"),
        (found.finish_s, "ends of the requests"),
    ):
        if (unknown := np.flatnonzero(ok & np.isnan(values))).size:
            some = "it has no" if len(unknown) == ok.sum() else f"request {unknown[0] + 1} is without"
            raise SimjaxError(f"{path}: {some} {what}, so there is nothing to compare with; workload.lengths_file={path} uses its lengths")
    arrival_s = found.arrival_s[ok]
    assumptions = [
        "vLLM's version and flags are not recorded: simjax's defaults, unless scheduler.* states them",
        "the number of devices is not recorded: cluster.tensor_parallel_size or 1",
        *found.notes,
    ]
    return finish_run(
        MeasuredRun(
            name=path.name,
            source=path,
            model=found.model or NOT_RECORDED,
            device=device or NOT_RECORDED,
            tensor_parallel_size=1,
            engine=EngineFacts(vllm_version=_VLLM_VERSION, async_scheduling=default_async_scheduling(_VLLM_VERSION)),
            arrival_s=arrival_s,
            prompt_tokens=found.prompt_tokens[ok],
            output_tokens=found.output_tokens[ok],
            ttft_s=(found.first_token_s - found.arrival_s)[ok],
            tpot_s=np.zeros(len(arrival_s)),
            e2e_s=(found.finish_s - found.arrival_s)[ok],
            failed=int((~ok).sum()),
            assumptions=tuple(assumptions),
        )
    )


def stated(name: str, option: str, run: MeasuredRun) -> str:
    """The name of the model or the device that a run records.

    Raises:
        SimjaxError: it records none.
    """
    if name == NOT_RECORDED:
        raise SimjaxError(f"{run.source}: the {option} is not recorded; {option}=NAME states it")
    return name
