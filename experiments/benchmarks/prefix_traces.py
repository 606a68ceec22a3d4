"""Whole traces with shared prefixes: the Mooncake conversation hour on eight instances, and the agentic sessions; time and memory.

Each runs in a process of its own: compilation, then the run (`run_s`, the best of the repetitions; target: at most 20 s), and the peak
memory of the process. Llama-3.1-8B on H100s with as many KV blocks as vLLM would allocate. Writes results/prefix_traces.tsv.

usage: python prefix_traces.py [--repeats N]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import common
import numpy as np
from prefix import limited

from simjax.engine.simulate import simulate


@dataclass(frozen=True)
class Case:
    """A trace on a cluster.

    Attributes:
        path: path of the trace under the data folder.
        instances, router: number of instances and router of the cluster.
        max_model_len: vLLM's limit, long enough for the longest request.
        num_gpu_blocks: KV blocks of an instance; None: as many as fit.
    """

    path: str
    instances: int
    router: str
    max_model_len: int = 131_072
    num_gpu_blocks: int | None = None


CASES = {
    "Mooncake conversation, longest_prefix": Case("traces/mooncake/conversation_trace.jsonl", 8, "longest_prefix"),
    "Mooncake conversation, weighted": Case("traces/mooncake/conversation_trace.jsonl", 8, "weighted"),
    "kv-cache-tester": Case("traces/kvcache_tester/traces", 4, "longest_prefix", 2**20, 70_000),
    "Claude Code, 50 sessions": Case("traces/derived/claude_code_50sess_sps0.2.llmservingsim_agentic.jsonl", 4, "longest_prefix"),
    "SWE-bench, 46 sessions": Case("traces/derived/swebench_claude_code_46sess_sps0.2.llmservingsim_agentic.jsonl", 4, "longest_prefix"),
}


def measure(name: str, repeats: int) -> dict[str, Any]:
    case = CASES[name]
    workload = common.trace(case.path)
    cluster = limited(
        common.h100_cluster(case.instances, case.router), max_model_len=case.max_model_len, num_gpu_blocks_override=case.num_gpu_blocks
    )
    low = common.lowered(cluster, workload, log=False)
    results = [simulate(low.shape, low.params) for _ in range(repeats + 1)]
    last = results[-1]
    return {
        "what": name,
        "requests": len(workload),
        "sessions": None if workload.sessions is None else len(np.unique(workload.sessions.session)),
        "nodes": low.shape.prefix_nodes,
        "path": low.shape.prefix_path,
        "instances": case.instances,
        "kv_num_blocks": int(last.instances.num_blocks[0]),
        "status": last.status.name.lower(),
        "cached_fraction": float(last.requests.cached_tokens.sum() / last.requests.prompt_tokens.sum()),
        "evicted_blocks": int(last.instances.evicted_blocks.sum()),
        "steps": last.steps,
        "ticks": last.ticks,
        "compile_s": results[0].compile_s,
        "run_s": min(result.run_s for result in results),
        "us_per_tick": min(result.run_s for result in results) * 1e6 / last.ticks,
        "rss_peak_mib": common.peak_rss_mib(),
    }


def main() -> None:
    parser = common.arguments(__doc__, 2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.repeats)))
        return
    about = common.facts()
    common.write_table("prefix_traces", [common.in_process(__file__, name, options) for name in CASES], about)


if __name__ == "__main__":
    main()
