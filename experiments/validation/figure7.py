"""Figure 7 of LLMServingSim 2.0: KV occupancy and prefix hits of a measured vLLM run, with nothing but a clock offset fitted to it.

Writes results/figure7.tsv, with a row for each simulation and clock offset; results/figure7_steps.tsv, decode steps of the measured log
next to simulated ones; figure7.png. The run: 300 ShareGPT requests in six pulses, Llama-3.1-8B on an RTX A6000, vLLM 0.13 in eager mode
with synchronous scheduling; the shipped profile of that GPU consists of data-sheet numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from a6000 import ALONE, ARTIFACT, LOGGED, replayed, simulated_steps, steady_steps
from cases import HERE, Row, write

from simjax.engine.host.result import Result
from simjax.plot.overlay import MEASURED
from simjax.plot.style import BLUE, GOLD, GREEN, dress, new_figure

FIGURE, RUN = ARTIFACT / "figure_7", LOGGED[1]
PULSE, BLOCK_SIZE = 50, 16  # requests, tokens
NUM_BLOCKS = 13844  # 221,504 tokens in the server's log; one of them is the null block, which is never used
SHIFTS_S = (-0.3, -0.1, 0.0, 0.1, 0.3)
COUNTERS = ("prefix_cache_queries_total", "prefix_cache_hits_total")


@dataclass(frozen=True)
class Log:
    """The measured run, sampled about once a second; arrays over the S samples.

    Attributes:
        t_s: float64[S], on the log's own clock, from its first sample.
        blocks: float64[S], KV usage times usable blocks.
        queried, hit: float64[S], prompt tokens looked up in the prefix cache so far, and those found.
        scored: bool[S], samples from the first query to the last change of usage; those before and after are trivially right.
    """

    t_s: np.ndarray
    blocks: np.ndarray
    queried: np.ndarray
    hit: np.ndarray

    @property
    def scored(self) -> np.ndarray:
        return (self.queried > 0) & (np.arange(len(self.t_s)) <= np.flatnonzero(np.diff(self.blocks) > 0)[-1] + 1)

    @property
    def hit_percent(self) -> np.ndarray:
        return 100.0 * self.hit / np.maximum(self.queried, 1.0)


@dataclass(frozen=True)
class Simulated:
    """Log that vLLM would have written at the end of every step of a simulation without leaps.

    vLLM adds a request's prompt and hit tokens to its counters in the step that admits it, and makes the statistics of a step at its end,
    after it has freed the requests that end there.

    KV usage of this server counts blocks that a request holds or that have a hash, by which full blocks are found again. So it does not
    fall when a request ends, except by its last block if that is partial, since such a block never had a hash. simjax logs all blocks that
    have ever been in use (`kv_blocks + cached_blocks`): free blocks are only distinguished at an eviction, which never happens here. So the
    partial blocks of finished requests are subtracted, one for each request whose computed tokens, which are all but the last output
    token, do not fill their last block.
    """

    result: Result

    @cached_property
    def end_s(self) -> np.ndarray:
        leaps = self.result.leaps
        assert leaps is not None and (leaps.steps == 1).all()
        return leaps.start_s + leaps.first_step_s

    @cached_property
    def blocks(self) -> np.ndarray:
        leaps, requests = self.result.leaps, self.result.requests
        assert leaps is not None and not self.result.instances.evicted_blocks.any()
        partial = (requests.prompt_tokens + requests.output_tokens - 1) % BLOCK_SIZE > 0
        # the client has the last token a few milliseconds after its step
        last = np.searchsorted(self.end_s, requests.finish_s[partial], side="right") - 1
        freed = np.cumsum(np.bincount(last, minlength=len(self.end_s)))
        return leaps.kv_blocks.astype(np.int64) + leaps.cached_blocks - freed

    @cached_property
    def admitted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Time at which the counters first show each request, f64[R]; queried and hit tokens before it and after, int64[R+1] each."""
        requests, leaps = self.result.requests, self.result.leaps
        assert leaps is not None
        shown_s = self.end_s[np.searchsorted(leaps.start_s, requests.scheduled_s - 1e-9)]
        order = np.argsort(shown_s, kind="stable")
        queried, hit = (np.append(0, np.cumsum(x[order], dtype=np.int64)) for x in (requests.prompt_tokens, requests.cached_tokens))
        return shown_s[order], queried, hit

    def at(self, t_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hit rate in percent and KV blocks as last logged before given times on the simulation's clock, float64[S] both."""
        shown_s, queried, hit = self.admitted
        count, step = np.searchsorted(shown_s, t_s, side="right"), np.searchsorted(self.end_s, t_s, side="right")
        return 100.0 * hit[count] / np.maximum(queried[count], 1), np.append(0, self.blocks)[step]

    def offset_s(self, log: Log) -> float:
        """The one free parameter: the seconds to subtract from the log's clock to get the simulation's, to 0.01 s.

        Minimises the difference of the counts of admitted requests, summed over the samples; KV usage and hits are not used. Requests are
        admitted in the order of the trace, so their number follows from the log's queried tokens.
        """
        admitted = np.searchsorted(np.cumsum(self.result.requests.prompt_tokens), log.queried, side="right")
        offsets = np.arange(9.0, 14.0, 0.01)
        off = np.array([np.abs(np.searchsorted(self.admitted[0], log.t_s - x, side="right") - admitted).sum() for x in offsets])
        return float(np.median(offsets[off == off.min()]))


@dataclass(frozen=True)
class Peer:
    """LLMServingSim's output as its authors drew it, float64[S], one sample per second; interpolated linearly, in its favour."""

    time_s: np.ndarray
    hit_percent: np.ndarray
    blocks: np.ndarray

    def at(self, t_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.interp(t_s, self.time_s, self.hit_percent), np.interp(t_s, self.time_s, self.blocks)

    def offset_s(self, log: Log) -> float:
        """The row of LLMServingSim at the offset that is best for its hit rate, since it has no counts of requests."""
        return min(np.arange(9.0, 14.0, 0.01).tolist(), key=lambda offset_s: errors(log, self, offset_s)["hit rate, MAE, points"])


def read_log() -> Log:
    frame = pd.read_csv(FIGURE / "raw_SD+PC" / "kv_metrics_sd.csv", parse_dates=["timestamp"])
    usage, queried, hit = (frame[f"vllm:{x}"].to_numpy(float) for x in ("kv_cache_usage_perc", *COUNTERS))
    return Log((frame["timestamp"] - frame["timestamp"][0]).dt.total_seconds().to_numpy(), usage * (NUM_BLOCKS - 1), queried, hit)


def read_peer() -> Peer:
    """KV blocks of LLMServingSim, whose memory holds the weights, 15348.51 MiB, and blocks of 2 MiB."""
    frame = pd.read_csv(FIGURE / "peer_parsed" / "SD+PC.tsv", sep="\t").astype(float)
    return Peer(frame["time_s"].to_numpy(), frame["prefix_hit_pct"].to_numpy(), (frame["gpu_mem_mb"].to_numpy() - 15348.51) / 2.0)


def simulated(sent: bool) -> Simulated:
    """The run as configured, with the arrivals of the trace or as its client sent them."""
    return Simulated(replayed([*ALONE, f"scheduler.num_gpu_blocks_override={NUM_BLOCKS}"], RUN.trace, leap=False, sent=sent))


def errors(log: Log, curves: Simulated | Peer, offset_s: float) -> dict[str, float]:
    """Mean absolute error of the hit rate; sums of absolute and of signed KV errors over the sum of the measured values."""
    scored = log.scored
    hit, blocks = curves.at(log.t_s[scored] - offset_s)
    off, percent = blocks - log.blocks[scored], 100.0 / log.blocks[scored].sum()
    return {
        "hit rate, MAE, points": float(np.abs(hit - log.hit_percent[scored]).mean()),
        "KV, WAPE, %": percent * float(np.abs(off).sum()),
        "KV, bias, %": percent * float(off.sum()),
    }


def rows(log: Log, name: str, curves: Simulated | Peer) -> list[Row]:
    """Errors at an offset and around it, and the counters at the end."""
    totals: Row = {"queried tokens": "", "hit tokens": "", "KV blocks": round(float(curves.blocks[-1]))}
    if isinstance(curves, Simulated):
        totals |= {"queried tokens": int(curves.admitted[1][-1]), "hit tokens": int(curves.admitted[2][-1])}
    offsets_s = [curves.offset_s(log) + by for by in SHIFTS_S]
    return [{"run": name, "offset, s": at, **totals, **errors(log, curves, at)} for at in offsets_s]


def step_times(run: Simulated) -> list[Row]:
    """Decode steps by number of sequences, measured and simulated."""
    sequences, seconds = steady_steps(pd.read_csv(RUN.log))
    ours_s, found = simulated_steps(run.result), []
    for count in np.unique(sequences).tolist():
        seen_s = seconds[sequences == count]
        means = {"measured, ms": 1e3 * float(seen_s.mean()), "simulated, ms": 1e3 * ours_s[count]}
        found.append({"sequences": str(count), "samples": len(seen_s), **means})
    return found


def draw(log: Log, runs: dict[str, Simulated | Peer]) -> None:
    """Draw hit rate and KV occupancy from the log's first query on, with the errors of the simulations below."""
    figure = new_figure(10.5, 5.4, "Llama-3.1-8B on an RTX A6000, 300 requests in six pulses: prefix cache and KV occupancy")
    panels = figure.subplots(2, 2, sharex=True, height_ratios=(2.0, 1.0))
    scored, usable = log.scored, 100.0 / (NUM_BLOCKS - 1)
    start_s, clock_s = log.t_s[scored][0], log.t_s[scored] - log.t_s[scored][0]
    fine_s = np.arange(0.0, clock_s[-1], 0.05)
    measured = (log.hit_percent[scored], log.blocks[scored] * usable)
    for column, (title, unit, off) in enumerate((("prefix hit rate", "%", "points"), ("KV occupancy", "% of blocks", "% of blocks"))):
        above, below = panels[0][column], panels[1][column]
        dress(above, title, "", unit)
        dress(below, "simulated - measured", "time since the first query in the log, s", off)
        below.axhline(0.0, color="#9a9a9a", linewidth=0.8)
        above.plot(clock_s, measured[column], "o", color=MEASURED, markersize=2.6, markeredgewidth=0.0, label="measured", zorder=3)
        for (name, curves), colour in zip(runs.items(), (BLUE, GREEN, GOLD), strict=True):
            # LLMServingSim's line is broad and pale, since ours covers it where both follow the trace
            look = {"linewidth": 2.4, "alpha": 0.6, "zorder": 2.0} if isinstance(curves, Peer) else {"linewidth": 1.2}
            begin_s = start_s - curves.offset_s(log)
            dense, at = curves.at(begin_s + fine_s)[column], curves.at(begin_s + clock_s)[column]
            scale = (1.0, usable)[column]
            above.plot(fine_s, dense * scale, color=colour, label=name, **look)
            below.plot(clock_s, at * scale - measured[column], color=colour, **look)
        above.set_ylim(bottom=0.0)
    figure.align_ylabels()
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(HERE / "figure7.png", dpi=110)


def main() -> None:
    log = read_log()
    sent = simulated(sent=True)
    runs = {"simjax, the trace": simulated(sent=False), "simjax, pulses as sent": sent, "LLMServingSim": read_peer()}
    table = [row for name, run in runs.items() for row in rows(log, name, run)]
    totals: Row = {"queried tokens": int(log.queried[-1]), "hit tokens": int(log.hit[-1]), "KV blocks": round(float(log.blocks[-1]))}
    write("figure7", [*table, {**dict.fromkeys(table[0], ""), "run": "measured", **totals}])
    print()
    write("figure7_steps", step_times(sent))
    draw(log, runs)


if __name__ == "__main__":
    main()
