"""Load of the fullest rank against draws, step times of expert parallelism against the tables' own sums, and popularities."""

from __future__ import annotations

import csv
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.timing import cluster_timing
from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import LinkSpec, load_device
from simjax.latency.experts.load import expert_load, load_of
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.roofline import roofline_profile
from simjax.latency.tables.bundle import find_bundle, read_bundle
from simjax.latency.tables.compile_tables import compile_tables
from simjax.memory.capacity import kv_blocks
from simjax.model import load_model
from simjax.network.collectives import all_reduce_s
from simjax.parallel.experts import Experts, placed
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity, read_popularity
from tests.data import data_path
from tests.quickly import jit

RTX, H100, QWEN = load_device("rtx_pro_6000"), load_device("h100"), load_model("qwen3-30b-a3b")


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def drawn(weights: np.ndarray, draws: int, slots: np.ndarray, tokens: int, runs: int) -> tuple[float, float]:
    """Mean pairs and distinct experts of the fullest rank, each on its own, when tokens draw different experts one after another."""
    rng = np.random.default_rng(1)
    noise = np.log(weights) + rng.gumbel(size=(runs, tokens, len(weights)))
    chosen = np.argpartition(-noise, draws - 1, axis=2)[:, :, :draws].reshape(runs, -1)
    counts = np.stack([np.bincount(run, minlength=len(weights)) for run in chosen])
    rank = np.argsort(slots[slots >= 0]) // slots.shape[1]
    of_rank = (rank[:, None] == np.arange(len(slots))).astype(float)
    return (counts @ of_rank).max(axis=1).mean(), ((counts > 0) @ of_rank).max(axis=1).mean()


@pytest.mark.parametrize(("experts", "draws", "ranks", "bound"), [(128, 8, 2, 0.02), (128, 8, 8, 0.025), (8, 2, 4, 0.1)])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_fullest_rank_is_that_of_draws(experts: int, draws: int, ranks: int, bound: float, exponent: float):
    load = expert_load(Experts(popularity=Popularity("zipf", exponent=exponent)), experts, draws, 1, ranks, 128)
    weights = (np.random.default_rng(0).permutation(experts) + 1.0) ** -exponent
    for tokens in (1, 2, 8, 32, 128):
        pairs, distinct = drawn(weights / weights.sum(), draws, placed(experts, ranks), tokens, 51200 // experts)
        assert load.pairs[tokens - 1] == pytest.approx(pairs, rel=bound)
        assert load.distinct[tokens - 1] == pytest.approx(distinct, rel=bound)
    assert np.all(np.diff(load.pairs) > 0) and np.all(np.diff(load.distinct) > -1e-6)


def test_one_rank_with_even_popularity_keeps_the_coupon_collector():
    assert load_of(Deployment(QWEN, H100), 64) is None
    zero = expert_load(Experts(popularity=Popularity("zipf", exponent=0.0)), 128, 8, 1, 1, 64)
    tokens = np.arange(1, 65)
    np.testing.assert_allclose(zero.pairs, 8 * tokens, rtol=1e-9)
    np.testing.assert_allclose(zero.distinct[:16], 128 * (1 - (1 - 8 / 128) ** tokens[:16]), rtol=1e-9)


def test_gate_policies_of_the_paper():
    def load(kind: str):
        return expert_load(Experts(popularity=Popularity(kind)), 128, 8, 1, 2, 64)

    balanced, turns = load("balanced"), load("round_robin")
    assert [balanced.pairs[n - 1] for n in (1, 3, 64)] == [4, 12, 256] and [balanced.distinct[n - 1] for n in (1, 3, 64)] == [4, 12, 64]
    # pairs take experts 0, 1, ... in turn: 8 tokens fill the first rank, 16 both
    assert [turns.pairs[n - 1] for n in (1, 8, 12, 16, 17)] == [8, 64, 64, 64, 72]
    assert [turns.distinct[n - 1] for n in (1, 8, 16)] == [8, 64, 64]
    uniform, random = load("uniform"), load("random")
    np.testing.assert_array_equal(uniform.pairs, random.pairs)
    assert np.all(uniform.pairs > balanced.pairs)


def test_popularities_are_probabilities_of_different_choices():
    for one in (Popularity("zipf", exponent=2.0), Popularity("dirichlet", concentration=0.1), Popularity("dirichlet", concentration=1e6)):
        chosen = one.chosen(64, 6, 5)
        assert chosen.shape == (5, 64) and np.all((chosen >= 0) & (chosen <= 1))
        np.testing.assert_allclose(chosen.sum(axis=1), 6, rtol=1e-6)
    np.testing.assert_allclose(Popularity("dirichlet", concentration=1e6).chosen(64, 6, 2), 6 / 64, rtol=0.02)
    assert not np.array_equal(*Popularity("zipf").chosen(64, 6, 2)), "layers differ"


def test_derivative_by_the_exponent():
    def pairs(exponent, xp=jnp):
        popularity = Popularity("zipf")
        object.__setattr__(popularity, "exponent", exponent)  # a traced number, whose range nobody can check
        return expert_load(Experts(popularity=popularity), 16, 2, 2, 4, 2, xp).pairs[-1]

    slope = (pairs(0.8 + 1e-5, np) - pairs(0.8 - 1e-5, np)) / 2e-5
    assert float(jit(jax.grad(pairs))(0.8)) == pytest.approx(slope, rel=1e-4)
    assert slope > 0


def test_a_file_of_counts(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text("layer,expert,count\n0,0,30\n0,1,10\n0,2,10\n0,3,10\n1,0,0\n1,1,50\n1,2,25\n1,3,25\n")
    found = read_popularity(path)
    np.testing.assert_allclose(found.chosen(4, 2, 9), [[1, 1 / 3, 1 / 3, 1 / 3], [0, 1, 0.5, 0.5]], rtol=1e-6)
    with pytest.raises(SimjaxError, match=r"counts.csv: it counts 4 experts, the model has 128$"):
        InstanceSpec(QWEN, H100, Parallelism(2, expert=2, experts=Experts(popularity=found)))
    for text, message in (
        ("expert,counts\n0,1\n", "counts.csv:1: column 'count' is missing"),
        ("expert,count\n0,1\n1,-2\n", "counts.csv:3: count must be a number that is not negative, found -2"),
        ("expert,count\n0,1\n0,2\n", "counts.csv:3: the expert is counted twice"),
        ("expert,count\n0,1\n2,2\n", "counts.csv: every layer needs a count for each expert from 0 on"),
        ("expert,count\n0,0\n1,0\n", "counts.csv: layer 0 has no choices"),
    ):
        path.write_text(text)
        with pytest.raises(SimjaxError, match=message):
            read_popularity(path)
    with pytest.raises(SimjaxError, match=r"cluster.expert_popularity=zipff: neither a kind \(.*zipf.*\) nor a .csv file"):
        Popularity("zipff")


@pytest.mark.parametrize("popularity", [Popularity(), Popularity("balanced"), Popularity("zipf")])
@pytest.mark.parametrize("ranks", [1, 2])
def test_steps_are_the_sums_of_the_tables(popularity: Popularity, ranks: int):
    """Rows of the CSV files, added up here, at sizes that were measured: no more than a microsecond from the compiled step."""
    path = find_bundle(data_path("llmservingsim/profiles"), "RTXPRO6000", "Qwen3-30B-A3B-Instruct-2507", "bf16", 2)
    link = LinkSpec(16 * 2**30, 20e-6, 10e-9)
    deployment = Deployment(QWEN, RTX, Parallelism(2, expert=ranks, experts=Experts(popularity=popularity)), link)
    step_time = compile_tables(read_bundle(path), deployment, 2048, 16)

    def column(file, key):
        found: dict[tuple, float] = {}
        for folder in (path.parent / "tp1", path):
            if (folder / file).exists():
                with (folder / file).open() as lines:
                    found |= {tuple(row[k] for k in key): float(row["time_us"]) for row in csv.DictReader(lines)}
        return found

    dense, moe = column("dense.csv", ("layer", "tokens")), column("moe.csv", ("tokens", "activated_experts"))
    load = expert_load(Experts(popularity=popularity), 128, 8, 48, ranks, 2048)
    for tokens in (1, 8, 64, 512, 2048):
        at = str(tokens)
        layer_us = 2 * dense["layernorm", at] + sum(dense[op, at] for op in ("qkv_proj", "qk_norm", "rotary_emb", "o_proj"))
        size, experts = load.pairs[tokens - 1] / 8, load.distinct[tokens - 1]
        rows = sorted({int(row) for _, row in moe})
        by_row = []
        for row in rows:
            sizes = sorted(int(t) for t, r in moe if r == str(row))
            by_row.append(np.interp(size, sizes, [moe[str(t), str(row)] for t in sizes]))
            if size > sizes[-1]:
                half = np.interp(sizes[-1] / 2, sizes, [moe[str(t), str(row)] for t in sizes])
                by_row[-1] += (size - sizes[-1]) * (by_row[-1] - half) / (sizes[-1] / 2)
        moe_us = np.interp(experts, rows, by_row) / (2 if ranks == 1 else 1)
        reduce_us = 2e6 * all_reduce_s(tokens * 2048.0 * 2, 2, link, RTX.memory_bandwidth_bytes_per_s)
        total_us = dense["embedding", at] + dense["final_layernorm", at] + 48 * (layer_us + moe_us + reduce_us)
        assert 1e6 * float(step_time.tokens_s[0, tokens]) == pytest.approx(total_us, abs=1.0)


def test_memory_of_expert_parallel_ranks():
    def blocks(model, ranks: int, **experts) -> int:
        return kv_blocks(Deployment(model, H100, Parallelism(2, expert=ranks, experts=Experts(**experts))))

    assert blocks(QWEN, 2) == blocks(QWEN, 1), "whole experts or parts of all of them are as many bytes"
    lost = blocks(QWEN, 2) - blocks(QWEN, 2, eplb=True, redundant=16)
    copies = 8 * 48 + 72  # of a rank in all layers, and one layer's experts once more
    one_expert, block = 3 * 2048 * 768 * 2, 16 * 2 * 2 * 128 * 48 * 2
    assert lost == pytest.approx((copies * one_expert + 1000 * 48 * 144 * 4) / block, abs=1)
    uneven = replace(QWEN, num_experts=127)
    assert blocks(uneven, 2) < blocks(uneven, 1), "the first rank has an expert more than the second one"


def test_expert_parallelism_of_a_roofline():
    def step_s(ranks: int, tokens: int, **experts) -> float:
        deployment = Deployment(QWEN, H100, Parallelism(4, expert=ranks, experts=Experts(**experts)))
        return float(compile_profile(roofline_profile(H100), deployment, 2048, 16).tokens_s[0, tokens])

    zipf = Popularity("zipf")
    assert step_s(4, 1) > step_s(1, 1), "one of the ranks reads more than its share of a token's experts"
    assert (
        step_s(4, 2048, popularity=zipf) > step_s(4, 2048, popularity=zipf, eplb=True) > step_s(4, 2048, popularity=Popularity("balanced"))
    )
    assert step_s(4, 2048, popularity=zipf, eplb=True, rearranged=False) == step_s(4, 2048, popularity=zipf)


def test_what_is_said_and_refused():
    one = InstanceSpec(QWEN, H100, Parallelism(2, expert=2, experts=Experts("round_robin", eplb=True)))
    lines = cluster_timing((one,), LatencySource()).warnings
    assert any("Qwen3-30B-A3B has no groups of experts, and vLLM places them linearly" in line for line in lines)
    assert any("the fullest of the ranks" in line for line in lines)
    assert any("enable_eplb: experts are placed as after its rearrangements, from the first step on" in line for line in lines)
    with pytest.raises(SimjaxError, match=r"^expert_parallel_size=4: vLLM's is that of all ranks, 2"):
        InstanceSpec(QWEN, H100, Parallelism(2, expert=4))
    with pytest.raises(SimjaxError, match=r"^cluster.enable_expert_parallel=true: meta-llama/Llama-3.1-8B has no experts$"):
        InstanceSpec(load_model("llama-3.1-8b"), H100, Parallelism(2, expert=2))
    with pytest.raises(SimjaxError, match=r"^cluster.enable_eplb=true: only with expert parallelism"):
        InstanceSpec(QWEN, H100, Parallelism(2, experts=Experts(eplb=True)))
