"""Weights on CXL memory and decode attention in memory that computes, next to LLMServingSim's own outputs.

Prints `figure<TAB>value`: errors of requests' end-to-end times in percent of theirs for its two example runs, with the simplifications
that it makes (`weights.simplified`, `pim.contexts=prompt`, `pim.kv_cache=device`); cluster files that are read and timed; and output
tokens/s of the study of its paper's figure 10 (256 requests of 128 + 512 tokens on an RTX A6000 with 256 channels of HBM2), theirs and
ours, then with contexts that grow and a KV cache that is in the memory which reads it. Writes results/memory.tsv.
"""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from cases import DATA, TABLES, Row, write
from peers import CLUSTERS, FLAGS, OUTPUTS, TRACE, files

from simjax.cluster.configured.llmservingsim import read_cluster
from simjax.cluster.instance import InstanceLimits
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.config.compose import compose_config, typed
from simjax.errors import SimjaxError
from simjax.job import Run, run

FIGURE_10 = DATA / "ispass26" / "figure_10"
LOAD = DATA / "ispass26" / "datasets" / "fixed_in128_out512_req256_rate10.jsonl"
THEIR_PIM = ("pim.enable_attn_offloading=true", "pim.contexts=prompt", "pim.kv_cache=device")
EXAMPLES = (("cxl", "single_node_cxl_instance", ("weights.simplified=true",)), ("pim", "single_node_pim_instance", THEIR_PIM))
# Name, cluster file, options, and their curve where they have one.
STUDY = (
    ("gpu_only", "gpu_only", (), "gpu_only"),
    ("pim", "pim", THEIR_PIM, "pim"),
    ("pim_halves", "pim", (*THEIR_PIM, "pim.enable_sub_batch_interleaving=true"), "pim_sbi"),
    ("pim_contexts_grow", "pim", (*THEIR_PIM, "pim.contexts=grown"), None),
    ("pim_contexts_grow_cache_moves", "pim", ("pim.enable_attn_offloading=true",), None),
    ("pim_halves_contexts_grow_cache_moves", "pim", ("pim.enable_attn_offloading=true", "pim.enable_sub_batch_interleaving=true"), None),
)


def simulated(file: str, trace: str, *options: str) -> Run:
    """A run of a cluster file on a trace."""
    words = [f"cluster.file={file}", "workload=trace", f"workload.file={trace}", "plots=false", *options]
    return run(typed(compose_config("run", words)))


def example(name: str, cluster: str, options: tuple[str, ...]) -> Row:
    """The errors of an example run, in percent of their times."""
    theirs = pd.read_csv(OUTPUTS / f"example_{name}_run.csv").sort_values("request id", ignore_index=True)
    flags = (*(f"scheduler.{flag}" for flag in FLAGS), f"profile.bundle_root={TABLES}")
    ours = simulated(f"{CLUSTERS / cluster}.json", str(TRACE), *flags, *options).result.requests
    error = 100.0 * ((ours.finish_s - ours.arrival_s) / (theirs["latency"].to_numpy() / 1e9) - 1.0)
    return {"figure": f"peer_{name}_e2e", "mean error, %": float(error.mean()), "largest error, %": float(np.abs(error).max())}


def study(name: str, config: str, options: tuple[str, ...], curve: str | None) -> Row:
    """Output tokens/s of a configuration of figure 10 over the whole run, and theirs where they publish them."""
    flags = ("scheduler.max_num_seqs=256", "scheduler.max_num_batched_tokens=2048", "scheduler.async_scheduling=false")
    requests = simulated(str(FIGURE_10 / "config" / f"{config}_config.json"), str(LOAD), *flags, *options).result.requests
    row: Row = {"figure": f"figure10_{name}", "tokens/s": float(requests.output_tokens.sum() / requests.finish_s.max())}
    if curve is not None:
        theirs = pd.read_csv(FIGURE_10 / "peer_parsed" / f"{curve}_b256_throughput.tsv", sep="\t")
        row["theirs"] = float(theirs["throughput"].sum() / theirs["time_s"].max())
    return row


def timed() -> Row:
    """How many of their cluster files are read and have step times."""
    found = 0
    for path in files():
        try:
            cluster = ClusterSpec(read_cluster(path, InstanceLimits(), offloading="pim" in path.name).instances)
            cluster_timing(cluster.instances, LatencySource())
            found += 1
        except SimjaxError as error:
            logging.getLogger(__name__).error("%s: %s", path.name, error)
    return {"figure": "cluster_files_timed", "files": found, "of": len(files())}


def main() -> None:
    logging.disable(logging.WARNING)
    rows = [example(*one) for one in EXAMPLES]
    rows += [study(*one) for one in STUDY]
    rows.append(timed())
    write("memory", rows)
    for row in rows:
        name = row.pop("figure")
        for column, value in row.items():
            print(f"{name}: {column}\t{value:.4g}", flush=True)


if __name__ == "__main__":
    main()
