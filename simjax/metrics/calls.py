"""The requests of sessions in the order of the sessions, and how long each session took."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.engine.host.result import NEVER, RequestLog
from simjax.workload.sessions import Sessions


@dataclass(frozen=True)
class Calls:
    """The R requests in the order of the S sessions that have any: those of a session follow each other.

    Attributes:
        order: int64[R], the requests.
        starts: int64[S], where each session begins in `order`.
        session: int64[S], index of the session in `Sessions.names`.
    """

    order: np.ndarray
    starts: np.ndarray
    session: np.ndarray

    @staticmethod
    def of(sessions: Sessions) -> Calls:
        """The requests of a workload's sessions."""
        order = np.argsort(sessions.session, kind="stable")
        session, starts = np.unique(sessions.session[order], return_index=True)
        return Calls(order, starts, session)

    def reduced(self, how: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Values of the requests, [..., R], reduced within each session, such as by `np.maximum`: [..., S] in C order."""
        return how.reduceat(np.take(values, self.order, axis=-1), self.starts, axis=-1)


def makespans(requests: RequestLog, calls: Calls) -> np.ndarray:
    """Seconds from the first arrival to the last finish of each session, float64[..., S]; `NEVER` unless all its calls finished.

    Elementwise like `simjax.metrics.latency.latencies`: logs of B runs stacked into arrays [B, R] give [B, S].
    """
    finished = calls.reduced(np.logical_and, requests.finished)
    first = calls.reduced(np.minimum, np.where(requests.finished, requests.arrival_s, 0.0))
    last = calls.reduced(np.maximum, np.where(requests.finished, requests.finish_s, 0.0))
    return np.where(finished, last - first, NEVER)
