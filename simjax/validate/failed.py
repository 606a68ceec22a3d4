"""Requests of a measured run that failed: no latency counts them, yet they loaded the server."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FailedRequests:
    """Requests that failed but loaded the server, as far as the run records them: arrays over F requests, in any order.

    Attributes:
        arrival_s: float64[F], when they were sent, on the clock of the run.
        prompt_tokens: int32[F].
        output_tokens: int32[F], tokens that they asked for, or 1 where none came: then how far they got is not recorded.
        due_s: float64[F], when the client's schedule asked for them; None when it is not recorded.
    """

    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    due_s: np.ndarray | None = None

    @staticmethod
    def of(
        arrival_s: np.ndarray,
        prompt_tokens: np.ndarray,
        output_tokens: np.ndarray,
        first_token: np.ndarray,
        due_s: np.ndarray | None = None,
    ) -> FailedRequests | None:
        """The requests with an arrival and a prompt; None without any. Numbers may be NaN; `first_token`: bool[F], whether one came."""
        known = np.isfinite(arrival_s) & (prompt_tokens >= 1)
        known &= True if due_s is None else np.isfinite(due_s)
        if not known.any():
            return None
        outputs = np.where(first_token & (output_tokens >= 1), output_tokens, 1)
        due_s = None if due_s is None else due_s[known]
        return FailedRequests(arrival_s[known], prompt_tokens[known].astype(np.int32), outputs[known].astype(np.int32), due_s)

    def __len__(self) -> int:
        return len(self.arrival_s)

    def since(self, origin_s: float) -> FailedRequests:
        """The requests with times counted from `origin_s`."""
        due_s = None if self.due_s is None else self.due_s - origin_s
        return dataclasses.replace(self, arrival_s=self.arrival_s - origin_s, due_s=due_s)
