"""Pipeline, data and expert parallelism and speculative decoding, `figure<TAB>value` a line.

Effects that were measured elsewhere, their speed, and that they cost nothing off.

usage: python parallelism.py
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.deployment import Deployment
from simjax.engine.host.lower import Lowered, lower
from simjax.engine.host.result import Result
from simjax.engine.simulate import compiled_advance, simulate, start
from simjax.hardware import DeviceSpec, LinkSpec, load_device
from simjax.latency.experts.load import expert_load
from simjax.latency.groups.step import GroupStep, group_steps, merged, rank_step
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.roofline import roofline_profile
from simjax.latency.step_time import StepTime, mixed_step_s, row
from simjax.latency.tables.bundle import Bundle, find_bundle, read_bundle
from simjax.latency.tables.compile_tables import compile_tables
from simjax.latency.tables.curves import at_sizes, moe_s
from simjax.model import load_model
from simjax.network.collectives import all_gather_s, all_reduce_s, reduce_scatter_s
from simjax.parallel.experts import ALL_GATHER, LLMSERVINGSIM, Experts
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity
from simjax.speculation.methods import MTP, MTP_RATES, Speculation
from simjax.workload.workload import Workload

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import hlo

TABLES = Path(os.environ.get("SIMJAX_DATA", Path(__file__).parents[3] / "shared" / "data")) / "llmservingsim" / "profiles"

Figures = Iterator[tuple[str, float]]
STAGES, BURST, PROMPT, OUTPUT = 4, 256, 1024, 1024
IN_FLIGHT = 128  # of the comparison of both ways of scheduling


def design(
    workload: Workload, model: str = "llama-3.1-70b", tensor: int = 1, stages: int = STAGES, log: bool = False, leap: bool = True, **limits
) -> Lowered:
    """A simulation of one instance on H100s."""
    sizes = Parallelism(tensor, stages)
    cluster = ClusterSpec((InstanceSpec(load_model(model), load_device("h100"), sizes, InstanceLimits(**limits)),))
    return lower(cluster, cluster_timing(cluster.instances, LatencySource()), workload, log=log, leap=leap)


def run(lowered: Lowered) -> Result:
    return simulate(lowered.shape, lowered.params)


def burst(count: int = BURST, prompt: int = PROMPT, output: int = OUTPUT) -> Workload:
    """Requests that all come at once."""
    return Workload(np.zeros(count), np.full(count, prompt, np.int32), np.full(count, output, np.int32), source="burst")


def poisson(count: int, rate: float) -> Workload:
    rng = np.random.default_rng(0)
    lengths = rng.integers(200, 1600, count), rng.integers(100, 900, count)
    return Workload(np.cumsum(rng.exponential(1 / rate, count)), *(x.astype(np.int32) for x in lengths), source="poisson")


def tpot_s(result: Result) -> float:
    log = result.requests
    return float(np.mean((log.finish_s - log.first_token_s) / (log.output_tokens - 1)))


def cohorts() -> Figures:
    """A burst of short prompts is admitted in one call: one cohort, and the other stages idle (vLLM's issues 41682 and 50853).

    A token budget that admits a fourth of it a call makes as many cohorts as there are stages; capping the decodes of a call did so in
    vLLM's pull request 57433, which measured 22.95 % more output.
    """
    short = burst(prompt=32)
    times = {}
    for name, budget in (("one_cohort", 8192), ("four_cohorts", BURST * 32 // STAGES)):
        result = run(design(short, max_num_batched_tokens=budget, enable_prefix_caching=False))
        times[name] = float(result.requests.finish_s.max())
        yield f"burst_pp4_{name}_tpot_ms", 1e3 * tpot_s(result)
        yield f"burst_pp4_{name}_output_tokens_per_s", BURST * OUTPUT / times[name]
    yield "burst_pp4_throughput_gain_of_four_cohorts", times["one_cohort"] / times["four_cohorts"]


def modes() -> Figures:
    """Asynchronous scheduling (second model runner) against synchronous one: vLLM's pull request 42187 measured 1.24 times the throughput.

    Pipeline of 4, prompts and outputs of 1024, 128 in flight there; the time to first token fell by 2.34.
    """
    rng = np.random.default_rng(0)
    spread = Workload(np.sort(rng.uniform(0, 20, IN_FLIGHT)), *(np.full(IN_FLIGHT, n, np.int32) for n in (PROMPT, OUTPUT)), source="128")
    ends = {}
    for name, flag in (("sync", False), ("async", True)):
        result = run(design(spread, async_scheduling=flag, max_num_batched_tokens=2048))
        ends[name] = float(result.requests.finish_s.max())
        yield f"pp4_{name}_tpot_ms", 1e3 * tpot_s(result)
        yield f"pp4_{name}_ttft_p50_ms", 1e3 * float(np.median(result.requests.first_token_s - result.requests.arrival_s))
    yield "pp4_async_over_sync_throughput", ends["sync"] / ends["async"]


def shapes() -> Figures:
    """Eight H100s for a model of 70B as TP8, TP4 x PP2, TP2 x PP4 and PP8: the KV cache, and a token at one request."""
    one = Workload(np.zeros(1), np.full(1, PROMPT, np.int32), np.full(1, OUTPUT, np.int32), source="one")
    for tensor, stages in ((8, 1), (4, 2), (2, 4), (1, 8)):
        lowered = design(one, tensor=tensor, stages=stages)
        yield f"llama_70b_tp{tensor}_pp{stages}_kv_blocks", float(lowered.params.ranks.num_blocks[0])
        yield f"llama_70b_tp{tensor}_pp{stages}_tpot_ms", 1e3 * tpot_s(run(lowered))


def table_sums() -> Figures:
    """Steps of Qwen3-30B-A3B on two RTX PRO 6000, as tensor and expert parallel ranks, against sums of the rows of its tables.

    The experts of a layer are added from the tables' rows at the load of the fullest rank, everything else at a measured size.
    """
    if not TABLES.is_dir():
        return
    path = find_bundle(TABLES, "RTXPRO6000", "Qwen3-30B-A3B-Instruct-2507", "bf16", 2)
    bundle, model, device = read_bundle(path), load_model("qwen3-30b-a3b"), load_device("rtx_pro_6000")
    assert bundle.moe is not None
    link, most = LinkSpec(16 * 2**30, 20e-6, 10e-9), 2048
    for name, ranks in (("tp2", 1), ("tp2_ep2", 2)):
        with jax.enable_x64(True):
            step_time = compile_tables(bundle, Deployment(model, device, Parallelism(2, expert=ranks), link), most, 16)
        load = expert_load(Experts(), model.num_experts, model.num_experts_per_tok, 1, ranks, most)
        worst = 0.0
        for tokens in (1, 8, 64, 512, 2048):
            at = {op: curve.seconds[list(curve.size).index(tokens)] for op, curve in bundle.dense.items()}
            layer_s = 2 * at["layernorm"] + at["qkv_proj"] + at["qk_norm"] + at["rotary_emb"] + at["o_proj"]
            mine = load.pairs[[tokens - 1]] / model.num_experts_per_tok, load.distinct[[tokens - 1]]
            layer_s += moe_s(bundle.moe, *mine).item() / (2 if ranks == 1 else 1)
            layer_s += 2 * all_reduce_s(tokens * 2.0 * model.hidden_size, 2, link, device.memory_bandwidth_bytes_per_s)
            total_s = at["embedding"] + at["final_layernorm"] + model.num_hidden_layers * layer_s
            worst = max(worst, abs(1e6 * (float(step_time.tokens_s[0, tokens]) - total_s)))
            yield f"qwen3_30b_a3b_rtx_pro_6000_{name}_{tokens}_tokens_ms", 1e3 * total_s
        yield f"qwen3_30b_a3b_rtx_pro_6000_{name}_worst_difference_from_table_sums_us", worst


def stepping(step_time: StepTime, *ranks: list[tuple[int, int]]) -> tuple[float, GroupStep]:
    """Seconds of a step of ranks with requests of (new, computed) tokens."""
    model, whole = row(step_time, 0), None
    for requests in ranks:
        slots = np.zeros((2, 8), np.int32)
        slots[:, : len(requests)] = np.array(requests, np.int32).reshape(-1, 2).T
        one = rank_step(model, jax.numpy.asarray(slots[0]), jax.numpy.asarray(slots[1]))
        whole = one if whole is None else merged(whole, one)
    assert whole is not None
    return float(group_steps(model, whole).first_s), whole


def on_two_ranks(bundle: Bundle, expert: int, backend: str = ALL_GATHER, seqs: int = 64) -> tuple[StepTime, DeviceSpec, LinkSpec]:
    """Step times of two data-parallel ranks of one RTX PRO 6000 on LLMServingSim's links."""
    link, device = LinkSpec(16 * 2**30, 20e-6, 10e-9), load_device("rtx_pro_6000")
    node = replace(device.node, intra_link=link, inter_link=link)
    device = replace(device, memory_bandwidth_bytes_per_s=1597e9, node=node)
    sizes = Parallelism(1, data=2, expert=expert, experts=Experts(all2all_backend=backend))
    return compile_tables(bundle, Deployment(load_model("qwen3-30b-a3b"), device, sizes, link), 2048, seqs), device, link


def golden() -> Figures:
    """LLMServingSim's iterations of two data-parallel ranks with EP2, simplified as there: both prefill 2048 tokens; one decodes."""
    if not TABLES.is_dir():
        return
    bundle = read_bundle(find_bundle(TABLES, "RTXPRO6000", "Qwen3-30B-A3B-Instruct-2507", "bf16", 1))
    with jax.enable_x64(True):
        times, _, _ = on_two_ranks(bundle, 2, LLMSERVINGSIM, 2048)
        cases = {"prefill": ([[(2048, 0)]] * 2, 82_183_905), "decode": ([[(1, 2362)], []], 6_738_166)}
        for name, (ranks, theirs_ns) in cases.items():
            ours_ns = 1e9 * stepping(times, *ranks)[0]
            yield f"llmservingsim_golden_{name}_ms", 1e-6 * ours_ns
            yield f"llmservingsim_golden_{name}_difference_us", 1e-3 * (ours_ns - theirs_ns)


def group_sums() -> Figures:
    """Steps of two data-parallel ranks against sums of the tables' rows: experts whole or cut, graphs (padded) or a prefill without."""
    if not TABLES.is_dir():
        return
    bundle = read_bundle(find_bundle(TABLES, "RTXPRO6000", "Qwen3-30B-A3B-Instruct-2507", "bf16", 1))
    assert bundle.moe is not None
    model = load_model("qwen3-30b-a3b")
    layers, hidden, k = model.num_hidden_layers, model.hidden_size, model.num_experts_per_tok
    for expert in (1, 2):
        with jax.enable_x64(True):
            times, device, link = on_two_ranks(bundle, expert)
            worst = 0.0
            for ranks, rows, total in (([[(2048, 0)], [(1, 1000)] * 8], 2048, 2056), ([[(1, 1000)] * 8, [(1, 4000)]], 8, 16)):
                found, step = stepping(times, *ranks)
                at = {op: curve.seconds[list(curve.size).index(rows)] for op, curve in bundle.dense.items()}
                load = expert_load(Experts(), model.num_experts, k, layers, expert, total)
                layer_s = 2 * at["layernorm"] + at["qkv_proj"] + at["qk_norm"] + at["rotary_emb"] + at["o_proj"]
                layer_s += moe_s(bundle.moe, load.pairs[[-1]] / k, load.distinct[[-1]]).item() / (2 if expert == 1 else 1)
                layer_s += all_gather_s(total / 2 * (2 * hidden + 8 * k), 2, link)
                layer_s += reduce_scatter_s(total * 2.0 * hidden, 2, link, device.memory_bandwidth_bytes_per_s)
                head_s = sum(at_sizes(curve, np.array([float(step.sequences)])).item() for curve in bundle.per_sequence.values())
                total_s = at["embedding"] + at["final_layernorm"] + layers * layer_s + head_s + float(step.attention.first_s)
                worst = max(worst, 1e6 * abs(found - total_s))
                yield f"qwen3_30b_a3b_rtx_pro_6000_dp2_{'ep2' if expert == 2 else 'tp'}_{total}_tokens_ms", 1e3 * found
        yield f"qwen3_30b_a3b_rtx_pro_6000_dp2_{'ep2' if expert == 2 else 'tp'}_worst_difference_from_table_sums_us", worst


def mixtral() -> Figures:
    """Decode steps of Mixtral-8x7B on two H100 with tensor parallel, expert parallel and data-parallel devices, and where it was measured.

    The run with vLLM 0.15 (`vllm_h100_0.15`) took 17.8 and 20.5 ms for 22 and 104 decodes with tensor parallelism; it has no op tables.
    """
    model, device = load_model("mixtral-8x7b"), load_device("h100")
    shapes = {"tp2": Parallelism(2), "tp2_ep2": Parallelism(2, expert=2), "dp2_ep2": Parallelism(1, data=2, expert=2)}
    for name, sizes in shapes.items():
        spec = InstanceSpec(model, device, sizes)
        with jax.enable_x64(True):
            one = row(cluster_timing((spec,), LatencySource()).step_time, 0)
            for batch in (22, 104):
                each = batch // sizes.data
                new, computed = (jax.numpy.full(each, n, jax.numpy.int32) for n in (1, 700))
                if sizes.data == 1:
                    seconds = mixed_step_s(one, new, computed)
                else:
                    own = rank_step(one, new, computed)
                    seconds = group_steps(one, merged(own, own)).first_s
                yield f"mixtral_8x7b_2_h100_{name}_{batch}_decodes_ms", 1e3 * float(seconds)


def balancing() -> Figures:
    """EPLB's gain in prefills on 8 expert-parallel ranks: 1.17 by rearranging, 1.24 to 1.34 with 64 copies (ATOM's PR 1210).

    That run was on MI355 and its popularity is not known. Here: Qwen3-235B-A22B on H200 by its roofline, attention tensor parallel, steps
    of 8192 tokens, Zipf's popularity by exponent, none of which was chosen to meet the published gain.
    """
    model, device, tokens = load_model("qwen3-235b-a22b"), load_device("h200"), 8192
    profile = roofline_profile(device)
    kinds = {"linear": {}, "rearranged": {"eplb": True}, "64_redundant": {"eplb": True, "redundant": 64}}
    for exponent in (0.25, 0.5, 0.75, 1.0):
        seconds = {}
        for name, flags in kinds.items():
            experts = Experts(popularity=Popularity("zipf", exponent=exponent), **flags)
            step_time = compile_profile(profile, Deployment(model, device, Parallelism(8, expert=8, experts=experts)), tokens, 1)
            seconds[name] = float(step_time.tokens_s[0, tokens])
            load = expert_load(experts, model.num_experts, model.num_experts_per_tok, model.num_moe_layers, 8, tokens)
            yield f"zipf_{exponent}_{name}_balancedness", float(load.mean_pairs[-1] / load.pairs[-1])
        for name in ("rearranged", "64_redundant"):
            yield f"zipf_{exponent}_{name}_prefill_gain", seconds["linear"] / seconds[name]


def speed() -> Figures:
    """Time of a tick without leaps, 256 seats (at most 15 us asked for)."""
    for stages in (1, 2, 4):
        lowered = design(poisson(400, 4.0), "llama-3.1-8b", stages=stages, leap=False)
        run(lowered)
        best = np.inf
        for _ in range(5):
            began = time.perf_counter()
            result = run(lowered)
            best = min(best, (time.perf_counter() - began) / result.ticks)
        yield f"pp{stages}_us_per_tick", 1e6 * best


def kernels() -> Figures:
    """Kernels of a tick: a program without stages has the ones that it had before there were any."""
    with jax.enable_x64(True):
        for stages in (1, 2, 4):
            lowered = design(poisson(400, 4.0), "llama-3.1-8b", stages=stages)
            params = jax.tree.map(jax.numpy.asarray, lowered.params)
            state = start(lowered.shape, params)
            if stages == 1:
                yield "pp1_leaves_of_stages", float(len(jax.tree.leaves((state.ranks.pipeline, state.ranks.slots.flight))))
            yield f"pp{stages}_kernels", float(hlo.loop_kernels(compiled_advance(lowered.shape, params, state).as_text()).total)


def drafting(
    workload: Workload, drafts: int, model: str = "llama-3.1-8b", tensor: int = 1, rates: tuple[float, ...] = MTP_RATES
) -> Lowered:
    """A simulation of one instance on H100s with so many drafts of MTP, 0 for none; steps are taken one by one."""
    speculation = Speculation(MTP, drafts, rates) if drafts else None
    one = InstanceSpec(load_model(model), load_device("h100"), Parallelism(tensor), InstanceLimits(), speculation=speculation)
    return lower(ClusterSpec((one,)), cluster_timing((one,), LatencySource()), workload, log=False, leap=False)


def speculation() -> Figures:
    """Tokens of a step by the marginal rates of vLLM's pull request 48892: 1.83 with one draft, 4.50 with eight.

    DeepSeek-V3's report: with one draft, accepted at 85 to 90 %, 1.8 times the tokens a second. That holds while reading weights is what a
    step takes its time for; in a large batch the rows of drafts compete with those of requests.
    """
    for drafts, rates in ((1, (0.834,)), (8, MTP_RATES)):
        log = run(drafting(burst(64, 64, 512), drafts, rates=rates)).instances
        yield f"mtp_k{drafts}_tokens_a_step", 1.0 + float(log.accepted_tokens[0] / log.drafts[0])
    for count in (1, 16, 256):
        took = [float(run(drafting(burst(count, 64, 512), k, "llama-3.1-70b", 4, (0.875,))).requests.finish_s.max()) for k in (0, 1)]
        yield f"mtp_k1_accepted_at_0.875_batch_{count}_speedup", took[0] / took[1]


def drafting_speed() -> Figures:
    """Time of a tick with drafts over that of one without, 256 seats and no leaps (at most 1.3 asked for), and kernels of both."""
    designs = {drafts: drafting(poisson(400, 4.0), drafts) for drafts in (0, 1, 4)}
    best = dict.fromkeys(designs, np.inf)
    for _ in range(8):
        for drafts, lowered in designs.items():
            began = time.perf_counter()
            result = run(lowered)
            best[drafts] = min(best[drafts], (time.perf_counter() - began) / result.ticks)
    yield "drafts_0_us_per_tick", 1e6 * best[0]
    for drafts in (1, 4):
        yield f"drafts_{drafts}_over_0_per_tick", best[drafts] / best[0]
    with jax.enable_x64(True):
        for drafts in (0, 4):
            lowered = designs[drafts]
            params = jax.tree.map(jax.numpy.asarray, lowered.params)
            state = start(lowered.shape, params)
            if not drafts:
                yield "drafts_0_leaves_of_drafts", float(len(jax.tree.leaves((state.drafts, state.ranks.slots.drafts))))
            yield f"drafts_{drafts}_kernels", float(hlo.loop_kernels(compiled_advance(lowered.shape, params, state).as_text()).total)


def main() -> None:
    for part in (cohorts, modes, shapes, table_sums, golden, group_sums, mixtral, balancing, speed, kernels, speculation, drafting_speed):
        for figure, value in part():
            print(f"{figure}\t{value:.6g}", flush=True)


if __name__ == "__main__":
    main()
