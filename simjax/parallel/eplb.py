"""vLLM's expert-parallel load balancer (EPLB, its `distributed/eplb`), policy "default", which is DeepSeek's.

Experts with the most load for each of their copies are copied, one copy at a time, and the copies are packed into ranks, the heaviest first
onto the lightest rank that has a slot left. Where the groups of experts divide among nodes, groups are packed into nodes first, and copies
stay within the node of their group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simjax.errors import SimjaxError

STEP_INTERVAL, WINDOW_SIZE = 3000, 1000


def replicated(loads: np.ndarray, redundant: int) -> tuple[np.ndarray, np.ndarray]:
    """Experts of the slots when `redundant` copies are added where the load for each copy is highest (vLLM's `replicate_experts`).

    Args:
        loads: f[E].
        redundant: number of copies beyond one of each expert.

    Returns:
        Expert of each slot, i[E + redundant], and copies of each expert, i[E].
    """
    copies, slots = np.ones(len(loads), int), list(range(len(loads)))
    for _ in range(redundant):
        hottest = int(np.argmax(loads / copies))
        slots.append(hottest)
        copies[hottest] += 1
    return np.array(slots), copies


def packed(loads: np.ndarray, packs: int) -> np.ndarray:
    """Pack of each item, i[N], so that every pack has N / packs of them: the heaviest first onto the lightest pack that is not full.

    vLLM's `balanced_packing`.
    """
    room = len(loads) // packs
    if len(loads) != room * packs:
        raise ValueError(f"{len(loads)} items do not fill {packs} packs evenly")
    if room == 1:
        return np.arange(packs)
    found, total, held = np.zeros(len(loads), int), np.zeros(packs), np.zeros(packs, int)
    for item in np.argsort(-loads, kind="stable"):
        pack = int(np.argmin(np.where(held < room, total, np.inf)))
        found[item] = pack
        total[pack] += loads[item]
        held[pack] += 1
    return found


def rebalanced(loads: np.ndarray, ranks: int, redundant: int = 0, groups: int = 1, nodes: int = 1) -> np.ndarray:
    """Experts in the slots of each rank after a rearrangement by the loads of one layer, i[ranks, slots].

    Args:
        loads: tokens of each expert, f[E].
        ranks: ranks of the EP group.
        redundant: `num_redundant_experts`.
        groups: groups of experts of the model (`n_group`).
        nodes: servers over which the ranks are spread evenly.

    Raises:
        SimjaxError: the slots do not divide among the ranks.
    """
    experts = len(loads)
    slots_each(experts, ranks, redundant)
    if groups % nodes or ranks % nodes:
        groups = nodes = 1
    by_group = loads.reshape(groups, -1)
    node_of_group = packed(by_group.sum(axis=1), nodes)
    found: list[list[int]] = []
    for node in range(nodes):
        mine = np.concatenate([np.arange(experts).reshape(groups, -1)[g] for g in np.flatnonzero(node_of_group == node)])
        slots, copies = replicated(loads[mine], redundant // nodes)
        pack = packed((loads[mine] / copies)[slots], ranks // nodes)
        found += [sorted(mine[slots[pack == rank]].tolist()) for rank in range(ranks // nodes)]
    return np.array(found)


def slots_each(experts: int, ranks: int, redundant: int = 0) -> int:
    """Slots of each rank under the load balancer, the same number on all.

    Raises:
        SimjaxError: experts and copies do not divide among the ranks.
    """
    if (experts + redundant) % ranks:
        raise SimjaxError(
            f"cluster.num_redundant_experts={redundant}: {experts} experts and these copies do not divide evenly among {ranks} "
            "expert-parallel ranks"
        )
    return (experts + redundant) // ranks


def initial(experts: int, ranks: int, redundant: int = 0) -> np.ndarray:
    """Experts in the slots of each rank before any rearrangement, i[ranks, slots]: all in order, then the copies, of the first ones."""
    each = slots_each(experts, ranks, redundant)
    return np.concatenate([np.arange(experts), np.arange(redundant) % experts]).reshape(ranks, each)


def rank_loads(loads: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Load of each rank, f[ranks], where the copies of an expert share its load evenly and -1 is an empty slot."""
    copies = np.bincount(slots[slots >= 0], minlength=len(loads))
    return np.where(slots >= 0, (loads / np.maximum(copies, 1))[slots], 0.0).sum(axis=-1)


def balancedness(loads: np.ndarray) -> float:
    """Balancedness as vLLM measures it, of loads f[L, ranks]: the sum of the layers' means over the sum of their maxima."""
    return float(loads.mean(axis=-1).sum() / loads.max(axis=-1).sum())


@dataclass(frozen=True)
class Epochs:
    """When the load balancer rearranges, counted in steps of the group, dummy steps included.

    Attributes:
        interval: steps between two rearrangements (`step_interval`); the first one comes after a fourth of them, for vLLM's counter starts
            at three fourths.
        window: last steps before a rearrangement whose loads count (`window_size`).
    """

    interval: int = STEP_INTERVAL
    window: int = WINDOW_SIZE

    @property
    def first(self) -> int:
        """Steps before the first rearrangement."""
        return self.interval - 3 * self.interval // 4

    def steps(self) -> Iterator[int]:
        """Steps after which the group rearranges, without end."""
        step = self.first
        while True:
            yield step
            step += self.interval

    def epoch(self, steps: np.ndarray) -> np.ndarray:
        """Number of rearrangements after so many steps, of the shape of `steps`."""
        steps = np.asarray(steps)
        return np.where(steps < self.first, 0, (steps - self.first) // self.interval + 1)

    def recorded(self, epoch: int) -> tuple[int, int]:
        """First step, and the one after the last, whose loads decide rearrangement number `epoch`, counted from 0."""
        end = self.first + epoch * self.interval
        return max(end - self.window, 0), end


def balancedness_by_epoch(loads: np.ndarray, ranks: int, redundant: int = 0, epochs: Epochs = Epochs()) -> np.ndarray:
    """Balancedness of each epoch, f[epochs], the first of them before any rearrangement, of loads that change with the steps.

    Args:
        loads: tokens of each expert in each layer and step, f[steps, L, E].
        ranks: ranks of the EP group.
        redundant: `num_redundant_experts`.
        epochs: when the group rearranges.
    """
    count, layers, experts = loads.shape
    slots = np.stack([initial(experts, ranks, redundant)] * layers)
    of_step = epochs.epoch(np.arange(count))
    found = []
    for epoch in range(int(of_step[-1]) + 1):
        if epoch:
            start, end = epochs.recorded(epoch - 1)
            slots = np.stack([rebalanced(layer, ranks, redundant) for layer in loads[start:end].sum(axis=0)])
        mine = loads[of_step == epoch].sum(axis=0)
        found.append(balancedness(np.stack([rank_loads(layer, held) for layer, held in zip(mine, slots, strict=True)])))
    return np.array(found)
