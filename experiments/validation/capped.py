"""A client with a cap on its requests in flight: `w7_agg12` under a profile that is fitted to `agg_2rps` and `agg_6rps`, which had none.

The client of w7_agg12 asked for 12 requests/s of a server that does 8.4, and let at most 256 be in flight: its sends lag the schedule by
minutes. Validated twice: as `simjax validate` replays it, under the cap that it finds, and with the sends as they were
(`workload.max_concurrency=0`). The fit saw nothing of this run.

Prints a line a figure, `figure<TAB>value`: errors are 100 (simulated - measured) / measured.

usage: python capped.py [--profile PROFILE]    (SIMJAX_DATA: folder of the measured runs; without a profile the fit takes some minutes)
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from simjax.calibrate.job import calibrate
from simjax.config.compose import compose_config, typed
from simjax.validate import compare, validate

DATA = Path(os.environ.get("SIMJAX_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
DEPLOYMENT = DATA / "vllm_qwen3_14b_h100"
FITTED = ("agg_2rps", "agg_6rps")
CAPPED = "w7_agg12"
METRICS = ("ttft", "tpot", "e2e")


def fitted_profile(path: Path) -> Path:
    """The profile of `simjax calibrate measured=[agg_2rps,agg_6rps]`, written to a file."""
    measured = ",".join(str(DEPLOYMENT / name) for name in FITTED)
    calibrate(typed(compose_config("calibrate", [f"measured=[{measured}]"])), path)
    return path


def figures(run: Path, profile: Path, *options: str) -> dict[str, Any]:
    """The cap under which a run was replayed, and errors of its simulation in percent."""
    measured, done = validate(typed(compose_config("validate", [f"measured={run}", f"profile={profile}", *options])))
    report = compare(measured, done.result)
    found: dict[str, Any] = {"cap_found": measured.max_concurrency or 0}
    found |= {f"{name}_mean_error_percent": report[f"{name}_s"]["mean"]["error_pct"] for name in METRICS}
    found |= {f"{name}_p99_error_percent": report[f"{name}_s"]["p99"]["error_pct"] for name in METRICS}
    found["throughput_error_percent"] = report["throughput"]["requests_per_s"]["error_pct"]
    found["in_flight_drift_percent"] = report["in_flight"]["drift_pct"]
    if done.result.due_s is not None:
        found["send_lag_mean_error_percent"] = 100.0 * (_lag_s(done.result.requests.arrival_s, done.result.due_s) / _lag_of(measured) - 1.0)
    return found


def _lag_of(measured: Any) -> float:
    return _lag_s(measured.arrival_s, measured.due_s)


def _lag_s(sent_s: Any, due_s: Any) -> float:
    """Mean seconds by which the client sent behind its schedule."""
    return float((sent_s - due_s).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, help="latency profile to use in place of the fit")
    given = parser.parse_args().profile
    with tempfile.TemporaryDirectory() as folder:
        profile = given or fitted_profile(Path(folder) / "profile.yaml")
        for name in FITTED:
            for figure, value in figures(DEPLOYMENT / name, profile).items():
                print(f"{name}_{figure}\t{value:.6g}", flush=True)
        for figure, value in figures(DEPLOYMENT / CAPPED, profile).items():
            print(f"{figure}\t{value:.6g}", flush=True)
        for figure, value in figures(DEPLOYMENT / CAPPED, profile, "workload.max_concurrency=0").items():
            print(f"without_cap_{figure}\t{value:.6g}", flush=True)


if __name__ == "__main__":
    main()
