"""A measured run: its requests, the configuration that served them, and the latencies that its clients saw."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from simjax.backend.releases import defaults_of, release_of
from simjax.cluster.unsimulated import Setting
from simjax.config.scheduler import SchedulerConfig
from simjax.engine.host.result import NEVER
from simjax.errors import SimjaxError
from simjax.validate.failed import FailedRequests
from simjax.workload.contents import tree
from simjax.workload.contents.prefixes import Prefixes
from simjax.workload.contents.radix import from_keys
from simjax.workload.workload import Workload


@dataclass
class EngineFacts(SchedulerConfig):
    """Flags of the measured instances; one that the run did not record and for which vLLM's default is not certain is unset.

    Attributes:
        vllm_version: such as "0.19.0".
        enable_prefix_caching: on by default, as in vLLM.
        cudagraph_capture_sizes: batch sizes with a captured CUDA graph; None when they are not recorded.
        dtype: data type of the model, "auto" for its own.
    """

    vllm_version: str = field(kw_only=True)
    enable_prefix_caching: bool | None = True
    cudagraph_capture_sizes: tuple[int, ...] | None = None
    dtype: str = "auto"

    @property
    def num_gpu_blocks(self) -> int | None:
        """KV blocks of an instance, None when they are not recorded."""
        return self.num_gpu_blocks_override


@dataclass(frozen=True)
class HardwareFacts:
    """The run's own record of its hardware; None for facts that it does not hold.

    Attributes:
        link_bandwidth_bytes_per_s, link_latency_s: the link between GPUs.
        device_memory_bytes, device_memory_bandwidth_bytes_per_s: memory of one GPU.
    """

    link_bandwidth_bytes_per_s: float | None = None
    link_latency_s: float | None = None
    device_memory_bytes: float | None = None
    device_memory_bandwidth_bytes_per_s: float | None = None


@dataclass(frozen=True)
class MeasuredRun:
    """One measured deployment under one workload, arrays over the R successful requests sorted by arrival.

    With `max_concurrency` they are sorted by `due_s` instead.

    Attributes:
        name: the folder's name, for titles.
        source: the folder.
        model, device: names that the run gives them (`meta-llama/Llama-3.1-8B`, `RTX4090`).
        tensor_parallel_size, instances: GPUs of an instance; instances behind one front door.
        engine, hardware: configuration facts.
        arrival_s: float64[R], seconds since the first arrival, as the client sent them.
        due_s: float64[R], when the client's schedule asked for them; None when it is not recorded.
        max_concurrency: cap on the client's requests in flight, under which the schedule is replayed; None for none.
        prompt_tokens, output_tokens: int32[R].
        ttft_s: float64[R], first token - arrival.
        tpot_s: float64[R], (last token - first token) / (output_tokens - 1); `NEVER` where `has_tpot` is false.
        e2e_s: float64[R], last token - arrival.
        queue_delay_s: float64[R], time in the API server before the engine queued the request; None when not recorded.
        prefix_key: int64[R], requests with the same key sent the same prompt; None when unknown.
        prefixes: shared contents of the requests, from the trace that was replayed; None when unknown.
        timeseries: columns `t_s` (start of the interval, seconds since the first arrival), `running`, `waiting` (at the interval's end),
            `prompt_tokens_per_s`, `output_tokens_per_s` and, when recorded, `kv_used_fraction`; None when there is none.
        failed: number of requests that failed, which no latency counts.
        failed_requests: those of them whose load on the server is replayed; None when none is.
        unsimulated: recorded settings that ask for more than one plain rank; `simjax.validate.replay.asked_for` says which of them its
            simulation has not.
        drawn_arrivals: whether `arrival_s` are not those of the recording, which has none, but drawn by the same process.
        unrecorded: settings of the server that the files do not hold and for which defaults are presumed (`simjax.validate.unrecorded`).
        replayed: the trace that was replayed, as the run names it; None when it does not.
        assumptions: facts that the files do not hold and that were filled in, one line each.
        replay_notes: how its client and its failed requests are replayed, one line each.
    """

    name: str
    source: Path
    model: str
    device: str
    tensor_parallel_size: int
    engine: EngineFacts
    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    ttft_s: np.ndarray
    tpot_s: np.ndarray
    e2e_s: np.ndarray
    instances: int = 1
    hardware: HardwareFacts = HardwareFacts()
    queue_delay_s: np.ndarray | None = None
    prefix_key: np.ndarray | None = None
    prefixes: Prefixes | None = None
    timeseries: pd.DataFrame | None = None
    failed: int = 0
    failed_requests: FailedRequests | None = None
    unsimulated: tuple[Setting, ...] = ()
    drawn_arrivals: bool = False
    unrecorded: tuple[str, ...] = ()
    due_s: np.ndarray | None = None
    max_concurrency: int | None = None
    replayed: str | None = None
    assumptions: tuple[str, ...] = ()
    replay_notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def has_tpot(self) -> np.ndarray:
        """bool[R], requests with more than one output token."""
        return self.output_tokens > 1

    @property
    def makespan_s(self) -> float:
        """Seconds from the first arrival to the last token."""
        return float(np.max(self.arrival_s + self.e2e_s) - np.min(self.arrival_s))

    def workload(self) -> Workload:
        """The requests to replay in a simulation, with what is known of their contents: `places` says which of them were measured.

        The failed ones are among them, unless it is known what the others share: then they would have no contents.
        """
        prefixes, times_s = self.prefixes, self._replayed_s(self)
        if prefixes is None and self.prefix_key is not None:
            total = self.prompt_tokens.astype(np.int64) + self.output_tokens
            prefixes = tree.finish(from_keys(self.prefix_key.tolist(), self.prompt_tokens, total), self.prompt_tokens, None)
        prompt_tokens, output_tokens = self.prompt_tokens, self.output_tokens
        if (others := self.replayed_failed) is not None:
            places, size = self.places, len(self) + len(others)
            rest = np.setdiff1d(np.arange(size), places)
            order = np.argsort(self._replayed_s(others), kind="stable")
            join = lambda mine, theirs: _placed(size, (places, mine), (rest, theirs[order]))
            times_s = join(times_s, self._replayed_s(others))
            prompt_tokens, output_tokens = join(prompt_tokens, others.prompt_tokens), join(output_tokens, others.output_tokens)
        workload = Workload(times_s, prompt_tokens, output_tokens, source=str(self.source), prefixes=prefixes)
        return dataclasses.replace(workload, max_concurrency=min(self.max_concurrency or 0, len(workload))).validate()

    @property
    def replayed_failed(self) -> FailedRequests | None:
        """The failed requests that are replayed as load."""
        known = self.prefixes is not None or self.prefix_key is not None
        return None if known else self.failed_requests

    @property
    def places(self) -> np.ndarray:
        """int[R], where the measured requests are among those of `workload()`."""
        if (others := self.replayed_failed) is None:
            return np.arange(len(self))
        return np.arange(len(self)) + np.searchsorted(np.sort(self._replayed_s(others)), self._replayed_s(self), side="left")

    def _replayed_s(self, of: MeasuredRun | FailedRequests) -> np.ndarray:
        """Times at which requests are replayed: those of the schedule under a cap, else those at which they were sent."""
        return of.due_s if self.max_concurrency and of.due_s is not None else of.arrival_s


def engine_side(run: MeasuredRun) -> MeasuredRun:
    """The run as the engine saw it: a request arrives when the engine queues it, so TTFT and E2E leave out the API server's time.

    LLMServingSim reports its measurements this way (it has no common clock for arrivals and falls back to `queued_ts`).

    Raises:
        SimjaxError: the run did not record when requests were queued.
    """
    if run.queue_delay_s is None:
        raise SimjaxError(f"{run.source}: the run does not record when the engine queued its requests")
    queued = run.arrival_s + run.queue_delay_s
    order = np.argsort(queued, kind="stable")
    moved = dataclasses.replace(
        run, ttft_s=run.ttft_s - run.queue_delay_s, e2e_s=run.e2e_s - run.queue_delay_s, arrival_s=queued - queued.min()
    )
    # Its schedule was the client's, and so was the clock of the failed requests.
    moved = dataclasses.replace(moved, queue_delay_s=np.zeros(len(run)), due_s=None, failed_requests=None)
    return reordered(moved, order)


def finish_run(run: MeasuredRun) -> MeasuredRun:
    """The last step of every reader: sort by arrival, start the clock at the first one, check the rows, fill in TPOT.

    Args:
        run: arrays over the successful rows of the source, `arrival_s` from any origin; `tpot_s` is ignored.

    Raises:
        SimjaxError: there are no rows, or a row's numbers cannot be.
    """
    if len(run) == 0:
        raise nothing_succeeded(run.source)
    for name, bad in (
        ("prompt_tokens < 1", run.prompt_tokens < 1),
        ("output_tokens < 1", run.output_tokens < 1),
        ("its first token before its arrival", run.ttft_s <= 0),
        ("its last token before its first", run.e2e_s < run.ttft_s),
    ):
        if bad.any():
            raise SimjaxError(f"{run.source}: successful request {np.argmax(bad)} (from 0, in file order) has {name}")
    gaps = np.maximum(run.output_tokens - 1, 1)
    tpot = np.where(run.output_tokens > 1, (run.e2e_s - run.ttft_s) / gaps, NEVER)
    order, others = np.argsort(run.arrival_s, kind="stable"), run.failed_requests
    origin_s = float(run.arrival_s[order[0]] if others is None else min(run.arrival_s.min(), others.arrival_s.min()))
    moved = dataclasses.replace(
        run,
        tpot_s=tpot,
        arrival_s=run.arrival_s - origin_s,
        due_s=None if run.due_s is None else run.due_s - origin_s,
        failed_requests=None if others is None else others.since(origin_s),
    )
    return reordered(moved, order)


def nothing_succeeded(source: Path) -> SimjaxError:
    """The error of a run without one successful request."""
    return SimjaxError(f"{source}: no request succeeded, so there is nothing to compare with")


def _placed(size: int, *parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """One array of parts that are (places, values)."""
    whole = np.empty(size, parts[0][1].dtype)
    for places, values in parts:
        whole[places] = values
    return whole


def reordered(run: MeasuredRun, order: np.ndarray) -> MeasuredRun:
    """The run with its per-request arrays picked by `order`."""
    tokens = {name: getattr(run, name)[order].astype(np.int32) for name in ("prompt_tokens", "output_tokens")}
    times = {name: getattr(run, name)[order].astype(np.float64) for name in ("arrival_s", "ttft_s", "tpot_s", "e2e_s")}
    optional = {name: getattr(run, name)[order] for name in ("queue_delay_s", "prefix_key", "due_s") if getattr(run, name) is not None}
    prefixes = None if run.prefixes is None else tree.take(run.prefixes, order)
    return dataclasses.replace(run, **tokens, **times, **optional, prefixes=prefixes)


def default_async_scheduling(vllm_version: str) -> bool:
    """Whether a vLLM of this version schedules asynchronously by default.

    Runs that record their resolved configuration agree (0.19: on without being asked for). A version that cannot be parsed is recent.
    """
    return defaults_of(release_of(vllm_version))["async_scheduling"]
