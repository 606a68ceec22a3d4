"""Figure 5 of LLMServingSim 2.0: a prefill and a decode instance on two RTX A6000, generation throughput of a measured vLLM run.

300 ShareGPT requests at 10/s, Llama-3.1-8B, eager mode; nothing is fitted to the run. Prints `figure<TAB>value`; writes
results/figure5.tsv, a row for each source of step times, results/figure5_causes.tsv, what each part of the best one does, and figure5.png.
The file of the cluster is read unchanged, with the hand-over of production (NIXL), and the requests arrive as the artifact's client sends
them (`a6000.as_sent`).

Step times: `tables` are the kernel tables of the artifact as they are. Two parts of them are not the kernels of that vLLM
(`first_tables.PARTS`); the other rows take one or both from the shipped profile (data-sheet numbers and typical efficiencies), which
`shipped profile` does for everything. Tables of kernels say nothing of the host: `host` is what it adds to a decode step in vLLM's logs of
two other runs on that GPU, those of figures 6 and 7, each of them counted the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from a6000 import ARTIFACT, LOGGED, LoggedRun, host_s, replayed
from cases import HERE, Row, write
from first_tables import PARTS, write_bundle

from simjax.cluster.configured.llmservingsim import read_cluster
from simjax.cluster.instance import InstanceLimits
from simjax.cluster.latency_source import LatencySource
from simjax.engine.host.result import Result
from simjax.metrics.steps import expand_steps
from simjax.plot.overlay import MEASURED
from simjax.plot.style import BLUE, GOLD, GREEN, dress, new_figure

CLUSTER, CURVE = (ARTIFACT / "figure_5" / "A6000" / name for name in ("PDD_config.json", "PDD_throughput.tsv"))
TRACE = ARTIFACT / "datasets" / "sharegpt_req300_rate10_llama.jsonl"
NAMES = "A6000", "meta-llama/Llama-3.1-8B"
KERNELS = ARTIFACT / "profiles" / NAMES[0] / NAMES[1] / "tp1"
DECODE = 1
A100_SHARE = 0.71 / 0.82  # of the memory's bandwidth that decode attention reaches: HBM over GDDR6, in the shipped profiles
SPANS = {"to 3 s": slice(0, 4), "4 to 10 s": slice(4, 11), "11 to 30 s": slice(11, 31), "from 31 s": slice(31, None)}
OFFSETS_S = np.arange(-0.8, 0.11, 0.05)  # of the log's clock: its first line with tokens is at 1 s, its lines are 1 s apart
STEP_S = 0.037  # a step of 100 sequences


@dataclass(frozen=True)
class Measured:
    """The measured curve: tokens of each second, float64[S]; entry t ends at t seconds on the log's clock."""

    tokens: np.ndarray

    @staticmethod
    def read(curve: Path = CURVE) -> Measured:
        return Measured(pd.read_csv(curve, sep="\t")["throughput"].to_numpy(float))

    @property
    def makespan_s(self) -> float:
        """End of the last request: the last second with tokens, of which one request at the rate of the second before has this part."""
        last = int(np.flatnonzero(self.tokens)[-1])
        return last - 1 + min(1.0, self.tokens[last] / self.tokens[last - 1])


@dataclass(frozen=True)
class Source:
    """A source of step times, on top of the artifact's tables.

    Attributes:
        name: for tables and figures.
        estimated: parts that the shipped profile gives instead.
        host: the logs that tell the host's time, none for no such time.
        attention: factor on the profile's bandwidth of decode attention.
        tables: False for the shipped profile alone.
    """

    name: str
    estimated: tuple[str, ...] = ()
    host: tuple[LoggedRun, ...] = ()
    attention: float = 1.0
    tables: bool = True


BEST = Source("matrices of the tables, host", estimated=tuple(PARTS), host=LOGGED)
SOURCES = (
    BEST,
    Source("matrices of the tables", estimated=tuple(PARTS)),
    Source("tables, attention estimated", estimated=("attention",)),
    Source("tables"),
    Source("shipped profile", tables=False),
)
CHANGES = {
    "norms etc. as in the tables": replace(BEST, estimated=("attention",)),
    "attention at an A100's share": replace(BEST, attention=A100_SHARE),
    "host of figure 6 alone": replace(BEST, host=LOGGED[:1]),
    "host of figure 7 alone": replace(BEST, host=LOGGED[1:]),
    "no host time": replace(BEST, host=()),
}


@dataclass(frozen=True)
class Simulated:
    """A simulation and the host's time in it, in seconds."""

    result: Result
    host_s: float


@contextmanager
def step_times(source: Source) -> Iterator[list[str]]:
    """Options for the kernels of a source, whose tables are there meanwhile."""
    with tempfile.TemporaryDirectory() as root:
        if source.tables:
            (deployment, _) = (one.deployment for one in read_cluster(CLUSTER, InstanceLimits()).instances)
            profile = LatencySource(parameters=(("decode_attention", source.attention),))
            write_bundle(KERNELS, Path(root), NAMES, source.estimated, deployment, profile)
        yield [f"profile.bundle_root={root}"] if source.tables else []


@cache
def host_in_log_s(kernels: Source, run: LoggedRun) -> float:
    """What the host adds to the kernels of a source (without host) in a log, in seconds."""
    with step_times(kernels) as options:
        return host_s(options, run)


def simulated(source: Source, sent: bool = True) -> Simulated:
    """The run with step times of a source; `sent`: with the arrivals that its client made of the trace."""
    times_s = [host_in_log_s(replace(source, name="", host=()), run) for run in source.host]
    mean_s = float(np.mean(times_s)) if times_s else 0.0
    with step_times(source) as options:
        host = [f"profile.step_s={mean_s}"] if source.host else []
        return Simulated(replayed([f"cluster.file={CLUSTER}", *options, *host], TRACE, sent=sent), mean_s)


def tokens_per_second(result: Result, seconds: int, offset_s: float = 0.0, instance: int = DECODE) -> np.ndarray:
    """Tokens that an instance makes in each of the first seconds, float64[seconds + 1], on the clock of `Measured`.

    offset_s: time of the simulation at which the log's clock is 0.
    """
    assert result.leaps is not None
    steps = expand_steps(result.leaps)
    here = result.leaps.instance[steps.leap] == instance
    edges = np.arange(-1.0, seconds + 1.0) + offset_s
    return np.histogram(steps.end_s[here], edges, weights=steps.outputs[here])[0].astype(float)


def wape(curve: np.ndarray, measured: np.ndarray, span: slice = slice(None)) -> float:
    """Summed absolute errors within a span over all tokens measured, in percent."""
    return 100.0 * float(np.abs(curve - measured)[span].sum() / measured.sum())


def makespan_s(result: Result) -> float:
    return float(result.requests.finish_s.max() - result.requests.arrival_s.min())


def compared(name: str, run: Simulated, measured: Measured) -> Row:
    """The errors of a simulation in percent, and the transfer's share of the time to first token."""
    requests, handovers = run.result.requests, run.result.handovers
    assert handovers is not None
    curve = tokens_per_second(run.result, len(measured.tokens) - 1)
    ttft_s = requests.first_token_s - requests.arrival_s
    several = requests.output_tokens > 1
    tpot_s = (requests.finish_s - requests.first_token_s)[several] / (requests.output_tokens[several] - 1)
    transfer_s = float((handovers.transfer_end_s - handovers.transfer_start_s).mean())
    return {
        "step times": name,
        "host, ms": 1e3 * run.host_s,
        "makespan, s": makespan_s(run.result),
        "measured, s": measured.makespan_s,
        "makespan, %": 100.0 * (makespan_s(run.result) / measured.makespan_s - 1.0),
        "throughput, WAPE, %": wape(curve, measured.tokens),
        "TTFT, ms": 1e3 * float(ttft_s.mean()),
        "TPOT, ms": 1e3 * float(tpot_s.mean()),
        "transfer, ms": 1e3 * transfer_s,
        "transfer, % of TTFT": 100.0 * transfer_s / float(ttft_s.mean()),
    }


def whole_steps_wape(result: Result, seconds: int) -> float:
    """WAPE in percent of a simulation against itself, counted by clocks that are parts of a step apart: the mean over such pairs."""
    curves = [tokens_per_second(result, seconds, at) for at in np.linspace(0.0, STEP_S, 10)]
    return float(np.mean([wape(one, other) for one in curves for other in curves]))


def causes(best: Simulated, measured: Measured) -> list[Row]:
    """What the best simulation owes to each of its parts, and which seconds the error is from: WAPE in percent and its parts in points."""
    seconds = len(measured.tokens) - 1

    def cause(name: str, run: Simulated, offset_s: float = 0.0) -> Row:
        curve = tokens_per_second(run.result, seconds, offset_s)
        parts = {f"{name}, points": wape(curve, measured.tokens, span) for name, span in SPANS.items()}
        off = 100.0 * (makespan_s(run.result) / measured.makespan_s - 1.0)
        return {"change": name, "host, ms": 1e3 * run.host_s, "makespan, %": off, "WAPE, %": wape(curve, measured.tokens), **parts}

    offset_s = min(OFFSETS_S.tolist(), key=lambda at: wape(tokens_per_second(best.result, seconds, at), measured.tokens))
    rows = [cause("none", best), cause("arrivals of the trace", simulated(BEST, sent=False))]
    rows += [cause(name, simulated(source)) for name, source in CHANGES.items()]
    rows += [cause(f"log's clock at {offset_s:.2f} s", best, offset_s)]
    alike = {"change": "against itself, part of a step later", "WAPE, %": whole_steps_wape(best.result, seconds)}
    return [*rows, dict.fromkeys(rows[0], "") | alike]


def draw(measured: Measured, curves: dict[str, np.ndarray]) -> None:
    """Draw the measured and the simulated throughput, with the errors below."""
    figure = new_figure(8.0, 5.2, "Llama-3.1-8B, prefill and decode on one RTX A6000 each, 300 requests at 10/s")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1.0))
    dress(above, "generation throughput", "", "tokens/s")
    dress(below, "simulated - measured", "time, s", "tokens/s")
    below.axhline(0.0, color="#9a9a9a", linewidth=0.8)
    at = np.arange(len(measured.tokens))
    above.plot(at, measured.tokens, "o", color=MEASURED, markersize=3.0, markeredgewidth=0.0, label="measured", zorder=3)
    for (name, curve), colour in zip(curves.items(), (BLUE, GOLD, GREEN), strict=True):
        above.plot(at, curve, color=colour, linewidth=1.3, label=name)
        below.plot(at, curve - measured.tokens, color=colour, linewidth=1.3)
    above.set_ylim(bottom=0.0)
    figure.align_ylabels()
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(HERE / "figure5.png", dpi=110)


def figures(row: Row | None = None) -> dict[str, float]:
    """The figures of a row of `compared`, by default that of the best source of step times."""
    row = row or compared(BEST.name, simulated(BEST), Measured.read())
    columns = {"makespan_error": "makespan, %", "wape": "throughput, WAPE, %", "transfer_share_of_ttft": "transfer, % of TTFT"}
    return {f"figure5_pdd_{name}_pct": float(row[column]) for name, column in columns.items()}


def main() -> None:
    measured = Measured.read()
    runs = {source: simulated(source) for source in SOURCES}
    rows = {source: compared(source.name, run, measured) for source, run in runs.items()}
    write("figure5", list(rows.values()))
    print()
    write("figure5_causes", causes(runs[BEST], measured))
    drawn = (source for source in SOURCES if source.host or not source.estimated)
    draw(measured, {source.name: tokens_per_second(runs[source].result, len(measured.tokens) - 1) for source in drawn})
    print()
    for figure, value in figures(rows[BEST]).items():
        print(f"{figure}\t{value:.3f}")


if __name__ == "__main__":
    main()
