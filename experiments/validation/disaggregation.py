"""Prefill/decode disaggregation against measurements, one part for each.

transfers: KV caches of Qwen3-8B from 8 H800 to 8 H800 over eight adapters of 200 Gb/s (`power/kv_tiers/pd_transfer.csv`, vLLM's
    MooncakeConnector), with the shipped defaults and with the two parameters that transfers tell fitted to them.

figure5: a prefill and a decode instance on an A6000 each, as in LLMServingSim's figure 5 (`figure5.py` has the table and the plot).

handover: hand-over of three prefill and one decode instance at the TPOT and transfer time that a pull request of vLLM gives.

LLMServingSim's own outputs are in `peers.py`, vLLM's scheduler in `handover_vllm.py`.

Prints a line a figure, `figure<TAB>value`.

usage: python disaggregation.py [PART ...]    (SIMJAX_DATA: folder of the measured runs; all parts when none is named)
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable
from pathlib import Path

import figure5
import numpy as np

import simjax
from simjax.calibrate.handover.job import HELD_OUT, calibrate_handover
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.transfers import transfer_paths
from simjax.config.compose import compose_config, typed

DATA = Path(os.environ.get("SIMJAX_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
GIB = 2**30  # the file's GB and, of its kv_mb, a thousandth
TRANSFERS = [
    "model=qwen3-8b",
    "device=h100",  # an H800 is an H100 with fewer lanes of NVLink, which such a transfer does not take
    "cluster=disaggregated",
    "cluster.prefill={instances: 1, tensor_parallel_size: 8}",
    "cluster.decode={instances: 1, tensor_parallel_size: 8}",
    "disaggregation.connector=mooncake",
    "network.inter_bandwidth_bytes_per_s=25e9",
]


def mape_pct(found: np.ndarray, measured: np.ndarray) -> float:
    """Mean absolute error in percent of the measured."""
    return 100.0 * float(np.mean(np.abs(found / measured - 1.0)))


def transfers() -> dict[str, float]:
    """Figures of `pd_transfer.csv`."""
    path = DATA / "power" / "kv_tiers" / "pd_transfer.csv"
    done = calibrate_handover(typed(compose_config("handover", [*TRANSFERS, f"transfers={path}"])))
    (errors,) = done.scores
    figures = {}
    for name, key in (("pd_transfer", "before"), ("pd_transfer_calibrated", "after"), ("pd_transfer_held_out", HELD_OUT)):
        figures |= {f"{name}_mape_pct": errors[key]["mape_pct"], f"{name}_max_error_pct": errors[key]["max_error_pct"]}
    figures |= {f"pd_transfer_calibrated_{row['name']}": row["value"] for row in done.rows}
    # Rate times time tells the bytes more exactly than the rounded kv_mb: those of the prompt and of one block more.
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    column = lambda name: np.array([float(row[name]) for row in rows])
    cluster = configured_cluster(simjax.compose(TRANSFERS))
    block = cluster.instances[1].limits.block_size
    bytes_moved = (column("prompt_tokens") // block + 1) * block * transfer_paths(cluster).bytes_per_token[0, 1]
    figures["pd_transfer_bytes_mape_pct"] = mape_pct(bytes_moved, column("gb_per_s") * GIB * column("transfer_ms") * 1e-3)
    return figures


# vLLM pull request 51919: three prefill and one decode instance over NIXL, 197 ms from the prefill's end to the first token at the median,
# 29 ms of them the transfer, at a TPOT of 30.2 ms. Model, load and network are not given, but they do not matter here: the hand-over
# counts steps of the decode instance, and these are made as long, and the transfers.
PUBLISHED_S, PUBLISHED_TRANSFER_S, PUBLISHED_TPOT_S = 0.197, 0.029, 0.0302
PUBLISHED = [
    "cluster=disaggregated",
    "cluster.prefill.instances=3",
    "cluster.decode.instances=1",
    "workload.rate=3",
    "workload.num_requests=400",
    f"disaggregation.setup_s={PUBLISHED_TRANSFER_S}",
    "network.inter_bandwidth_bytes_per_s=50e9",
    "disaggregation.link_efficiency=1.0",
]


def handover() -> dict[str, float]:
    """Figures of the published hand-over."""
    step_s = 0.0
    for _ in range(6):  # to the TPOT: load and step time move each other a little
        result = simjax.run(simjax.compose([*PUBLISHED, f"profile.step_s={step_s}"] if step_s else PUBLISHED)).result
        log, moved = result.requests, result.handovers
        gaps = log.output_tokens - 1
        tpot_s = float(np.median((log.finish_s - log.first_token_s)[gaps > 0] / gaps[gaps > 0]))
        step_s += PUBLISHED_TPOT_S - tpot_s
    assert moved is not None
    found_s = float(np.median(log.first_token_s - moved.prefill_finish_s))
    return {
        "handover_tpot_ms": 1e3 * tpot_s,
        "handover_transfer_p50_ms": 1e3 * float(np.median(moved.transfer_end_s - moved.transfer_start_s)),
        "handover_p50_ms": 1e3 * found_s,
        "handover_p50_error_pct": 100.0 * (found_s / PUBLISHED_S - 1.0),
    }


PARTS: dict[str, Callable[[], dict[str, float]]] = {"transfers": transfers, "figure5": figure5.figures, "handover": handover}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to run, of {', '.join(PARTS)}")
    for part in parser.parse_args().parts or PARTS:
        if part not in PARTS:
            parser.error(f"there is no part {part}; known: {', '.join(PARTS)}")
        for figure, value in PARTS[part]().items():
            print(f"{figure}\t{value:.6g}", flush=True)


if __name__ == "__main__":
    main()
