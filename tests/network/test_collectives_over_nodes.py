"""All-reduces in two levels, against message by message ones that really add the numbers up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from simjax.deployment import Deployment
from simjax.hardware import LinkSpec, load_device
from simjax.latency.profiles.file import find_profile
from simjax.latency.terms import layer_collectives_s
from simjax.model import load_model
from simjax.network.collectives import all_reduce_over_nodes_s, all_reduce_s, tree_all_reduce_s
from simjax.parallel.parallelism import Parallelism

ENDLESS = float("inf")
INTRA, INTER = LinkSpec(400e9, 2e-6), LinkSpec(50e9, 10e-6)
BYTES = 8  # of a number


@dataclass
class Wire:
    """A round after another of messages between ranks over one kind of link; every message of a round is sent at once."""

    link: LinkSpec
    seconds: float = 0.0
    received: dict[int, int] = field(default_factory=dict)

    def round(self, buffers: list[np.ndarray], messages: list[tuple[int, int, slice, bool]]) -> None:
        """Send (source, destination, part, whether it is added); all that are sent is what was there before the round."""
        sent = [buffers[source][part].copy() for source, _, part, _ in messages]
        inbox: dict[int, int] = {}
        for (_, to, part, added), data in zip(messages, sent, strict=True):
            buffers[to][part] = buffers[to][part] + data if added else data
            inbox[to] = inbox.get(to, 0) + data.size * BYTES
            self.received[to] = self.received.get(to, 0) + data.size * BYTES
        self.seconds += self.link.latency_s + max(inbox.values()) / self.link.bandwidth_bytes_per_s


def ring(buffers: list[np.ndarray], ranks: list[int], whole: slice, link: LinkSpec, gather: bool = True) -> float:
    """Reduce and scatter `whole` over a ring, then gather it; returns the seconds of both, or of the first."""
    wire, count = Wire(link), len(ranks)
    size = (whole.stop - whole.start) // count
    part = lambda k: slice(whole.start + (k % count) * size, whole.start + (k % count + 1) * size)
    for step in range(count - 1):
        wire.round(buffers, [(ranks[r], ranks[(r + 1) % count], part(r - step), True) for r in range(count)])
    for step in range(count - 1 if gather else 0):
        wire.round(buffers, [(ranks[r], ranks[(r + 1) % count], part(r + 1 - step), False) for r in range(count)])
    return wire.seconds


@pytest.mark.parametrize(("nodes", "ranks"), [(2, 1), (2, 4), (3, 2), (4, 8), (8, 2)])
@pytest.mark.parametrize("numbers", [48, 48_000])
def test_two_levels_of_rings_add_up_and_take_that_time(nodes: int, ranks: int, numbers: int) -> None:
    numbers *= nodes * ranks // np.gcd(48, nodes * ranks)
    rng = np.random.default_rng(numbers)
    buffers = [rng.normal(size=numbers) for _ in range(nodes * ranks)]
    total = np.sum(buffers, axis=0)
    of_node = [[node * ranks + r for r in range(ranks)] for node in range(nodes)]
    seconds = max(ring(buffers, mine, slice(0, numbers), INTRA, gather=False) for mine in of_node)
    part = numbers // ranks
    # After the scatter, rank r of a ring holds the sum of part r + 1.
    own = [slice(((r + 1) % ranks) * part, ((r + 1) % ranks + 1) * part) for r in range(ranks)]
    seconds += max(ring(buffers, [mine[r] for mine in of_node], own[r], INTER) for r in range(ranks))
    for mine in of_node:
        gather = Wire(INTRA)
        for step in range(ranks - 1):
            messages = [(mine[r], mine[(r + 1) % ranks], own[(r - step) % ranks], False) for r in range(ranks)]
            gather.round(buffers, messages)
    seconds += gather.seconds
    for buffer in buffers:
        np.testing.assert_allclose(buffer, total, rtol=1e-9, atol=1e-9)
    payload = float(numbers * BYTES)
    by_ring = all_reduce_s(payload, ranks, INTRA, ENDLESS) + all_reduce_s(payload / ranks, nodes, INTER, ENDLESS)
    assert by_ring == pytest.approx(seconds, rel=1e-9)
    assert all_reduce_over_nodes_s(payload, nodes, ranks, INTRA, INTER, ENDLESS) <= seconds * (1 + 1e-12)


def tree_parents(count: int) -> list[int | None]:
    """The parent of each rank of a binary tree whose leaves are the even ranks, its root 0 having one child (NCCL's btree)."""
    parents: list[int | None] = [None]
    for rank in range(1, count):
        bit = rank & -rank
        up = (rank ^ bit) | (bit << 1)
        parents.append(up if up < count else rank ^ bit)
    return parents


def path_to_root(parents: list[int | None], rank: int) -> list[int]:
    """A rank and those above it."""
    up = parents[rank]
    return [rank] if up is None else [rank, *path_to_root(parents, up)]


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_two_trees_add_up_in_twice_the_logarithm_of_rounds_and_receive_two_buffers(count: int) -> None:
    numbers = 1000
    rng = np.random.default_rng(count)
    buffers = [rng.normal(size=numbers) for _ in range(count)]
    total = np.sum(buffers, axis=0)
    half = numbers // 2
    received, depths = dict.fromkeys(range(count), 0), []
    parents = tree_parents(count)
    depth = [len(path_to_root(parents, rank)) - 1 for rank in range(count)]
    levels = range(max(depth), 0, -1)
    for part, mirrored in ((slice(0, half), False), (slice(half, numbers), True)):
        edges = {level: [(r, up) for r, up in enumerate(parents) if up is not None and depth[r] == level] for level in levels}
        if mirrored:
            edges = {level: [(count - 1 - r, count - 1 - up) for r, up in found] for level, found in edges.items()}
        depths.append(len(levels))
        wire = Wire(INTER)
        for level in levels:
            wire.round(buffers, [(r, up, part, True) for r, up in edges[level]])
        for level in reversed(levels):
            wire.round(buffers, [(up, r, part, False) for r, up in edges[level]])
        for rank, size in wire.received.items():
            received[rank] += size
    for buffer in buffers:
        np.testing.assert_allclose(buffer, total, rtol=1e-9, atol=1e-9)
    payload = numbers * BYTES
    rounds, most = 2 * max(depths), max(received.values())
    assert most <= 2 * payload and (count == 2 or most == 2 * payload)
    expected = rounds * INTER.latency_s + 2 * payload / INTER.bandwidth_bytes_per_s
    assert tree_all_reduce_s(float(payload), count, INTER, ENDLESS) == pytest.approx(expected, rel=1e-12)


def test_small_messages_take_trees_and_large_ones_the_ring():
    sizes = np.array([1e3, 1e9])
    small, large = all_reduce_over_nodes_s(sizes, 8, 8, INTRA, INTER, ENDLESS, 2.0)
    inside = all_reduce_s(sizes, 8, INTRA, ENDLESS, 2.0)
    assert small - inside[0] == pytest.approx(6 * 10e-6, rel=1e-2)  # twice log2 of 8 latencies, not 14
    assert large - inside[1] == pytest.approx(14 * 10e-6 + 2 * 7 / 8 * 1e9 / 8 / 50e9, rel=1e-9)
    for nodes in (2, 3):  # the ring has as few latencies and moves less
        ring = inside + all_reduce_s(sizes / 8, nodes, INTER, ENDLESS)
        np.testing.assert_allclose(all_reduce_over_nodes_s(sizes, nodes, 8, INTRA, INTER, ENDLESS, 2.0), ring, rtol=1e-12)


def test_one_node_is_what_it_was():
    sizes = np.array([1e3, 1e7])
    np.testing.assert_array_equal(all_reduce_over_nodes_s(sizes, 1, 8, INTRA, INTER, 3e12), all_reduce_s(sizes, 8, INTRA, 3e12))
    assert tree_all_reduce_s(1e6, 1, INTER, 3e12) == 0.0


GOLDEN_S = [  # of a layer's all-reduces for 1 and 1,024 tokens, as they were when device files held the numbers of their nodes
    ("llama-3.1-70b", "h100", 8, 6.6845798787483345e-06, 0.0002466597958382948),
    ("llama-3.1-70b", "a100", 4, 1.1589566308829673e-05, 0.0003589659002415853),
    ("llama-3.1-70b", "l40s", 8, 0.00014189155555555558, 0.002076952888888889),
    ("qwen3-32b", "rtx_pro_6000", 2, 8.127132896313462e-05, 0.0013204608582498435),
    ("llama-3.1-405b", "h200", 16, 4.6920046921675785e-05, 0.0006812280477959926),
]


@pytest.mark.parametrize(("model", "device", "ranks", "one_s", "many_s"), GOLDEN_S)
def test_shipped_devices_take_the_time_that_they_took(model: str, device: str, ranks: int, one_s: float, many_s: float) -> None:
    deployment = Deployment(load_model(model), load_device(device), Parallelism(ranks))
    found = find_profile(deployment.device, deployment.model, ranks)
    seconds = np.asarray(layer_collectives_s(deployment, 1024, found.collectives))
    assert (seconds[0], seconds[-1]) == (pytest.approx(one_s, rel=1e-14), pytest.approx(many_s, rel=1e-14))


def test_ranks_that_share_adapters_share_their_bandwidth():
    model, device = load_model("llama-3.1-405b"), load_device("h200")
    shared = replace(device, node=replace(device.node, nics_per_node=2))
    own, few = (np.asarray(layer_collectives_s(Deployment(model, x, Parallelism(16)), 8192)) for x in (device, shared))
    part = 8192 * model.hidden_size * 2 / 8
    assert few[-1] - own[-1] == pytest.approx(2 * part / 50e9 * 3, rel=1e-6)  # a quarter of the bandwidth takes three times as long more
    assert few[0] == pytest.approx(own[0], rel=0.05)
