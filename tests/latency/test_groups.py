"""Steps that data-parallel ranks of a mixture of experts take together: golden numbers, sums of the tables, graphs and padding."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import jax
import numpy as np
import pytest

from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import LinkSpec, load_device
from simjax.latency.experts.dual_batch import layer_s
from simjax.latency.experts.load import expert_load
from simjax.latency.groups.step import GroupStep, captured, dummy_step, group_steps, merged, rank_decodes, rank_step
from simjax.latency.groups.times import union_s
from simjax.latency.groups.union import knots
from simjax.latency.join import join_step_times
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.roofline import roofline_profile
from simjax.latency.step_time import StepTime, StepTimeRow, row
from simjax.latency.tables.bundle import Bundle, find_bundle, read_bundle
from simjax.latency.tables.compile_tables import compile_tables
from simjax.latency.tables.curves import at_sizes, moe_s
from simjax.memory.capacity import MemoryLimits, kv_blocks, overhead_bytes
from simjax.memory.exchange import buffer_bytes
from simjax.model import load_model, weight_bytes
from simjax.network.collectives import all_gather_s, all_reduce_s, reduce_scatter_s
from simjax.network.stages import CAPTURE_SIZES
from simjax.parallel.experts import Experts
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity
from tests.data import data_path

QWEN, MIXTRAL, H100 = load_model("qwen3-30b-a3b"), load_model("mixtral-8x7b"), load_device("h100")
LINK = LinkSpec(16 * 2**30, 20e-6, 10e-9)
RTX = load_device("rtx_pro_6000")
RTX = replace(RTX, memory_bandwidth_bytes_per_s=1597e9, node=replace(RTX.node, intra_link=LINK, inter_link=LINK))
SLOTS, MOST = 8, 2048
IDLE, PREFILL = ([], []), ([2048], [0])


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def bundle() -> Bundle:
    return read_bundle(find_bundle(data_path("llmservingsim/profiles"), "RTXPRO6000", "Qwen3-30B-A3B-Instruct-2507", "bf16", 1))


def tables(backend: str = "allgather_reducescatter", expert: int = 2, seqs: int = 64) -> StepTime:
    """Two data-parallel ranks of one RTX PRO 6000."""
    sizes = Parallelism(1, data=2, expert=expert, experts=Experts(all2all_backend=backend))
    return compile_tables(bundle(), Deployment(QWEN, RTX, sizes, LINK), MOST, seqs)


def of_rank(model: StepTimeRow, new: list[int], computed: list[int]) -> GroupStep:
    slots = np.zeros((2, SLOTS), np.int32)
    slots[0, : len(new)], slots[1, : len(computed)] = new, computed
    return rank_step(model, *slots)


def together(step_time: StepTime, *ranks: tuple[list[int], list[int]], place: int = 0) -> tuple[float, GroupStep]:
    model = row(step_time, place)
    step = reduce(merged, [of_rank(model, *one) for one in ranks])
    return float(group_steps(model, step).first_s), step


def test_golden_iterations_of_llmservingsim():
    """Two ranks with two expert-parallel devices: both prefill 2048 tokens, and one decodes while the other one has a dummy.

    It truncates every kernel's time to whole nanoseconds, hence "to the microsecond".
    """
    times = tables("llmservingsim", seqs=MOST)
    assert together(times, PREFILL, PREFILL)[0] == pytest.approx(82_183_905e-9, abs=1e-6)
    assert together(times, ([1], [2362]), IDLE)[0] == pytest.approx(6_738_166e-9, abs=1e-6)
    beside_a_dummy, _ = together(times, PREFILL, IDLE)
    head = {op: at_sizes(curve, np.array([1.0, 2048.0])) for op, curve in bundle().per_sequence.items()}
    extra_s = sum(seconds[1] - seconds[0] for seconds in head.values())
    assert beside_a_dummy == pytest.approx(82_183_905e-9 + extra_s, abs=1e-6), "the dummy has as many rows at the head"


def dense_us(tokens: int) -> float:
    """Everything but attention and experts in a step of so many tokens, from the rows of the tables."""
    at = {op: 1e6 * curve.seconds[list(curve.size).index(tokens)] for op, curve in bundle().dense.items()}
    layer = 2 * at["layernorm"] + sum(at[op] for op in ("qkv_proj", "qk_norm", "rotary_emb", "o_proj"))
    return at["embedding"] + at["final_layernorm"] + 48 * layer


def union_us(total: int, ranks: int = 2) -> float:
    """Experts on the fullest rank, and the exchange by vLLM's default backend, in a step of so many tokens of two ranks."""
    profile = bundle()
    assert profile.moe is not None
    load = expert_load(Experts(), 128, 8, 48, ranks, total)
    experts_s = moe_s(profile.moe, load.pairs[[-1]] / 8, load.distinct[[-1]]).item() / (2 if ranks == 1 else 1)
    gather_s = all_gather_s(total / 2 * (2048 * 2 + 8 * 8), 2, LINK)
    return 48e6 * (experts_s + gather_s + reduce_scatter_s(total * 2048.0 * 2, 2, LINK, RTX.memory_bandwidth_bytes_per_s))


@pytest.mark.parametrize("expert", [1, 2])
def test_steps_are_the_sums_of_the_tables(expert: int):
    times = tables(expert=expert)

    def rest_us(step: GroupStep) -> float:
        sequences = {op: 1e6 * at_sizes(x, np.array([float(step.sequences)])).item() for op, x in bundle().per_sequence.items()}
        return sum(sequences.values())

    found, step = together(times, PREFILL, ([1] * 8, [1000] * 8))  # 2048 tokens have no graph: nobody pads
    assert 1e6 * found == pytest.approx(
        dense_us(2048) + 1e6 * float(step.attention.first_s) + union_us(2056, expert) + rest_us(step), abs=1
    )
    assert float(step.own.first_s) == pytest.approx(float(step.attention.first_s) + float(times.tokens_s[0, 2048])), "one rank has both"
    found, step = together(times, ([1] * 8, [1000] * 8), ([1], [4000]))  # all decode: graphs, and as many rows on both
    assert 1e6 * found == pytest.approx(dense_us(8) + 1e6 * float(step.attention.first_s) + union_us(16, expert) + rest_us(step), abs=1)


@pytest.mark.parametrize(("backend", "data"), [("allgather_reducescatter", 2), ("deepep_high_throughput", 8), ("deepep_low_latency", 8)])
def test_mixtral_is_the_sum_of_its_parts(backend: str, data: int):
    """A profile's step on two tensor-parallel devices for each rank: of all parts that do not change, those of one rank alone."""
    profile, alone = roofline_profile(H100), Deployment(MIXTRAL, H100, Parallelism(2))
    experts = data * 2 if data * 2 <= 8 else 8
    sizes = Parallelism(experts // data, data=data, expert=experts, experts=Experts(all2all_backend=backend))
    alone = replace(alone, parallelism=Parallelism(sizes.tensor))
    times, one = (compile_profile(profile, x, 1024, 64) for x in (replace(alone, parallelism=sizes), alone))
    found, step = together(times, ([1] * 8, [700] * 8), ([1] * 3, [700] * 3), *([IDLE] * (data - 2)))
    dense = np.asarray(times.tokens_s[0])
    experts_s, exchange_s = union_s(times.group, 0, np.int32(8 * data), np.int32(8))  # type: ignore[arg-type]
    total_s = dense[8] + experts_s + exchange_s + float(step.attention.first_s) + float(one.sequences_s[0, 8] + one.host_s[0])
    assert found == pytest.approx(float(total_s), abs=1e-6)
    assert dense[8] < float(one.tokens_s[0, 8]), "the experts are no part of what a rank does alone"
    if backend == "allgather_reducescatter":
        rows = 1024.0 * MIXTRAL.hidden_size * 2
        one_s = all_reduce_s(rows, 2, H100.node.intra_link, H100.memory_bandwidth_bytes_per_s)
        after_s = all_gather_s(rows / 2, 2, H100.node.intra_link)
        moved = compile_profile(profile, Deployment(MIXTRAL, H100, replace(sizes, tensor=1, expert=data)), 1024, 64).tokens_s[0, 1024]
        assert dense[1024] < moved + 32 * (one_s + after_s), "a rank of two devices multiplies half as much"


def test_ranks_agree_on_the_least_graph():
    times = tables()
    chunk, decode = ([100], [0]), ([1] * 4, [1000] * 4)
    _, step = together(times, decode, IDLE)
    assert int(step.graph) == 2 and bool(step.decodes)
    mixed_s, step = together(times, decode, chunk)
    assert int(step.graph) == 1 and not step.decodes, "one chunk takes all of them out of the full graph"
    dense, union = float(times.tokens_s[0, 104]), union_s(times.group, 0, np.int32(208), np.int32(104))  # type: ignore[arg-type]
    rest = float(times.sequences_s[0, 4]) + float(step.attention.first_s)
    assert mixed_s == pytest.approx(dense + float(sum(union)) + rest), "100 tokens are padded to 104 on both"
    _, step = together(times, decode, ([513], [0]))
    assert int(step.graph) == 0, "no graph is captured beyond 512 tokens"
    eager = replace(times, group=replace(times.group, graphs=times.group.graphs * 0))  # type: ignore[union-attr]
    alone_s, step = together(eager, decode, IDLE)
    union = union_s(times.group, 0, np.int32(5), np.int32(4))  # type: ignore[arg-type]
    rest = float(times.sequences_s[0, 4]) + float(step.attention.first_s)
    assert alone_s == pytest.approx(float(times.tokens_s[0, 4]) + float(sum(union)) + rest)
    assert alone_s < together(times, decode, IDLE)[0], "without graphs the idle rank has one row, not four"
    assert [int(captured(np.int32(n))) for n in (1, 2, 3, 4, 5, 8, 247, 249, 257, 500, 512)] == [1, 2, 4, 4, 8, 8, 248, 256, 272, 512, 512]
    assert {int(captured(np.int32(n))) for n in CAPTURE_SIZES} == set(CAPTURE_SIZES)


def test_the_slowest_rank_sets_the_time_of_all():
    times = tables()
    decode = ([1] * 4, [1000] * 4)
    both, one, prefill = (together(times, decode, x)[0] for x in (decode, IDLE, PREFILL))
    assert both == pytest.approx(one, rel=1e-9), "an idle rank has as many rows in graphs"
    assert prefill > 5 * both
    order = [together(times, *x)[0] for x in ((PREFILL, decode), (decode, PREFILL))]
    assert order[0] == order[1]
    model = row(times, 0)
    assert float(group_steps(model, merged(of_rank(model, *decode), dummy_step(model))).first_s) == pytest.approx(one, rel=1e-9)


def test_leaps_of_a_group():
    """The longest attention is a line until another one crosses it, and no later step is longer than said."""
    times = compile_profile(roofline_profile(H100), Deployment(QWEN, H100, Parallelism(1, data=3, expert=3)), 256, 64)
    model = row(times, 0)
    batches = [(1, 30_000), (8, 29_000), (2, 10_000)]
    start = [rank_decodes(model, np.int32(n), np.int64(total), np.int32(total // n)) for n, total in batches]
    steps = group_steps(model, reduce(merged, start))
    assert 1 < int(steps.valid) < 10_000
    for j in (0, 1, int(steps.valid) - 1):
        later = [rank_decodes(model, np.int32(n), np.int64(total + n * j), np.int32(total // n + j)) for n, total in batches]
        exact = group_steps(model, reduce(merged, later)).first_s
        assert float(steps.first_s + j * steps.slope_s) == pytest.approx(float(exact), rel=1e-12)
    same = group_steps(model, reduce(merged, start[::-1]))
    assert float(same.first_s) == float(steps.first_s)


def test_entries_between_which_experts_are_linear():
    assert knots(1, 64).tolist() == list(range(1, 65))
    assert knots(4, 8).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 28, 32]
    group = tables().group
    assert group is not None
    for total in (1, 9, 300, 2048, 2050, 4096):
        assert 1e6 * float(sum(union_s(group, 0, np.int32(total), np.int32(total)))) == pytest.approx(union_us(total), abs=1)


def test_dual_batch_overlap():
    def times(dbo: bool, **link) -> StepTime:
        device = replace(RTX, node=replace(RTX.node, intra_link=replace(LINK, **link)))
        sizes = Parallelism(1, data=2, expert=2, experts=Experts(dbo=dbo))
        return compile_tables(bundle(), Deployment(QWEN, device, sizes), MOST, 64)

    off, on = times(False), times(True)
    small = ([500], [0])
    assert together(off, PREFILL, small)[0] == together(on, PREFILL, small)[0], "fewer than 512 tokens on one rank"
    whole_s, _ = together(off, PREFILL, PREFILL)
    halved_s, step = together(on, PREFILL, PREFILL)
    experts_s, exchange_s = (float(x) for x in union_s(on.group, 0, np.int32(2048), np.int32(1024)))  # type: ignore[arg-type]
    own_s = float(on.tokens_s[0, 1024]) + 0.5 * float(step.attention.first_s)
    rest_s = float(on.sequences_s[0, 1])
    assert halved_s == pytest.approx(rest_s + layer_s(own_s, exchange_s / 2, experts_s, exchange_s / 2))
    assert halved_s < whole_s
    assert int(group_steps(row(on, 0), step).valid) == 1


def test_low_latency_kernels_take_rounds_of_256_tokens():
    sizes = Parallelism(1, data=8, expert=8, experts=Experts(all2all_backend="deepep_low_latency"))
    group = compile_profile(roofline_profile(H100), Deployment(QWEN, H100, sizes), 1024, 64).group
    one, three = (np.array(union_s(group, 0, np.int32(8 * n), np.int32(n))) for n in (256, 768))  # type: ignore[arg-type]
    assert three == pytest.approx(3 * one)
    assert np.array(union_s(group, 0, np.int32(8 * 257), np.int32(257)))[1] > 1.2 * one[1]  # type: ignore[arg-type]


def test_models_that_step_together_beside_others_that_do_not():
    alone = compile_profile(roofline_profile(H100), Deployment(QWEN, H100), 512, 64)
    group = compile_profile(roofline_profile(H100), Deployment(QWEN, H100, Parallelism(1, data=4, expert=4)), 1024, 64)
    assert alone.group is None
    joined = join_step_times([alone, group])
    batch = ([1] * 4, [1000] * 4)
    assert together(joined, batch, IDLE, IDLE, IDLE, place=1)[0] == together(group, batch, IDLE, IDLE, IDLE)[0]


def test_popularity_and_eplb_count_on_the_union():
    def step_s(popularity: str = "zipf", **experts) -> float:
        sizes = Parallelism(1, data=8, expert=8, experts=Experts(popularity=Popularity(popularity), **experts))
        times = compile_profile(roofline_profile(H100), Deployment(QWEN, H100, sizes), 2048, 64)
        return together(times, *([PREFILL] * 8))[0]

    assert step_s() > step_s(eplb=True) > step_s(popularity="balanced")


def test_memory_of_data_parallel_ranks():
    whole = weight_bytes(QWEN)
    experts = 48 * 128 * 3 * 2048 * 768 * 2
    assert weight_bytes(QWEN, 1, 4, data_parallel_size=4) == whole - experts * 3 // 4, "a quarter of the experts whole"
    assert weight_bytes(QWEN, 1, 1, data_parallel_size=4) == whole - experts * 3 // 4, "or a quarter of each"
    device = replace(RTX, memory_bytes=96 * 2**30)
    two = Deployment(QWEN, device, Parallelism(1, data=2, expert=2))
    assert kv_blocks(two, MemoryLimits(gpu_memory_utilization=0.9), overhead=0) == 38_590, "LLMServingSim's golden capacity"


def test_memory_of_exchanges():
    def bytes_of(backend: str, data: int = 8, limits: MemoryLimits | None = None) -> int:
        sizes = Parallelism(1, data=data, expert=data, experts=Experts(all2all_backend=backend))
        return overhead_bytes(Deployment(QWEN, H100, sizes), limits or MemoryLimits(max_num_batched_tokens=8192))

    alone = Deployment(QWEN, H100, Parallelism(8, expert=8))
    one = overhead_bytes(alone, MemoryLimits(max_num_batched_tokens=8192))
    gathered = bytes_of("allgather_reducescatter")
    rows = 8 * 8192 * 2 * 2048 + (16384 - 8192) * 8 * 2 * 2048  # all hidden states and their sums, and experts on twice as many rows
    assert gathered - one == pytest.approx(2 * rows, rel=0.02)
    assert bytes_of("allgather_reducescatter", 16) > gathered
    small = MemoryLimits(max_num_batched_tokens=256)
    low = bytes_of("deepep_low_latency", limits=small)
    assert low == bytes_of("deepep_low_latency", 16, small), "a buffer for each expert, whoever has it"
    v3 = replace(QWEN, num_experts=288, hidden_size=7168)
    sizes = Parallelism(1, data=8, expert=8, experts=Experts(all2all_backend="deepep_low_latency"))
    assert buffer_bytes(Deployment(v3, H100, sizes)) / 2 == pytest.approx(2116e6, rel=0.01), "for half as many tokens DeepEP prints 2116 MB"
    two_nodes, one_node = (bytes_of("deepep_high_throughput", data) for data in (16, 8))
    assert two_nodes - one_node == pytest.approx(2**30, rel=0.01)


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(
        SimjaxError, match=r"moe_intermediate_size=768 cannot be divided by tensor_parallel_size times data_parallel_size=5"
    ):
        weight_bytes(QWEN, 1, 1, data_parallel_size=5)
    with pytest.raises(SimjaxError, match=r"^cluster.all2all_backend=pplx: there is no such backend"):
        Experts(all2all_backend="pplx")
