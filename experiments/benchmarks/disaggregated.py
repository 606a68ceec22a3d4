"""Prefill and decode instances beside as many that run both phases: ticks, and designs a second in a sweep as `simjax run -m` runs it.

300 requests with lengths of a chat, at a load that both clusters keep up with. Designs differ in the token budget of a step, those with
prefill and decode instances also in the time and the sharing of their transfers. Every sweep runs once to compile, then all of them in
turn: processor time, rows and their file included, of which the least counts; designs a second are those of all cores at that rate. Writes
results/disaggregated.tsv.

usage: python disaggregated.py [--repeats N] [--designs N] [--pairs N ...]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from simjax.engine.control.whole_loops import make_loops_whole

make_loops_whole()

import common  # noqa: E402
import numpy as np  # noqa: E402

import simjax  # noqa: E402
from simjax.explore.run import run_sweep  # noqa: E402

REQUESTS, RATE = 300, 12.0
PAIRS = (1, 2, 4)  # prefill instances, and as many decode instances


def plan(pairs: int, disaggregated: bool, count: int) -> Any:
    """The sweep of one kind of cluster."""
    words = [f"workload.num_requests={REQUESTS}", f"workload.rate={RATE:g}"]
    axes: dict[str, Any] = {"scheduler.max_num_batched_tokens": 8192 - np.arange(count)}
    if disaggregated:
        words += ["cluster=disaggregated", f"cluster.prefill.instances={pairs}", f"cluster.decode.instances={pairs}"]
        axes["disaggregation.setup_s"] = 2e-4 * (1 + np.arange(count) % 8)
        axes["disaggregation.sharing"] = [("fair", "fifo")[k % 2] for k in range(count)]
    else:
        words += [f"cluster.instances={2 * pairs}", "cluster.router=least_loaded"]
    return simjax.SweepPlan.of(words, zipped=[axes])


def swept(what: Any) -> tuple[float, float]:
    """Seconds of the processor that a sweep takes, and the mean of its runs' ticks."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        table = run_sweep(what, Path(folder) / "sweep")
        spent_s = time.process_time() - began
    if set(table["status"]) != {"finished"}:
        raise SystemExit("a design has not finished")
    return spent_s, float(np.asarray(table["ticks"]).mean())


def main() -> None:
    parser = common.arguments(__doc__, 2)
    parser.add_argument("--designs", type=int, default=1_000, help="designs of a sweep")
    parser.add_argument("--pairs", type=int, nargs="*", default=PAIRS, help="prefill instances, and as many decode instances")
    options = parser.parse_args()
    about = common.facts()
    plans = {(pairs, apart): plan(pairs, apart, options.designs) for pairs in options.pairs for apart in (False, True)}
    first = {kind: swept(what) for kind, what in plans.items()}
    turns = [{kind: swept(what)[0] for kind, what in plans.items()} for _ in range(options.repeats)]
    cpu_s = {kind: min(turn[kind] for turn in turns) / options.designs for kind in plans}
    rows = []
    for (pairs, apart), what in plans.items():
        kind, whole = (pairs, apart), (pairs, False)
        ticks = first[kind][1]
        rows.append(
            {
                "cluster": f"{pairs} prefill, {pairs} decode" if apart else f"{2 * pairs} instances",
                "slots": max(group.shape.slots for group in what.groups),
                "ticks": ticks,
                "more_ticks_per_request_and_leg": (ticks - first[whole][1]) / (2 * REQUESTS) if apart else None,
                "first_cpu_s": first[kind][0],
                "cpu_ms_per_design": 1e3 * cpu_s[kind],
                "cpu_us_per_tick": 1e6 * cpu_s[kind] / ticks,
                "designs_per_s": common.core_count() / cpu_s[kind],
                "x_aggregated": cpu_s[kind] / cpu_s[whole],
            }
        )
    common.write_table("disaggregated", rows, about)


if __name__ == "__main__":
    main()
