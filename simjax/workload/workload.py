"""A workload: the requests sent to a cluster, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.classes import RequestClasses
from simjax.workload.contents.prefixes import Prefixes
from simjax.workload.models import RequestModels
from simjax.workload.sessions import Sessions


@dataclass(frozen=True)
class Workload:
    """R requests, sorted by arrival (ties keep the order of the source).

    In an open-loop workload every arrival is known; a client with a cap (`max_concurrency` > 0) takes them for its schedule, and sends a
    request later if as many are in flight when its time comes. In a closed loop (`concurrency` > 0) the first `concurrency` requests arrive
    at `arrival_s` and each later one is sent `think_s` seconds after a request finished, so the later entries of `arrival_s` are unused
    and set to `np.inf`. In a workload with `sessions`, the requests that wait for other calls come after all others, in the source's order;
    their `arrival_s` is `np.inf`, or the recorded time before which they are not sent even if they have nothing to wait for any more.

    Attributes:
        arrival_s: float64[R], seconds from the start of the simulation, >= 0, non-decreasing.
        prompt_tokens: int32[R], >= 1.
        output_tokens: int32[R], >= 1.
        concurrency: number of requests in flight in a closed loop, 0 for an open loop.
        think_s: pause in seconds between a finish and the request that follows it in a closed loop.
        max_concurrency: most requests in flight of a client that keeps to the arrivals as far as the cap lets it, 0 for no cap.
        ramp_s: seconds over which the cap grows from 1 to `max_concurrency`, a request at a time.
        source: origin of the workload, for titles and error messages.
        prefixes: prefixes that the requests share; None when nothing is known, and requests then share nothing.
        sessions: dependencies between calls; None when no request waits for another.
        models: models that requests name; None when none names one. They matter where a cluster serves several.
        priority: int32[R], priorities of the requests, small ones first; None when all have the same. They matter where an instance
            schedules by them.
        classes: classes of service of the requests; None when there are none.
        stationary: whether requests are sent by one rule from first to last, at one rate or by the same clients. Then a run has a steady
            state, and what is measured leaves out its start and its end (`simjax.metrics.steady.window`). False of a recorded trace.
    """

    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    concurrency: int = 0
    think_s: float = 0.0
    max_concurrency: int = 0
    ramp_s: float = 0.0
    source: str = "workload"
    prefixes: Prefixes | None = None
    sessions: Sessions | None = None
    models: RequestModels | None = None
    priority: np.ndarray | None = None
    classes: RequestClasses | None = None
    stationary: bool = False

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def known_arrivals(self) -> int:
        """Number of requests that arrive at a known time; the others, which follow them in the arrays, wait for finishes."""
        if self.sessions is not None:
            return int(np.count_nonzero(self.sessions.predecessors == 0))
        return self.concurrency or len(self)

    @property
    def scheduled_s(self) -> np.ndarray:
        """float64[K], sorted: the arrivals of all requests where the source has them all, else of those that wait for no other."""
        return np.sort(self.arrival_s) if np.isfinite(self.arrival_s).all() else self.arrival_s[: self.known_arrivals]

    @property
    def waits_for_answers(self) -> bool:
        """Whether the time at which a request is sent may depend on answers to others."""
        return self.concurrency > 0 or self.max_concurrency > 0 or self.sessions is not None

    @property
    def has_priorities(self) -> bool:
        """Whether requests differ in their priorities."""
        return self.priority is not None and bool(np.any(self.priority != self.priority[0]))

    @property
    def longest_tokens(self) -> int:
        """Prompt plus output tokens of the longest request."""
        return int((self.prompt_tokens.astype(np.int64) + self.output_tokens).max())

    @property
    def tokens(self) -> int:
        """Prompt and output tokens of all requests."""
        return int(self.prompt_tokens.sum(dtype=np.int64) + self.output_tokens.sum(dtype=np.int64))

    def validate(self) -> Workload:
        """Return self, or raise `SimjaxError` naming the first thing that is wrong."""
        if len(self) == 0:
            raise SimjaxError(f"{self.source}: the workload is empty; it needs at least one request")
        if not (len(self.arrival_s) == len(self.prompt_tokens) == len(self.output_tokens)):
            raise SimjaxError(f"{self.source}: arrivals, prompts and outputs have different lengths")
        for name, values in (("prompt_tokens", self.prompt_tokens), ("output_tokens", self.output_tokens)):
            if (bad := np.flatnonzero(values < 1)).size:
                raise SimjaxError(f"{self.source}: request {bad[0]} has {name}={values[bad[0]]}; every request needs at least 1")
        if self.sessions is not None:
            self._validate_sessions(self.sessions)
        if self.models is not None:
            self.models.validate(len(self), self.source)
        if self.classes is not None:
            self.classes.validate(len(self), self.source)
        if self.priority is not None and self.priority.shape != self.arrival_s.shape:
            raise SimjaxError(f"{self.source}: priorities are given for {len(self.priority)} requests, not {len(self)}")
        if self.max_concurrency:
            self._validate_cap()
        known = self.arrival_s[: self.known_arrivals]
        if not np.all(np.isfinite(known)) or np.any(known < 0) or np.any(np.diff(known) < 0):
            raise SimjaxError(f"{self.source}: arrivals must be finite, non-negative and sorted")
        if self.prefixes is not None:
            self.prefixes.validate(self.prompt_tokens.astype(np.int64) + self.output_tokens, self.source)
        return self

    def _validate_cap(self) -> None:
        if self.max_concurrency < 1:
            raise SimjaxError(f"{self.source}: max_concurrency={self.max_concurrency}; a client has at least 1 request in flight")
        if self.concurrency:
            raise SimjaxError(f"{self.source}: in a closed loop concurrency is the cap on requests in flight; max_concurrency must be 0")
        if self.sessions is not None:
            raise SimjaxError(f"{self.source}: calls of sessions wait for answers, not for a cap; max_concurrency must be 0")
        if not (self.ramp_s >= 0 and np.isfinite(self.ramp_s)):
            raise SimjaxError(f"{self.source}: ramp_s={self.ramp_s:g}; it must not be negative")

    def _validate_sessions(self, sessions: Sessions) -> None:
        if self.concurrency:
            raise SimjaxError(f"{self.source}: sessions do not run in a closed loop; concurrency must be 0")
        if len(sessions) != len(self):
            raise SimjaxError(f"{self.source}: the sessions describe {len(sessions)} requests, not {len(self)}")
        sessions.validate(self.source)
        waits = sessions.predecessors > 0
        if np.any(waits[: self.known_arrivals]):
            raise SimjaxError(f"{self.source}: requests that wait for other calls must come after all others")
        if np.any(np.isnan(self.arrival_s[waits]) | (self.arrival_s[waits] < 0)):
            raise SimjaxError(
                f"{self.source}: the arrival of requests that wait for other calls must be a time, or inf where it is unknown"
            )
