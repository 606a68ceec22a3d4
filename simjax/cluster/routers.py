"""The routers: one entry each, which the configuration, the command line and the engine read.

A router scores every instance that can hold the request, and the lowest score wins; of equals the next in turn. The score is the weighted
sum of three measures (`simjax.engine.routing.scores`): the part of the prompt that is not in the instance's prefix cache, its load (4
waiting + running over `max_num_seqs`), and the tokens in or promised to its KV cache over the capacity.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RouterRule:
    """A rule by which an arriving request finds its instance.

    Attributes:
        prefix_weight, queue_weight, kv_weight: weights of the three measures; `cluster.router_weights` where `weighted`.
        weighted: whether the user gives the weights.
        random: whether ties are broken by a draw instead of in turn.
        affinity: whether the calls of a session stay with the instance of its first one, if that can hold them.
    """

    prefix_weight: float = 0.0
    queue_weight: float = 0.0
    kv_weight: float = 0.0
    weighted: bool = False
    random: bool = False
    affinity: bool = False

    @property
    def looks(self) -> bool:
        """Whether it looks at the instances when a request arrives; the choices of one that does not are known before the run."""
        return self.weighted or self.affinity or any((self.prefix_weight, self.queue_weight, self.kv_weight))


ROUTERS = {
    "round_robin": RouterRule(),
    "random": RouterRule(random=True),
    "least_loaded": RouterRule(queue_weight=1.0),
    "least_kv": RouterRule(kv_weight=1.0),
    "longest_prefix": RouterRule(prefix_weight=1.0),
    "session_affinity": RouterRule(queue_weight=1.0, affinity=True),
    "weighted": RouterRule(weighted=True),
}
"""Rules by the names that `cluster.router` takes."""
