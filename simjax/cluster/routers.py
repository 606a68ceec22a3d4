"""The routers: one entry each, which the configuration, the command line and the engine read.

A router scores every instance that can hold the request, and the lowest score wins; of equals the next in turn. The score is a weighted
sum of measures (`simjax.engine.routing.scores`): the part of the prompt that is not in the instance's prefix cache, its load (4 waiting +
running over `max_num_seqs`), the tokens in or promised to its KV cache over the capacity, and the blocks of Dynamo's KV router, of which it
keeps books: prompts that it has sent there and are not yet prefilled, and sequences that are active there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from simjax.errors import SimjaxError


@dataclass(frozen=True)
class RouterRule:
    """A rule by which an arriving request finds its instance.

    Attributes:
        prefix_weight, queue_weight, kv_weight: weights of the three measures; `cluster.router_weights` where `weighted`.
        weighted: whether the user gives the weights.
        random: whether ties are broken by a draw instead of in turn.
        affinity: whether the calls of a session stay with the instance of its first one, if that can hold them.
        relative: whether the queue is weighed as its place between the shortest and the longest one, 0 to 1, not as the load.
        cost: whether the score is Dynamo's cost, with `CostWeights`.
    """

    prefix_weight: float = 0.0
    queue_weight: float = 0.0
    kv_weight: float = 0.0
    weighted: bool = False
    random: bool = False
    affinity: bool = False
    relative: bool = False
    cost: bool = False

    @property
    def looks(self) -> bool:
        """Whether it looks at the instances when a request arrives; the choices of one that does not are known before the run."""
        return self.weighted or self.affinity or self.cost or any((self.prefix_weight, self.queue_weight, self.kv_weight))

    @property
    def compares(self) -> bool:
        """Whether it needs its own books or the other instances' queues for a score, and draws among the instances."""
        return self.relative or self.cost


ROUTERS = {
    "round_robin": RouterRule(),
    "random": RouterRule(random=True),
    "least_loaded": RouterRule(queue_weight=1.0),
    "least_kv": RouterRule(kv_weight=1.0),
    "longest_prefix": RouterRule(prefix_weight=1.0),
    "session_affinity": RouterRule(queue_weight=1.0, affinity=True),
    "weighted": RouterRule(weighted=True),
    "llm_d": RouterRule(prefix_weight=2.0, queue_weight=1.0, relative=True),
    "dynamo": RouterRule(cost=True),
}
"""Rules by the names that `cluster.router` takes."""


@dataclass(frozen=True)
class CostWeights:
    """Parameters of Dynamo's KV router, in blocks: prefill_load_scale * max(0, prompts to prefill - overlap_credit * cached) + active
    blocks + active_weight * active requests. A router of decode instances takes no credit.

    Attributes:
        prefill_load_scale: weight of the blocks to prefill; `kv_overlap_score_weight` of Dynamo up to 0.8.
        overlap_credit: blocks to prefill that a block in the prefix cache saves.
        active_weight: blocks that a request on an instance counts for, in addition to its own.
        temperature: share of the costs' range over which choices spread; 0: the lowest cost, of equals one that is drawn.

    Raises:
        SimjaxError: a number is negative or not finite.
    """

    prefill_load_scale: float = 1.0
    overlap_credit: float = 1.0
    active_weight: float = 0.0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise SimjaxError(f"cluster.router_{name}={value}: it must be a number that is not negative")
