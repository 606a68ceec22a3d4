"""Capacities against long bisections: prints one line a figure, `figure<TAB>value`.

    python experiments/validation/capacity.py              # a quarter of an hour on two cores
    python experiments/validation/capacity.py 0 2          # the first and the third design only

The truth of a design is a plain bisection of single runs of 20,000 requests with many seeds, in which the requests of the first quarter and
of the last tenth do not count. It shares no code with the search but the simulator and the definition of a latency.
"""

from __future__ import annotations

import sys

import numpy as np

import simjax
from simjax.metrics.latency import latencies

DESIGNS: dict[str, list[str]] = {
    "8b_h100": ["model=llama-3.1-8b", "device=h100", "slo.ttft_s=1", "slo.tpot_s=0.05"],
    "8b_h100_tpot": ["model=llama-3.1-8b", "device=h100", "slo.ttft_s=0.5", "slo.tpot_s=0.012"],
    "32b_2xh200": ["model=qwen3-32b", "device=h200", "cluster.instances=2", "slo.ttft_s=1", "slo.tpot_s=0.05"],
    "8b_l40s_bursts": ["model=llama-3.1-8b", "device=l40s", "workload=gamma", "workload.cv=2", "slo.ttft_s=2", "slo.tpot_s=0.06"],
    "8b_a100_e2e": ["model=llama-3.1-8b", "device=a100", "cluster.instances=4", "cluster.router=least_loaded", "slo.e2e_s=25"],
}
"""Designs with different limits: by seats, by tokens per step, by bursts, by the end-to-end latency."""
REQUESTS, SEEDS, ATTAINMENT = 20_000, 8, 0.99
WINDOW = 0.25, 0.9  # requests that count, by the order of their arrivals
FIRST_SEED = 1_000  # the truth's workloads are not those of the search


def attained(overrides: list[str], rate: float) -> float:
    """Share of the requests that meet all limits at a rate, over all seeds."""
    shares = []
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        config = simjax.compose([*overrides, f"workload.rate={rate}", f"workload.num_requests={REQUESTS}", f"workload.seed={seed}"])
        found = latencies(simjax.run(config).result.requests)
        good = np.ones(REQUESTS, bool)
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            if (limit := getattr(config.slo, name)) is not None:
                good &= (getattr(found, name) <= limit) | (~found.has_tpot if name == "tpot_s" else False)
        shares.append(good[int(WINDOW[0] * REQUESTS) : int(WINDOW[1] * REQUESTS)].mean())
    return float(np.mean(shares))


def long_bisection(overrides: list[str], near: float, tolerance: float = 0.004) -> float:
    """The rate at which the attainment falls below `ATTAINMENT`, requests/s, by bisection from a bracket around `near`."""
    low, high = 0.9 * near, 1.1 * near
    while attained(overrides, low) < ATTAINMENT:
        low, high = 0.8 * low, low
    while attained(overrides, high) >= ATTAINMENT:
        low, high = high, 1.2 * high
    while high / low > 1.0 + tolerance:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if attained(overrides, middle) >= ATTAINMENT else (low, middle)
    return (low * high) ** 0.5


def capacity_error_percent(name: str) -> tuple[float, bool]:
    """Error of the search's capacity against the long bisection in percent, and whether the truth lies in its interval."""
    (found,) = simjax.capacity(DESIGNS[name]).designs
    assert found.rate_per_s is not None and found.low is not None and found.high is not None
    truth = long_bisection(DESIGNS[name], found.rate_per_s)
    print(f"capacity_search_per_s {name}\t{found.rate_per_s:.3f} [{found.low:.3f}, {found.high:.3f}]", flush=True)
    print(f"capacity_long_bisection_per_s {name}\t{truth:.3f}", flush=True)
    return 100.0 * (found.rate_per_s / truth - 1.0), found.low <= truth <= found.high


def main(which: list[str]) -> None:
    """Print the errors of some designs and the largest one."""
    errors = []
    for name in which:
        error, inside = capacity_error_percent(name)
        errors.append(abs(error))
        print(f"capacity_error_percent {name}\t{error:+.2f}", flush=True)
        print(f"capacity_interval_covers {name}\t{'yes' if inside else 'no'}", flush=True)
    print(f"capacity_error_percent\t{max(errors):.2f}")


if __name__ == "__main__":
    names = list(DESIGNS)
    main([names[int(word)] for word in sys.argv[1:]] or names)
