"""A rank that schedules by priority and decodes speculatively: vLLM's scan from one victim to the next, with its books of drafts.

A request that is in the middle of its last step is a victim like any other, for the scheduler does not know; it goes back into the
heap, and leaves it when its tokens come back.
"""

from __future__ import annotations

from tests.reference.priority import PriorityRank
from tests.reference.speculation import SpeculatingRank


class UrgentSpeculatingRank(SpeculatingRank, PriorityRank):
    """A rank with drafts and `scheduling_policy` priority."""
