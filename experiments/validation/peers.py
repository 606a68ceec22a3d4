"""LLMServingSim's own outputs next to simjax on its cluster files, its trace and its kernel tables: the end of every request.

Prints `figure<TAB>value`: for each of its example runs the mean and the largest error of the requests' end-to-end times in percent, of
theirs. Writes results/peers.tsv (one row a run) and results/cluster_files.tsv (every cluster file: read, or refused by which key).
Prefill and decode instances hand over as its connector does (`disaggregation.connector=llmservingsim`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from cases import DATA, TABLES, Row, write

from simjax.cluster.configured.llmservingsim import read_cluster
from simjax.cluster.instance import InstanceLimits
from simjax.config.compose import compose_config, typed
from simjax.deployment import Role
from simjax.errors import SimjaxError
from simjax.job import Run, run

FOLDER = DATA / "llmservingsim"
CLUSTERS, OUTPUTS = FOLDER / "configs" / "cluster", FOLDER / "peer_outputs"
TRACE = FOLDER / "workloads" / "example_trace.jsonl"
# Its defaults; it schedules synchronously, has no API server, and balances the load as vLLM does.
FLAGS = ("max_num_seqs=128", "max_num_batched_tokens=2048", "async_scheduling=false")


@dataclass(frozen=True)
class Example:
    """One of its example runs: the name of the output, and the cluster file.

    Prefixes are not cached where that is said; experts and data-parallel ranks are as it simplifies them where that is asked for.
    """

    name: str
    cluster: str
    disaggregated: bool = False
    cached: bool = True
    simplified: bool = False

    @property
    def theirs(self) -> pd.DataFrame:
        """Its table of requests, in the order of the trace."""
        return pd.read_csv(OUTPUTS / f"example_{self.name}_run.csv").sort_values("request id", ignore_index=True)

    def ours(self) -> Run:
        """The same run here."""
        options = [
            f"cluster.file={CLUSTERS / self.cluster}.json",
            "workload=trace",
            f"workload.file={TRACE}",
            "cluster.router=least_loaded",
        ]
        options += [f"scheduler.{flag}" for flag in FLAGS] + [f"profile.bundle_root={TABLES}"]
        options += ["disaggregation.connector=llmservingsim"] if self.disaggregated else []
        options += ["cluster.all2all_backend=llmservingsim"] if self.simplified else []
        options += ["scheduler.enable_prefix_caching=false"] if not self.cached else []
        return run(typed(compose_config("run", options)))


EXAMPLES = (
    Example("single", "single_node_single_instance"),
    Example("power", "single_node_power_instance"),
    Example("multi", "single_node_multi_instance"),
    Example("prefix_cpu_mem_pool", "single_node_multi_instance"),
    Example("pd", "single_node_pd_instance", disaggregated=True),
    Example("moe", "single_node_moe_single_instance", simplified=True),
    Example("dp", "single_node_dp_instance", cached=False, simplified=True),
    Example("pp", "single_node_pp_instance"),
)


def compared(example: Example) -> Row:
    """The errors of one example, in percent of its times."""
    theirs, result = example.theirs, example.ours().result
    requests = result.requests
    place = requests.instance if result.ranks is None else result.ranks.request  # its data-parallel ranks are instances
    assert (theirs["input"].to_numpy() == requests.prompt_tokens).all() and (theirs["output"].to_numpy() == requests.output_tokens).all()
    times = {"E2E": requests.finish_s - requests.arrival_s, "TTFT": requests.first_token_s - requests.arrival_s}
    error = {
        name: 100.0 * (times[name] / (theirs[column].to_numpy() / 1e9) - 1.0) for name, column in (("E2E", "latency"), ("TTFT", "TTFT"))
    }
    return {
        "run": example.name,
        "cluster file": example.cluster,
        "requests": len(theirs),
        "same instance": int((theirs["instance id"].to_numpy() == place).sum()),
        "E2E within 1 %": int((np.abs(error["E2E"]) < 1.0).sum()),
        "E2E, mean": float(error["E2E"].mean()),
        "E2E, largest": float(np.abs(error["E2E"]).max()),
        "TTFT, mean": float(error["TTFT"].mean()),
    }


def contents(path: Path) -> Row:
    """A cluster file: what was read, or the line that refuses it."""
    row: Row = {"file": str(path.relative_to(DATA)).replace("configs/cluster/", ""), "instances": 0, "nodes": 0}
    try:
        found = read_cluster(path, InstanceLimits())
        roles = [one.role for one in found.instances]
        split = "" if set(roles) == {Role.BOTH} else f": {roles.count(Role.PREFILL)} prefill, {roles.count(Role.DECODE)} decode"
        return row | {"instances": len(roles), "nodes": len(set(found.nodes)), "read, or why not": f"read{split}"}
    except SimjaxError as error:
        return row | {"read, or why not": str(error).removeprefix(f"{path}: ").split("; ")[0]}


def files() -> list[Path]:
    """Every cluster file of the shared data."""
    found = [*CLUSTERS.glob("*.json"), *(DATA / "ispass26").rglob("*config*.json"), *(DATA / "ispass26").rglob("single_node_*.json")]
    return sorted({path for path in found if "model_config" not in path.parts})


def main() -> None:
    logging.disable(logging.WARNING)  # what the files say of power
    write("cluster_files", [contents(path) for path in files()])
    rows = [compared(example) for example in EXAMPLES]
    write("peers", rows)
    for row in rows:
        print(f"peer_{row['run']}_e2e_mean_error_pct\t{row['E2E, mean']:.3f}")
        print(f"peer_{row['run']}_e2e_largest_error_pct\t{row['E2E, largest']:.3f}")


if __name__ == "__main__":
    main()
