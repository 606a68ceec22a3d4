"""A small cluster with prefill and decode instances, and runs that were "measured" on it by simulating a known hand-over."""

import functools
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

import simjax
from simjax.calibrate.handover.job import CalibratedHandover, calibrate_handover
from simjax.config.compose import compose_config, typed

CLUSTER = (
    "cluster=disaggregated",
    "cluster.prefill.instances=2",
    "cluster.decode.instances=1",
    "network.instance_nodes=[0,1,2]",
    "network.inter_bandwidth_bytes_per_s=5e9",
)
LOAD = ("workload.num_requests=48", "workload.rate=10", "workload.output.mean=60", "workload.seed=3")
TRUTH = {"handover_s": 0.025, "link_efficiency": 0.6, "setup_s": 0.002}
STAMPS = ["first_token_s", "prefill_finish_s", "transfer_start_s", "transfer_end_s"]


def rule_words(rule: Mapping[str, float]) -> list[str]:
    return [f"disaggregation.{name}={value}" for name, value in rule.items()]


@functools.cache
def measured() -> pd.DataFrame:
    """What a run with the hand-over `TRUTH` recorded: a row for each request, with all of its stamps."""
    done = simjax.run(simjax.compose([*CLUSTER, *LOAD, *rule_words(TRUTH)]))
    log, moved = done.result.requests, done.result.handovers
    assert moved is not None and log.finished.all()
    columns = {name: getattr(log, name) for name in ("arrival_s", "prompt_tokens", "output_tokens", "first_token_s")}
    return pd.DataFrame(columns | {name: getattr(moved, name) for name in STAMPS[1:]})


def fitted(table: pd.DataFrame, path: Path, *words: str) -> CalibratedHandover:
    """The calibration of the cluster to a table."""
    table.to_csv(path, index=False)
    return calibrate_handover(typed(compose_config("handover", [*CLUSTER, f"requests={path}", *words])))
