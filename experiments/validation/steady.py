"""Steady state: answers that a short run gets wrong, the verdict of automatic runs around saturation, and the capacity search.

    python experiments/validation/steady.py [--parts examples,grid,calibrated,capacity]      # some fifteen minutes on two cores

Prints one line a figure, `figure<TAB>value`. Verdicts are compared with runs of 20,000 requests, which are judged here by plain counting,
not by simjax.metrics: the backlog of an overloaded system grows in the second half of its arrivals, by more than one in a hundred of them.
`calibrated` fits a profile to a measured run (SIMJAX_DATA); `capacity` runs capacity.py.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from capacity import DESIGNS as CAPACITIES
from capacity import capacity_error_percent
from capped import DEPLOYMENT

import simjax
from simjax.calibrate.job import calibrate
from simjax.config.compose import compose_config, typed
from simjax.engine.host.result import RequestLog
from simjax.metrics.slo import Slo

Figure = tuple[str, float | int | str]

LONG = 20_000  # requests of the runs that decide
OVERLOADED = 0.01  # growth of the backlog over the requests that arrive meanwhile
LEVELS = (0.9, 0.95, 0.98, 1.0, 1.02, 1.05, 1.1, 1.2)  # request rates over the rate at which each design serves when saturated
DESIGNS = {
    "llama-3.1-8b on h100": ["device=h100"],
    "64 sequences": ["device=h100", "scheduler.max_num_seqs=64"],
    "2 x qwen3-32b on h200": ["device=h200", "model=qwen3-32b", "cluster.instances=2", "cluster.router=least_loaded"],
    "bursts, CV 3": ["device=h100", "workload=gamma", "workload.cv=3", "scheduler.max_num_seqs=128"],
    "long prompts": ["device=h200", "workload.prompt={mean: 2000, max: null}", "workload.output={mean: 60, cv: 1}"],
}
"""5 designs x 8 rates = 40."""


def log_of(overrides: list[str]) -> RequestLog:
    """The requests of a run."""
    return simjax.run(simjax.compose([*overrides, "plots=false"])).result.requests


def summary_of(overrides: list[str], slo: Slo | None = None) -> dict:
    """The summary of a run."""
    config = simjax.compose([*overrides, "plots=false"])
    return simjax.summarize(simjax.run(config).result, slo)


def saturated_rate(design: list[str]) -> float:
    """Requests/s that a design finishes while it is far overloaded."""
    finish_s = np.sort(log_of([*design, "workload.rate=200", "workload.num_requests=8000"]).finish_s)
    low, high = int(0.3 * len(finish_s)), int(0.8 * len(finish_s))
    return (high - low) / float(finish_s[high] - finish_s[low])


def overloaded(log: RequestLog) -> bool:
    """Whether the backlog grows in the second half of the arrivals, by counting."""
    end_s = float(log.arrival_s.max())
    backlog = [np.count_nonzero(log.arrival_s <= t) - np.count_nonzero(log.finish_s <= t) for t in (0.5 * end_s, end_s)]
    return backlog[1] - backlog[0] > OVERLOADED * np.count_nonzero(log.arrival_s > 0.5 * end_s)


def examples() -> Iterator[Figure]:
    """Answers that used to be wrong without a word: a transient that passed for the load."""
    slo = Slo(ttft_s=0.5, tpot_s=0.03)
    for name, instances, rate in (("2xh200_28", 2, 28), ("4xh200_48", 4, 48)):
        overrides = ["device=h200", f"cluster.instances={instances}", "cluster.router=least_loaded", f"workload.rate={rate}"]
        default, long = summary_of(overrides, slo), summary_of([*overrides, f"workload.num_requests={LONG}"], slo)
        for length, summary in (("default", default), ("long", long)):
            yield f"{name}_{length}_steady", int(bool(summary["steady"]))
            yield f"{name}_{length}_attainment", round(summary["slo"]["attainment_fraction"], 3)
            yield f"{name}_{length}_goodput_per_s", round(summary["slo"]["goodput_requests_per_s"], 2)
            yield f"{name}_{length}_ttft_p99_s", round(summary["ttft_s"]["p99"], 3)
    requests = log_of(["workload.rate=20", "workload.duration_s=60"])
    yield "rate_20_duration_60_requests", len(requests.finished)


def grid() -> Iterator[Figure]:
    """The verdict of automatic runs around saturation against long runs."""
    agree = total = unknown = 0
    for name, design in DESIGNS.items():
        rate = saturated_rate(design)
        for level in LEVELS:
            at = [*design, f"workload.rate={level * rate:.6g}"]
            summary = summary_of(at)
            truth = not overloaded(log_of([*at, f"workload.num_requests={LONG}"]))
            total += 1
            unknown += summary["steady"] is None
            agree += summary["steady"] is truth
            if summary["steady"] is not truth:
                yield f"grid_differs[{name}, {level:g} of {rate:.3g}/s]", f"{summary['steady']} where long runs say {truth}"
    yield "grid_designs", total
    yield "grid_verdicts_that_agree", agree
    yield "grid_verdicts_unknown", unknown


def calibrated() -> Iterator[Figure]:
    """Qwen3-14B on an H100, calibrated at 2 requests/s, under 8: more than it can serve."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile.yaml"
        calibrate(typed(compose_config("calibrate", [f"measured=[{DEPLOYMENT / 'agg_2rps'}]"])), profile)
        summary = summary_of([f"profile={profile}", "model=qwen3-14b", "workload.rate=8"])
        yield "qwen3_14b_8_steady", int(bool(summary["steady"]))
        yield "qwen3_14b_8_saturated_per_s", round(summary["window"]["saturated_requests_per_s"] or 0.0, 2)
        yield "qwen3_14b_8_backlog_growth_per_s", round(summary["backlog_growth_per_s"], 3)
        yield "qwen3_14b_8_ttft_p99_s", round(summary["ttft_s"]["p99"], 1)


def capacity() -> Iterator[Figure]:
    """Capacities against long bisections."""
    errors = []
    for name in CAPACITIES:
        error, inside = capacity_error_percent(name)
        errors.append(abs(error))
        yield f"capacity_error_percent[{name}]", round(error, 2)
        yield f"capacity_interval_covers[{name}]", int(inside)
    yield "capacity_worst_error_percent", round(max(errors), 2)


PARTS = {"examples": examples, "grid": grid, "calibrated": calibrated, "capacity": capacity}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated parts (default: all)")
    for part in parser.parse_args().parts.split(","):
        for figure, value in PARTS[part]():
            print(f"{figure}\t{value}", flush=True)


if __name__ == "__main__":
    main()
