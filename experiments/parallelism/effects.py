"""Published effects of parallelism and speculation beside the simulated ones: one table, one figure.

Prints `figure<TAB>value` and writes effects.csv (each effect with the published figure and its source) and effects.png next to this file.
No number here was fitted to the published ones; setups are as near to them as their reports say.

usage: python effects.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import simjax
from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.timing import cluster_timing
from simjax.engine.host.result import Result
from simjax.hardware import load_device
from simjax.latency.groups.step import GroupStep, group_steps, merged, rank_step
from simjax.latency.step_time import StepTimeRow, row
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from simjax.plot import style

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "validation"))
import parallelism as figures  # those of the validation page

if TYPE_CHECKING:
    from matplotlib.axes import Axes


HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Effect:
    """An effect: what was published, and what the simulation gives.

    Attributes:
        name: the effect.
        published: the figure, in words.
        source: where it was published.
        simulated: the same here, in words.
        setup: how that of the simulation differs.
    """

    name: str
    published: str
    source: str
    simulated: str
    setup: str


class Effects:
    """Effects found so far, and a panel of the figure for each."""

    def __init__(self, panels: list[Axes]) -> None:
        self.panels, self.found = iter(panels), list[Effect]()

    def add(self, *words: str) -> None:
        """Keep an effect, in the order of the fields of `Effect`."""
        self.found.append(Effect(*words))
        print(f"{words[0]}\t{words[3]}", flush=True)

    def bars(self, title: str, values: dict[str, float], ylabel: str, published: tuple[float, float] | None = None) -> None:
        """A panel of bars, with a band of what was published."""
        axes = next(self.panels)
        style.dress(axes, title, "", ylabel)
        axes.bar(range(len(values)), list(values.values()), color=style.BLUE, width=0.6)
        axes.set_xticks(range(len(values)), list(values))
        for place, value in enumerate(values.values()):
            axes.annotate(f"{value:,.0f}" if value >= 100 else f"{value:.2f}", (place, value), ha="center", va="bottom", fontsize=8)
        if published is not None:
            self.band(axes, published)
        axes.set_ylim(0.0, 1.18 * max(*values.values(), *(published or (0.0,))))

    def band(self, axes: Axes, published: tuple[float, float]) -> None:
        """A line, or a band between two values, of what was published."""
        low, high = published
        if low == high:
            axes.axhline(low, color=style.RUST, linestyle="--", linewidth=1.2)
        else:
            axes.axhspan(low, high, color=style.RUST, alpha=0.22, linewidth=0)

    def lines(self, title: str, xlabel: str, ylabel: str, of: dict[str, dict[float, float]], published: tuple[float, float] | None) -> Axes:
        """A panel of lines, with a band of what was published."""
        axes = next(self.panels)
        style.dress(axes, title, xlabel, ylabel)
        for color, (name, points) in zip(style.SERIES, of.items(), strict=False):
            axes.plot(list(points), list(points.values()), color=color, marker="o", markersize=4, label=name)
        if published is not None:
            self.band(axes, published)
        if len(of) > 1:
            axes.legend(fontsize=8, loc="best", framealpha=0.8, edgecolor="none")
        return axes


def cohorts(effects: Effects) -> None:
    """A burst on a pipeline is one cohort: the stages work one after the other."""
    found = dict(figures.cohorts())
    rates = {name: found[f"burst_pp4_{key}_output_tokens_per_s"] for name, key in (("one cohort", "one_cohort"), ("four", "four_cohorts"))}
    gain = rates["four"] / rates["one cohort"] - 1.0
    effects.add(
        "pipeline: cohorts of a burst kept apart",
        "+22.95 % output tokens/s",
        "vLLM PR 57433",
        f"{100 * gain:+.0f} %",
        "Llama-3.1-70B, PP4 on H100, 256 prompts of 32 tokens at once; the cure is a token budget of a quarter of the "
        "burst. The gain grows with the share of the time that depends on the batch",
    )
    lone = rates["one cohort"] * 1.2295
    effects.bars("Burst on PP4: output tokens/s", rates, "tokens/s", (lone, lone))


def asynchronous(effects: Effects) -> None:
    """Asynchronous scheduling of a pipeline with one more batch in flight."""
    found = dict(figures.modes())
    values = {
        "throughput": found["pp4_async_over_sync_throughput"],
        "1 / TTFT": found["pp4_sync_ttft_p50_ms"] / found["pp4_async_ttft_p50_ms"],
    }
    effects.add(
        "pipeline: asynchronous scheduling",
        "1.24 x throughput, TTFT 2.34 x shorter",
        "vLLM PR 42187",
        f"{values['throughput']:.2f} x, {values['1 / TTFT']:.2f} x",
        "Llama-3.1-70B, PP4 on H100; prompts and outputs of 1024 tokens, 128 in flight as there, which came within 20 s",
    )
    effects.bars("PP4: asynchronous over synchronous", values, "ratio", (1.24, 1.24))


def balancing(effects: Effects) -> None:
    """The load balancer of experts."""
    found = dict(figures.balancing())
    exponents = (0.25, 0.5, 0.75, 1.0)
    gains = {
        name: {x: found[f"zipf_{x}_{key}_prefill_gain"] for x in exponents}
        for name, key in (("rearranged", "rearranged"), ("64 redundant experts", "64_redundant"))
    }
    effects.add(
        "EPLB on 8 ranks, prefills",
        "1.17 x by rearranging, 1.24 to 1.34 x with 64 redundant experts",
        "ATOM PR 1210",
        " / ".join(f"{gains['rearranged'][x]:.2f} and {gains['64 redundant experts'][x]:.2f} x" for x in (0.5, 0.75, 1.0)),
        "Qwen3-235B-A22B, EP8 on H200 (there MI355); Zipf exponents 0.5 / 0.75 / 1, as the popularity of the published run is not known",
    )
    effects.lines("EPLB: prefill speed-up on 8 ranks", "Zipf exponent of the popularity", "speed-up", gains, (1.17, 1.34))


def speculation(effects: Effects) -> None:
    """One draft of MTP."""
    found = dict(figures.speculation())
    speeds = {float(n): found[f"mtp_k1_accepted_at_0.875_batch_{n}_speedup"] for n in (1, 16, 256)}
    effects.add(
        "MTP, one draft accepted at 85 to 90 %",
        "1.8 x tokens/s",
        "DeepSeek-V3 technical report, 5.4.3",
        " / ".join(f"{x:.2f} x" for x in speeds.values()),
        "Llama-3.1-70B TP4 on H100, batches of 1 / 16 / 256: in large ones the rows of drafts cost time as well",
    )
    axes = effects.lines("MTP: speed-up by one draft", "requests in the batch", "speed-up", {"simulated": speeds}, (1.8, 1.8))
    axes.set_xscale("log")
    axes.set_ylim(1.0)


DP8 = ("model=qwen3-235b-a22b", "cluster.data_parallel_size=8", "cluster.enable_expert_parallel=true", "cluster.router=least_loaded")


LENGTHS = ("workload.prompt.mean=2300", "workload.prompt.max=8000", "workload.output.mean=250", "workload.num_requests=4000")


def simulated(*options: str) -> Result:
    """The result of a run of eight data-parallel and expert-parallel ranks, with options on top."""
    return simjax.run(simjax.compose([*DP8, "scheduler.enable_prefix_caching=false", *options])).result


def summary_of(result: Result) -> dict[str, float]:
    """Latencies in milliseconds, and output tokens a second."""
    metrics: dict[str, Any] = simjax.summarize(result)
    found = {
        f"{name} {key}": 1e3 * metrics[f"{name.lower()}_s"][key.lower()]
        for name in ("ITL", "TPOT", "TTFT")
        for key in ("mean", "P50", "P99")
    }
    return found | {"tokens/s": metrics["throughput"]["output_tokens_per_s"]}


def cadence(effects: Effects) -> None:
    """Prompts only in every N-th step of all ranks: the decodes between them are not held up."""
    load = ("device=gb200", "backend=vllm-0.33", "workload.rate=24", *LENGTHS)
    found: dict[float, dict[str, float]] = {}
    for interval in (1, 2, 4):
        summary = summary_of(simulated(*load, f"scheduler.prefill_schedule_interval={interval}"))
        found[interval] = summary
        words = " ".join(f"{name} {value:.4g}" for name, value in summary.items())
        print(f"cadence_{interval}\t{words}", flush=True)
    one, two = found[1], found[2]
    effects.add(
        "DP8: prefill cadence 2 instead of 1",
        "P50 ITL 274.9 to 32.1 ms, mean TPOT 240 to 140, mean TTFT 813 to 502, throughput flat",
        "vLLM PR 44558",
        f"P50 ITL {one['ITL P50']:.0f} to {two['ITL P50']:.0f} ms, mean TPOT {one['TPOT mean']:.0f} to {two['TPOT mean']:.0f}, "
        f"mean TTFT {one['TTFT mean']:.0f} to {two['TTFT mean']:.0f}, throughput {100 * (two['tokens/s'] / one['tokens/s'] - 1):+.1f} %",
        "Qwen3-235B-A22B (there DeepSeek-R1 FP4), DP8 EP8 on GB200, 24 requests/s as there; lengths are not published: 2300 and 250 "
        "tokens here, at which steps with prompts take about as long as there",
    )
    names = ("ITL P50", "TPOT mean", "TTFT mean")
    series = {name: {interval: values[name] for interval, values in found.items()} for name in names}
    axes = effects.lines("Prefill cadence on DP8 (published: ITL P50 at 2)", "prefill_schedule_interval", "ms", series, (32.1, 32.1))
    axes.set_yscale("log")
    axes.set_xticks([1, 2, 4])


CHUNKS = (0, 64, 256, 440, 456, 1024, 2048, 4096, 8128)
SLOTS, DECODES, CONTEXT = 80, 64, 1000


def step_s(model: StepTimeRow, chunks: list[int]) -> float:
    """Seconds of a step of ranks with 64 decodes each and a chunk of so many prompt tokens."""
    whole: GroupStep | None = None
    for chunk in chunks:
        new, computed = np.zeros(SLOTS, np.int32), np.zeros(SLOTS, np.int32)
        new[:DECODES], computed[:DECODES], new[DECODES] = 1, CONTEXT, chunk
        one = rank_step(model, jnp.asarray(new), jnp.asarray(computed))
        whole = one if whole is None else merged(whole, one)
    assert whole is not None
    return float(group_steps(model, whole).first_s)


def one_prefills(effects: Effects) -> None:
    """One rank of eight has a prompt in its step: all wait for it, and beyond 512 tokens none has a CUDA graph."""
    spec = InstanceSpec(load_model("qwen3-235b-a22b"), load_device("gb200"), Parallelism(1, data=8, expert=8))
    with jax.enable_x64(True):
        model = row(cluster_timing((spec,), LatencySource()).step_time, 0)
        steps = {float(chunk): 1e3 * step_s(model, [chunk, *[0] * 7]) for chunk in CHUNKS}
        all_s = 1e3 * step_s(model, [2048] * 8)
    effects.add(
        "DP8: one rank's prompt in the step of all",
        "the step of all ranks takes as long as the one's; steps with prompts 274.9 ms, others 32.1 (P50 ITL)",
        "vLLM v1/worker/gpu/dp_utils.py; PR 44558",
        f"{steps[0.0]:.0f} ms without, {steps[2048.0]:.0f} with 2048 tokens on one rank, {steps[8128.0]:.0f} with 8128, "
        f"{all_s:.0f} with 2048 on all",
        "Qwen3-235B-A22B, DP8 EP8 on GB200, 64 decodes of 1000 tokens on each rank",
    )
    effects.lines("DP8: step of all ranks, one of which has a prompt", "prompt tokens of the one rank", "ms", {"step": steps}, None)


def dummies(effects: Effects) -> None:
    """A group goes on without requests until its ranks ask each other."""
    fixed = [f"workload.{name}.{key}" for name, tokens in (("prompt", 64), ("output", 3)) for key in ("dist=fixed", f"tokens={tokens}")]
    lone = ("device=h200", "workload.num_requests=1", *fixed)
    found = {}
    for release in ("vllm-0.28", "vllm-0.33"):
        totals = simulated(*lone, f"backend={release}").instances
        found[release] = (float(totals.dummy_steps[0]) + 3.0) / 8.0  # three steps of the one rank that has the request
    shares = {}
    for rate in (0.1, 0.3, 1.0, 3.0, 10.0):
        result = simulated(
            "device=h200", f"workload.rate={rate}", f"workload.num_requests={max(300, round(100 * rate))}", "workload.prompt.mean=500"
        )
        shares[rate] = 100.0 * simjax.summarize(result)["lockstep"]["dummy_fraction"]
    effects.add(
        "DP8: steps of a group for a request of three tokens",
        "32 up to 0.28, 16 from 0.33 on: the ranks ask each other only then whether any has requests",
        "vLLM v1/engine/core.py, _has_global_unfinished_reqs",
        " and ".join(f"{steps:g} ({release})" for release, steps in found.items())
        + f"; dummies take {shares[0.1]:.0f} % of the ranks' time at 0.1 requests/s, {shares[1.0]:.0f} % at 1, {shares[10.0]:.0f} % at 10",
        "Qwen3-235B-A22B, DP8 EP8 on H200; prompts of 500 tokens and outputs of 650 for the shares",
    )
    axes = effects.lines("DP8: dummies of ranks without requests", "requests/s", "% of the ranks' time", {"dummies": shares}, None)
    axes.set_xscale("log")


PARTS: tuple[Callable[[Effects], None], ...] = (cohorts, asynchronous, balancing, speculation, cadence, one_prefills, dummies)


def main() -> None:
    """Simulate everything, and write the table and the figure."""
    rows = -(-len(PARTS) // 2)
    figure = style.new_figure(9.6, 3.1 * rows, "Published effects, simulated; what was published in red")
    panels: Any = figure.subplots(rows, 2)
    effects = Effects(list(np.ravel(panels)))
    for part in PARTS:
        part(effects)
    for axes in effects.panels:
        axes.set_axis_off()
    pd.DataFrame([vars(effect) for effect in effects.found]).to_csv(HERE / "effects.csv", index=False)
    style.save(figure, HERE / "effects.png")


if __name__ == "__main__":
    main()
