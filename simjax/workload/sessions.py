"""Sessions: calls that are sent when other calls have finished."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.errors import SimjaxError


@dataclass(frozen=True)
class Sessions:
    """Dependencies among the R requests of a workload.

    A request is sent once all calls that it waits for have released it: call `r` releases call `then[e]` (e in offsets[r]:offsets[r+1])
    `delay_s[e]` seconds after the client got the last token of `r`. Calls wait only for calls of their own session with a smaller `turn`,
    so there are no cycles. A request without a session is a session of one call.

    Attributes:
        session: int32[R], index of each request's session.
        names: names of the sessions, as in the source.
        turn: int32[R], position of the call within its session in the source's order, from 0.
        predecessors: int32[R], number of calls that must finish before the request is sent; 0 if it arrives at its `arrival_s`.
        offsets: int32[R+1], bounds of each request's entries in `then` and `delay_s`.
        then: int32[E], the calls that wait.
        delay_s: float64[E], pause in seconds, >= 0.
    """

    session: np.ndarray
    names: tuple[str, ...]
    turn: np.ndarray
    predecessors: np.ndarray
    offsets: np.ndarray
    then: np.ndarray
    delay_s: np.ndarray

    def __len__(self) -> int:
        return len(self.session)

    @property
    def waited_for(self) -> np.ndarray:
        """int32[E]: the call that each entry of `then` waits for."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))

    def validate(self, source: str = "sessions") -> Sessions:
        """Return self, or raise `SimjaxError` naming the first thing that is wrong."""
        n, edges = len(self), len(self.then)
        if not (len(self.turn) == len(self.predecessors) == n and len(self.offsets) == n + 1 and len(self.delay_s) == edges):
            raise SimjaxError(f"{source}: the arrays of the sessions have different lengths")
        if np.any(self.session < 0) or np.any(self.session >= len(self.names)):
            raise SimjaxError(f"{source}: a request's session is not one of the {len(self.names)} that have names")
        if self.offsets[0] != 0 or self.offsets[-1] != edges or np.any(np.diff(self.offsets) < 0):
            raise SimjaxError(f"{source}: the offsets of the waiting calls must rise from 0 to {edges}")
        if edges and (self.then.min() < 0 or self.then.max() >= n):
            raise SimjaxError(f"{source}: a waiting call is not one of the {n} requests")
        if not np.all(np.isfinite(self.delay_s)) or np.any(self.delay_s < 0):
            raise SimjaxError(f"{source}: delays between calls must be finite and not negative")
        before = self.waited_for
        if np.any(self.session[before] != self.session[self.then]):
            raise SimjaxError(f"{source}: a call waits for a call of another session")
        if np.any(self.turn[before] >= self.turn[self.then]):
            raise SimjaxError(f"{source}: a call waits for a call that does not come before it in its session")
        if np.any(self.predecessors != np.bincount(self.then, minlength=n)):
            raise SimjaxError(f"{source}: the counts of the calls waited for contradict the waiting calls")
        return self

    def survivors(self, kept: np.ndarray) -> np.ndarray:
        """bool[R]: the requests of `kept` (bool[R]) whose direct and indirect predecessors are all kept too."""
        alive, before = kept.copy(), self.waited_for
        while np.any(orphaned := alive[self.then] & ~alive[before]):
            alive[self.then[orphaned]] = False
        return alive

    def take(self, index: np.ndarray) -> Sessions:
        """The sessions of the requests `index` (int[K], distinct, in their new order).

        Raises:
            SimjaxError: a call is kept without one that it waits for.
        """
        position = np.full(len(self), -1, np.int32)
        position[index] = np.arange(len(index), dtype=np.int32)
        before, after = position[self.waited_for], position[self.then]
        both = (before >= 0) & (after >= 0)
        if np.any((after >= 0) & ~both):
            raise SimjaxError("a call is kept although a call that it waits for is not")
        used, session = np.unique(self.session[index], return_inverse=True)
        names = tuple(self.names[i] for i in used)
        return from_waits(session, names, self.turn[index], before[both], after[both], self.delay_s[both])


def from_waits(
    session: np.ndarray, names: tuple[str, ...], turn: np.ndarray, before: np.ndarray, after: np.ndarray, delay_s: np.ndarray
) -> Sessions:
    """Sessions from a list of waits: call `after[e]` is ready `delay_s[e]` after call `before[e]` finished (int[E], int[E], float[E])."""
    n = len(session)
    order = np.lexsort((after, before))
    return Sessions(
        session=np.asarray(session, np.int32),
        names=names,
        turn=np.asarray(turn, np.int32),
        predecessors=np.bincount(after, minlength=n).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(before, minlength=n))]).astype(np.int32),
        then=np.asarray(after, np.int32)[order],
        delay_s=np.asarray(delay_s, np.float64)[order],
    )
