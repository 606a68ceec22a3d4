"""All-to-all backends: bytes of worked examples, times that were published, and dual-batch overlap."""

from __future__ import annotations

import numpy as np
import pytest

from simjax.hardware import LinkSpec
from simjax.latency.experts.dual_batch import halves, layer_s
from simjax.network.all_to_all import BACKENDS, Group, exchange, exchange_s

NVLINK, NIC = LinkSpec(200e9, 1e-6), LinkSpec(50e9, 5e-6)  # of an H800 server, one direction
MEMORY = 3.35e12


def group(ranks: int, dispatch_bytes: int = 2) -> Group:
    """DeepSeek-V3's experts on servers of eight."""
    return Group(ranks, 8, 7168, 256, 8, dispatch_bytes)


def test_bytes_of_the_worked_example():
    """Of 128 tokens a rank on 8 ranks, megabytes."""
    gathered = exchange("allgather_reducescatter", group(8), 128, 8 * 128)
    assert (gathered.dispatch / 1e6, gathered.combine / 1e6) == pytest.approx((12.9, 12.85), abs=0.01)
    sent = exchange("deepep_low_latency", group(8), 128, 8 * 128)
    assert (sent.dispatch / 1e6, sent.combine / 1e6) == pytest.approx((7.57, 14.68), abs=0.01)


def test_gathering_costs_more_bytes_from_about_as_many_ranks_as_experts_of_a_token():
    def total(backend: str, ranks: int) -> float:
        moved = exchange(backend, group(ranks), 128, ranks * 128)
        return moved.dispatch + moved.combine

    gathered, sent = ([total(name, n) for n in range(2, 33)] for name in ("allgather_reducescatter", "deepep_low_latency"))
    crossing = 2 + int(np.argmax(np.array(gathered) > np.array(sent)))
    assert crossing in range(6, 10)
    assert len(set(sent)) == 1


@pytest.mark.parametrize(
    ("ranks", "dispatch_us", "combine_us"), [(8, 77, 114), (16, 118, 195), (32, 155, 273), (64, 173, 314), (128, 192, 369), (256, 194, 360)]
)
def test_published_times_of_low_latency_kernels(ranks: int, dispatch_us: float, combine_us: float):
    """DeepEP's README (version 1), H800, 128 tokens a rank."""
    found = exchange_s("deepep_low_latency", group(ranks), 128, 128 * ranks, NVLINK, NIC, MEMORY)
    assert 1e6 * np.array(found) == pytest.approx([dispatch_us, combine_us], rel=0.09)


@pytest.mark.parametrize(("ranks", "dispatch", "combine"), [(8, 153, 158), (16, 43, 43), (32, 58, 57), (64, 51, 50)])
def test_published_bandwidths_of_normal_kernels(ranks: int, dispatch: float, combine: float):
    """DeepEP's README (version 1), H800, 4096 tokens a rank: GB/s of NVLink on one node, of the network on several.

    Its benchmarks count what stays on the rank, or on the node, as well.
    """
    eight = group(ranks, dispatch_bytes=1)
    moved = exchange("deepep_high_throughput", eight, 4096, ranks * 4096)
    nodes = ranks // 8
    share = moved.remote * nodes / (nodes - 1) if nodes > 1 else 1.0
    found = exchange_s("deepep_high_throughput", eight, 4096, 4096 * ranks, NVLINK, NIC, MEMORY)
    rates = share * np.array([moved.dispatch, moved.combine]) / np.array(found) / 1e9
    assert rates == pytest.approx([dispatch, combine], rel=0.18)


def test_high_throughput_sends_a_token_once_to_each_rank():
    assert group(1).distinct(1) == 1.0
    assert group(8).distinct(8) == pytest.approx(8 * (1 - (7 / 8) ** 8), rel=0.02)
    assert group(256).distinct(256) == pytest.approx(8)
    few, many = (exchange("deepep_high_throughput", group(n), 128, n * 128).combine for n in (2, 64))
    assert few < many < exchange("deepep_low_latency", group(64), 128, 64 * 128).combine


def test_the_slowest_rank_decides_and_one_rank_exchanges_nothing():
    for name in BACKENDS:
        assert exchange_s(name, group(1), 128, 128, NVLINK, NIC, MEMORY) == (0.0, 0.0)
        even = exchange_s(name, group(8), 128, 1024, NVLINK, NIC, MEMORY)
        uneven = exchange_s(name, group(8), 1024, 1024, NVLINK, NIC, MEMORY)
        assert uneven == even if name == "allgather_reducescatter" else uneven > even
    with pytest.raises(ValueError, match="no backend 'pplx'"):
        exchange("pplx", group(8), 1, 8)


def test_dual_batch_overlap():
    assert layer_s(5.0, 1.0, 5.0, 1.0) == 20.0, "computation bounds"
    assert layer_s(1.0, 5.0, 1.0, 5.0) == 20.0, "the network bounds"
    assert layer_s(1.0, 1.0, 1.0, 1.0) == 4.0
    assert layer_s(3.0, 2.0, 1.0, 2.0) == 8.0 < 2 * (3 + 2 + 1 + 2), "never longer than both halves one after the other"
    assert halves(np.array([32, 40]), decode_only=True) and not halves(np.array([31, 40]), decode_only=True)
    assert halves(np.array([512, 900]), decode_only=False) and not halves(np.array([511, 600]), decode_only=False)
    assert not halves(np.array([600, 1200]), decode_only=False), "the second half of the smallest rank is empty"
