"""A workload: the requests a cluster will see, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.errors import SimjaxError


@dataclass(frozen=True)
class Workload:
    """R requests, sorted by arrival (ties keep the order of the source).

    In an open-loop workload every arrival is known. In a closed loop (`concurrency` > 0) the first `concurrency` requests arrive at
    `arrival_s` and each later one is sent `think_s` seconds after a request finished, so the later entries of `arrival_s` are unused
    and set to `np.inf`.

    Attributes:
        arrival_s: float64[R], seconds from the start of the simulation, >= 0, non-decreasing.
        prompt_tokens: int32[R], >= 1.
        output_tokens: int32[R], >= 1.
        concurrency: requests in flight of a closed loop, 0 for an open loop.
        think_s: pause between a finish and the request that follows it in a closed loop.
        source: where it came from, for titles and error messages.
    """

    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    concurrency: int = 0
    think_s: float = 0.0
    source: str = "workload"

    def __len__(self) -> int:
        return len(self.arrival_s)

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
        open_loop = self.arrival_s if self.concurrency == 0 else self.arrival_s[: self.concurrency]
        if not np.all(np.isfinite(open_loop)) or np.any(open_loop < 0) or np.any(np.diff(open_loop) < 0):
            raise SimjaxError(f"{self.source}: arrivals must be finite, non-negative and sorted")
        return self
