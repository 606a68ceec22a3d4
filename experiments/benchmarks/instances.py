"""Clusters of 1, 2, 4 and 8 instances: ticks and time, with a router that reads the state of the cluster and one that does not.

The load of an instance stays the same, since the rate grows with the number of instances. Round robin splits the requests before the run,
so separate simulations of single instances give the same results: `x_separate` is the time of the cluster over their total time, and the
results must agree. Writes results/instances.tsv.

usage: python instances.py [--repeats N] [--requests R] [--rate REQUESTS_PER_S_AND_ENGINE]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import common
import numpy as np

from simjax.engine.host.lower import Lowered
from simjax.engine.host.lowering.requests import request_params
from simjax.engine.host.result import Result
from simjax.engine.params import ClusterParams
from simjax.engine.simulate import simulate
from simjax.workload.workload import Workload

INSTANCES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Cluster:
    """A cluster simulated as a whole, and, if the router does not read its state, as `separate` instances with their own requests."""

    instances: int
    router: str
    low: Lowered
    alone: Lowered
    separate: tuple[ClusterParams, ...]

    def together(self) -> Result:
        return simulate(self.low.shape, self.low.params)

    def apart(self) -> list[Result]:
        return [simulate(self.alone.shape, params) for params in self.separate]


def build(instances: int, router: str, workload: Workload) -> Cluster:
    low = common.lowered(common.h100_cluster(instances, router), workload)
    alone = common.lowered(common.h100_cluster(), workload)
    parts = [part(workload, i, instances) for i in range(instances)] if router == "round_robin" else []
    separate = tuple(replace(alone.params, requests=request_params([each], alone.shape.requests, [0])) for each in parts)
    return Cluster(instances, router, low, alone, separate)


def part(workload: Workload, i: int, instances: int) -> Workload:
    """The requests that round robin sends to instance i."""
    mine = slice(i, None, instances)
    return Workload(workload.arrival_s[mine], workload.prompt_tokens[mine], workload.output_tokens[mine])


def difference(cluster: Cluster) -> float:
    """Largest relative difference of first-token and finish times between the cluster and the separate instances."""
    whole, n = cluster.together().requests, cluster.instances
    found = [np.stack([whole.first_token_s[i::n], whole.finish_s[i::n]]) for i in range(n)]
    wanted = [np.stack([run.requests.first_token_s, run.requests.finish_s]) for run in cluster.apart()]
    return max(common.relative_difference(a, b) for a, b in zip(found, wanted, strict=True))


def row(cluster: Cluster, result: Result, best_s: float, separate_s: float | None) -> dict[str, Any]:
    requests = len(result.requests.finish_s)
    return {
        "instances": cluster.instances,
        "router": cluster.router,
        "requests": requests,
        "steps": result.steps,
        "ticks": result.ticks,
        "ticks_per_request": result.ticks / requests,
        "ticks_per_step": result.ticks / result.steps,
        "compile_s": result.compile_s,
        "simulate_s": best_s,
        "us_per_tick": best_s * 1e6 / result.ticks,
        "us_per_request": best_s * 1e6 / requests,
        "x_separate": None if separate_s is None else best_s / separate_s,
        "differs": difference(cluster) if cluster.separate else None,
    }


def main() -> None:
    parser = common.arguments(__doc__, 5)
    parser.add_argument("--requests", type=int, default=4096)
    parser.add_argument("--rate", type=float, default=12.0)
    options = parser.parse_args()
    about = f"{common.facts()}; {options.rate:g} requests/s per instance"
    clusters = []
    for instances in INSTANCES:
        workload = common.synthetic(options.requests, options.rate * instances)
        for router in ("round_robin",) if instances == 1 else ("round_robin", "least_loaded"):
            clusters.append(build(instances, router, workload))
    results = [cluster.together() for cluster in clusters]  # compiles
    runs = {f"{c.instances} {c.router}": c.together for c in clusters}
    runs |= {f"{c.instances} separate": c.apart for c in clusters if c.separate}
    times = common.interleaved(runs, options.repeats)
    rows = []
    for cluster, result in zip(clusters, results, strict=True):
        apart = times[f"{cluster.instances} separate"].best if cluster.separate else None
        rows.append(row(cluster, result, times[f"{cluster.instances} {cluster.router}"].best, apart))
    for line in rows:
        line["x_one_per_tick"] = line["us_per_tick"] / rows[0]["us_per_tick"]
    common.write_table("instances", rows, about)


if __name__ == "__main__":
    main()
