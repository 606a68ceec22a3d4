"""Prefill/decode disaggregation against measurements, one part for each.

transfers: KV caches of Qwen3-8B from 8 H800 to 8 H800 over eight adapters of 200 Gb/s (`power/kv_tiers/pd_transfer.csv`, vLLM's
    MooncakeConnector), with the shipped defaults and with the two parameters that transfers tell fitted to them.

handover: hand-over of three prefill and one decode instance at the TPOT and transfer time that a pull request of vLLM gives.

The prefill/decode split of LLMServingSim's figure 5 is in `figure5.py`, its own outputs are in `peers.py`, vLLM's scheduler in
`handover_vllm.py`.

Prints a line a figure, `figure<TAB>value`.

usage: python disaggregation.py [PART ...]    (SIMJAX_DATA: folder of the measured runs; all parts when none is named)
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

import simjax
from simjax.calibrate.targets.transfers import alone_s, fit_transfers, with_handover
from simjax.cluster.from_config import configured_cluster
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.transfers import transfer_paths

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


def transfer_errors(cluster: ClusterSpec, tokens: np.ndarray, measured_s: np.ndarray, name: str) -> dict[str, float]:
    """Mean and greatest error of the transfers of a cluster."""
    found_s = alone_s(cluster, tokens)
    return {f"{name}_mape_pct": mape_pct(found_s, measured_s), f"{name}_max_error_pct": 100.0 * np.abs(found_s / measured_s - 1.0).max()}


def transfers() -> dict[str, float]:
    """Figures of `pd_transfer.csv`."""
    with (DATA / "power" / "kv_tiers" / "pd_transfer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    column = lambda name: np.array([float(row[name]) for row in rows])
    tokens, measured_s = column("prompt_tokens").astype(int), column("transfer_ms") * 1e-3
    cluster = configured_cluster(simjax.compose(TRANSFERS))
    figures = transfer_errors(cluster, tokens, measured_s, "pd_transfer")
    fitted = fit_transfers(cluster, tokens, measured_s)
    figures |= transfer_errors(with_handover(cluster, fitted), tokens, measured_s, "pd_transfer_calibrated")
    figures |= {f"pd_transfer_calibrated_{name}": value for name, value in fitted.items()}
    # Each half of the rows, by the fit to the other half.
    halves = [np.arange(len(tokens)) % 2 == k for k in (0, 1)]
    held_s = np.empty(len(tokens))
    for half in halves:
        other = with_handover(cluster, fit_transfers(cluster, tokens[~half], measured_s[~half]))
        held_s[half] = alone_s(other, tokens[half])
    figures["pd_transfer_held_out_mape_pct"] = mape_pct(held_s, measured_s)
    # Rate times time tells the bytes more exactly than the rounded kv_mb: those of the prompt and of one block more.
    moved = column("gb_per_s") * GIB * measured_s
    block = cluster.instances[1].limits.block_size
    figures["pd_transfer_bytes_mape_pct"] = mape_pct((tokens // block + 1) * block * transfer_paths(cluster).bytes_per_token[0, 1], moved)
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


PARTS: dict[str, Callable[[], dict[str, float]]] = {"transfers": transfers, "handover": handover}


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
