"""Cache sizes and routers: 256 clusters that serve the same agentic sessions, and the Pareto front of P99 TTFT against GPUs.

50 sessions of Claude Code, or (without the data) conversations of the built-in workload, on 1, 2, 4 and 8 H100s, with 16 sizes of the KV
cache and 4 routers. Writes results/prefix_sweep.tsv (the front and the seconds) and prefix_sweep.png.

usage: python prefix_sweep.py
"""

from __future__ import annotations

import time
from typing import Any

import common

import simjax
from simjax.plot.pareto.front import plot_pareto

TRACE = "traces/derived/claude_code_50sess_sps0.2.llmservingsim_agentic.jsonl"
ROUTERS = ["round_robin", "least_loaded", "session_affinity", "longest_prefix"]
AXES: dict[str, Any] = {
    "cluster.instances": [1, 2, 4, 8],
    "cluster.router": ROUTERS,
    "scheduler.num_gpu_blocks_override": "linspace(8200,53200,16)",
}
KEYS = ["instances", "router", "num_gpu_blocks_override"]
SHOWN = [*KEYS, "gpus", "ttft_p99_s", "ttft_mean_s", "session_makespan_mean_s", "prefix_hit_fraction", "kv_evicted_blocks"]


def main() -> None:
    common.arguments(__doc__, 1).parse_args()
    about = common.facts()
    base = ["device=h100", "workload=trace", f"workload.file={common.data_path(TRACE)}", "scheduler.max_model_len=131072"]
    began = time.perf_counter()
    plan = simjax.SweepPlan.of(base, AXES)
    print(plan.describe(), flush=True)
    planned = time.perf_counter()
    table = simjax.run_sweep(plan)
    swept_s = time.perf_counter() - planned
    table = table.rename(columns={key: key.rpartition(".")[2] for key in plan.points.keys})
    assert (table["status"] == "finished").all()
    front = simjax.pareto(table, simjax.parse_objective(maximize=[], minimize=["gpus", "ttft_p99_s"]))
    plot_pareto(front, common.HERE / "prefix_sweep.png", KEYS, "50 Claude Code sessions, Llama-3.1-8B on H100")
    rows = common.records(front.rows()[SHOWN])
    about += f"; {len(table)} designs in {len(plan.groups)} programs, plan {planned - began:.1f} s, sweep with compilation {swept_s:.0f} s"
    common.write_table("prefix_sweep", rows, f"{about}, {common.peak_rss_mib():.0f} MiB at most")


if __name__ == "__main__":
    main()
