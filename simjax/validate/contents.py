"""Shared prefixes of the requests of measured runs, read from the traces that the runs replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from simjax.cluster.spec import ClusterSpec
from simjax.errors import SimjaxError
from simjax.validate.run import MeasuredRun
from simjax.workload import read_trace
from simjax.workload.workload import Workload


def with_contents(runs: Sequence[MeasuredRun], files: Sequence[Path]) -> list[MeasuredRun]:
    """The runs with the prefixes that their requests shared.

    A trace belongs to the runs whose requests have its lengths, in its order; a run without a trace is returned unchanged.

    Raises:
        SimjaxError: a trace cannot be read, or no run replayed it.
    """
    found = list(runs)
    for path in files:
        trace = read_trace(path).workload
        reasons = [_difference(run, trace) for run in runs]
        if runs and all(reasons):
            whose = "" if len(runs) == 1 else f"none of the {len(runs)} runs replayed it; {runs[0].name}: "
            raise SimjaxError(f"workload.file={path}: {whose}{reasons[0]}")
        for i, reason in enumerate(reasons):
            if reason is None:
                found[i] = replace(found[i], prefixes=trace.prefixes, replayed=str(path))
    return found


def unknown_contents(run: MeasuredRun, cluster: ClusterSpec) -> str | None:
    """A warning if the instances cache prefixes but nothing is known about what the requests share."""
    caching = any(instance.limits.enable_prefix_caching for instance in cluster.instances)
    if not caching or run.prefixes is not None or run.prefix_key is not None:
        return None
    trace = "" if run.replayed is None else f" ({run.replayed})"
    return (
        f"{run.name}: prefix caching is on, but it is not known what the requests share, so only preempted ones find their blocks; "
        f"workload.file=FILE names the trace that was replayed{trace}, with token ids"
    )


def _difference(run: MeasuredRun, trace: Workload) -> str | None:
    """The reason why the run cannot have replayed the trace, None if it can."""
    if len(trace) != len(run):
        return f"it has {len(trace)} requests, the measured run {len(run)}"
    different = (trace.prompt_tokens != run.prompt_tokens) | (trace.output_tokens != run.output_tokens)
    if not different.any():
        return None
    r = int(np.argmax(different))
    return (
        f"request {r} has {trace.prompt_tokens[r]} prompt and {trace.output_tokens[r]} output tokens, "
        f"the measured one {run.prompt_tokens[r]} and {run.output_tokens[r]}; is it the trace that was replayed?"
    )
