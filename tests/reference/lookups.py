"""vLLM's metrics of a prefix cache (`PrefixCacheStats`): what was looked up and what was found, in tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RefLookups:
    """Lookups of waiting requests; those of requests that have been preempted are counted by themselves.

    A lookup asks for all tokens of a request and finds those of whole blocks. Up to 0.23 each try to admit a request counts, also those
    that fail for want of blocks, so that the rate of hits is that of the tries; from 0.28 on only the try that succeeds.
    """

    requests: int = 0
    queries: int = 0
    hits: int = 0
    preempted_requests: int = 0
    preempted_queries: int = 0
    preempted_hits: int = 0

    def record(self, tokens: int, hits: int, preempted: bool) -> None:
        if preempted:
            self.preempted_requests += 1
            self.preempted_queries += tokens
            self.preempted_hits += hits
        else:
            self.requests += 1
            self.queries += tokens
            self.hits += hits
