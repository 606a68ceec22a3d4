"""Figure 5 of LLMServingSim 2.0: a prefill and a decode instance on two RTX A6000, generation throughput of a measured vLLM run.

300 ShareGPT requests at 10/s, Llama-3.1-8B, eager mode; nothing is fitted to the run. Prints `figure<TAB>value`; writes
results/figure5.tsv, a row for each source of step times, and figure5.png. The file of the cluster is read unchanged, with the hand-over
of production (NIXL).

Step times: `tables` are the kernel tables of the artifact as they are. Their decode attention reads the keys and values once for each of
the four query heads that share them, which the kernels of that vLLM do not: `tables, attention estimated` takes attention from the shipped
profile (data-sheet numbers and typical efficiencies) and all else from the tables; `shipped profile` takes all from it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from cases import DATA, HERE, Row, write
from first_tables import write_bundle

from simjax.cluster.llmservingsim import read_cluster
from simjax.cluster.spec import InstanceLimits
from simjax.config.compose import compose_config, typed
from simjax.engine.host.result import Result
from simjax.job import run
from simjax.metrics.timeseries import timeline
from simjax.plot.overlay import MEASURED
from simjax.plot.style import BLUE, GOLD, GREEN, dress, new_figure

FIGURE = DATA / "ispass26" / "figure_5" / "A6000"
CLUSTER, CURVE = FIGURE / "PDD_config.json", FIGURE / "PDD_throughput.tsv"
TRACE = DATA / "ispass26" / "datasets" / "sharegpt_req300_rate10_llama.jsonl"
KERNELS = DATA / "ispass26" / "profiles" / "A6000" / "meta-llama" / "Llama-3.1-8B" / "tp1"
FLAGS = ("max_num_seqs=128", "max_num_batched_tokens=2048", "async_scheduling=false", "enforce_eager=true")
BEST, DECODE = "tables, attention estimated", 1


@dataclass(frozen=True)
class Measured:
    """The measured curve: tokens of each second, float64[S]; entry t ends at t seconds on the log's clock."""

    tokens: np.ndarray

    @staticmethod
    def read() -> Measured:
        return Measured(pd.read_csv(CURVE, sep="\t")["throughput"].to_numpy(float))

    @property
    def makespan_s(self) -> float:
        """End of the last request: the last second with tokens, of which one request at the rate of the second before has this part."""
        last = int(np.flatnonzero(self.tokens)[-1])
        return last - 1 + min(1.0, self.tokens[last] / self.tokens[last - 1])


def simulated(options: list[str]) -> Result:
    """The run with step times as `options` say."""
    given = [f"cluster.file={CLUSTER}", "workload=trace", f"workload.file={TRACE}", *(f"scheduler.{flag}" for flag in FLAGS), *options]
    return run(typed(compose_config("run", given))).result


def tokens_per_second(result: Result, seconds: int) -> np.ndarray:
    """Tokens that the decode instance makes in each of the first seconds, float64[seconds + 1], on the clock of `Measured`."""
    frame = timeline(result, 1.0, most_bins=10 * seconds)
    made = frame[frame.instance == DECODE].output_tokens_per_s.to_numpy()
    return np.pad(np.append(0.0, made), (0, max(0, seconds - len(made))))[: seconds + 1]


def sources() -> Iterator[tuple[str, list[str]]]:
    """The sources of step times, by name, as options."""
    (deployment, _) = (one.deployment for one in read_cluster(CLUSTER, InstanceLimits()).instances)
    for name, estimated in ((BEST, deployment), ("tables", None)):
        with tempfile.TemporaryDirectory() as root:
            write_bundle(KERNELS, Path(root), "A6000", "meta-llama/Llama-3.1-8B", estimated)
            yield name, [f"profile.bundle_root={root}"]
    yield "shipped profile", []


def compared(name: str, result: Result, measured: Measured) -> Row:
    """The errors of a simulation in percent, and the transfer's share of the time to first token."""
    requests, handovers = result.requests, result.handovers
    assert handovers is not None
    curve = tokens_per_second(result, len(measured.tokens) - 1)
    ttft_s = requests.first_token_s - requests.arrival_s
    several = requests.output_tokens > 1
    tpot_s = (requests.finish_s - requests.first_token_s)[several] / (requests.output_tokens[several] - 1)
    makespan_s = float(requests.finish_s.max() - requests.arrival_s.min())
    return {
        "step times": name,
        "makespan, s": makespan_s,
        "measured, s": measured.makespan_s,
        "makespan, %": 100.0 * (makespan_s / measured.makespan_s - 1.0),
        "throughput, WAPE, %": 100.0 * float(np.abs(curve - measured.tokens).sum() / measured.tokens.sum()),
        "TTFT, ms": 1e3 * float(ttft_s.mean()),
        "TPOT, ms": 1e3 * float(tpot_s.mean()),
        "transfer, ms": 1e3 * float((handovers.transfer_end_s - handovers.transfer_start_s).mean()),
        "transfer, % of TTFT": 100.0 * float((handovers.transfer_end_s - handovers.transfer_start_s).mean() / ttft_s.mean()),
    }


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


def main() -> None:
    measured = Measured.read()
    results = {name: simulated(options) for name, options in sources()}
    rows = {name: compared(name, result, measured) for name, result in results.items()}
    write("figure5", list(rows.values()))
    draw(measured, {name: tokens_per_second(result, len(measured.tokens) - 1) for name, result in results.items()})
    for figure, column in (
        ("makespan_error", "makespan, %"),
        ("wape", "throughput, WAPE, %"),
        ("transfer_share_of_ttft", "transfer, % of TTFT"),
    ):
        print(f"figure5_pdd_{figure}_pct\t{rows[BEST][column]:.3f}")


if __name__ == "__main__":
    main()
