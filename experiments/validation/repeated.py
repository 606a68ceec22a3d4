"""Repeated prompts: TTFT of those that are computed, and of those that are found in the cache.

The run of Llama-2-7B on an H100 repeats 100 prompts 90 times. The first 100 requests are cold, the other 8,900 warm: a device that is
calibrated on such a run is accurate for both only if hits are simulated. Writes results/repeated.tsv.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from cases import ON_H100, Case, Row, write

from simjax.calibrate.job import calibrate
from simjax.config.compose import compose_config, typed
from simjax.validate import MeasuredRun, validate

CASE = next(case for case in ON_H100 if case.name == "H100, Llama-2-7B")
COLD = 100  # distinct prompts
FRACTION = 0.1  # part of the run used for the fit: the 100 cold requests and 800 warm ones


def rows_of(case: Case, name: str, *overrides: str) -> list[Row]:
    """A line for the cold and one for the warm requests; times in ms, errors in percent."""
    run, done = validate(typed(compose_config("validate", [f"measured={case.path}", *overrides])))
    requests = done.result.requests
    groups = {"cold": np.arange(len(run)) < COLD, "warm": np.arange(len(run)) >= COLD}
    cached = requests.cached_tokens / run.prompt_tokens
    return [row(run, name, group, rows, requests.first_token_s - run.arrival_s, cached) for group, rows in groups.items()]


def row(run: MeasuredRun, name: str, group: str, rows: np.ndarray, ttft_s: np.ndarray, cached: np.ndarray) -> Row:
    found: Row = {"step times": name, "requests": group, "count": int(rows.sum()), "cached, %": float(100.0 * cached[rows].mean())}
    for label, of in (("mean", np.mean), ("p50", np.median)):
        measured, simulated = float(of(run.ttft_s[rows])), float(of(ttft_s[rows]))
        found |= {f"TTFT {label}, ms": 1e3 * measured, f"simulated {label}, ms": 1e3 * simulated}
        found[f"error {label}, %"] = 100.0 * (simulated / measured - 1.0)
    return found


def main() -> None:
    rows = rows_of(CASE, "shipped profile, caching off", "scheduler.enable_prefix_caching=false")
    rows += rows_of(CASE, "shipped profile")
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile.yaml"
        done = calibrate(typed(compose_config("calibrate", [f"measured={CASE.path}", f"fit.first_fraction={FRACTION}"])), profile)
        print(f"{FRACTION:g} of the run: {done.fit.seconds:.0f} s", *done.problems, sep="\n  ", flush=True)
        rows += rows_of(CASE, f"calibrated on the first {100 * FRACTION:g} % of it", f"profile={profile}")
    write("repeated", rows)


if __name__ == "__main__":
    main()
