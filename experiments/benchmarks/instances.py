"""Clusters of 1, 2, 4 and 8 engines: ticks and time of the same requests, with a router that looks at the cluster and one that does not.

The load of an engine stays the same: the rate grows with the number of engines. Round robin splits the requests before the run, so that
the same can be had from as many simulations of one engine: `x_separate` is the time of the cluster over theirs, and the results must agree.
Writes results/instances.tsv.

usage: python instances.py [--repeats N] [--requests R] [--rate REQUESTS_PER_S_AND_ENGINE]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import common
import numpy as np

from simjax.engine.lower import request_params
from simjax.engine.simulate import simulate
from simjax.workload.workload import Workload

INSTANCES = (1, 2, 4, 8)


def measure(instances: int, router: str, workload: Workload, repeats: int) -> dict[str, Any]:
    """One row."""
    low = common.lowered(common.h100_cluster(instances, router), workload)
    result = simulate(low.shape, low.params)
    runs = {"cluster": lambda: simulate(low.shape, low.params)}
    differs = None
    if router == "round_robin" and instances > 1:
        one = common.lowered(common.h100_cluster(), workload)
        parts = [request_params(part(workload, i, instances), one.shape.requests) for i in range(instances)]
        separate = [replace(one.params, requests=requests) for requests in parts]
        alone = [simulate(one.shape, params) for params in separate]
        runs["separate"] = lambda: [simulate(one.shape, params) for params in separate]
        found = [np.stack([result.requests.first_token_s[i::instances], result.requests.finish_s[i::instances]]) for i in range(instances)]
        wanted = [np.stack([run.requests.first_token_s, run.requests.finish_s]) for run in alone]
        differs = max(common.relative_difference(a, b) for a, b in zip(found, wanted, strict=True))
    times = common.interleaved(runs, repeats)
    best = times["cluster"].best
    return {
        "instances": instances,
        "router": router,
        "requests": len(workload),
        "steps": result.steps,
        "ticks": result.ticks,
        "ticks_per_request": result.ticks / len(workload),
        "ticks_per_step": result.ticks / result.steps,
        "compile_s": result.compile_s,
        "simulate_s": best,
        "us_per_tick": best * 1e6 / result.ticks,
        "us_per_request": best * 1e6 / len(workload),
        "x_separate": best / times["separate"].best if "separate" in times else None,
        "differs": differs,
    }


def part(workload: Workload, i: int, instances: int) -> Workload:
    """The requests that round robin hands to engine i."""
    mine = slice(i, None, instances)
    return Workload(workload.arrival_s[mine], workload.prompt_tokens[mine], workload.output_tokens[mine])


def main() -> None:
    parser = common.arguments(__doc__, 5)
    parser.add_argument("--requests", type=int, default=4096)
    parser.add_argument("--rate", type=float, default=12.0)
    options = parser.parse_args()
    about = f"{common.facts()}; {options.rate:g} requests/s and engine"
    rows = []
    for instances in INSTANCES:
        workload = common.synthetic(options.requests, options.rate * instances)
        for router in ("round_robin",) if instances == 1 else ("round_robin", "least_loaded"):
            rows.append(measure(instances, router, workload, options.repeats))
    for row in rows:
        row["x_one_per_tick"] = row["us_per_tick"] / rows[0]["us_per_tick"]
    common.write_table("instances", rows, about)


if __name__ == "__main__":
    main()
