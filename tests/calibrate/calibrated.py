"""Shipped profiles with calibrations made up for tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from simjax.disk.paths import PROFILES
from simjax.latency.profiles.file import load_profile, save_profile
from simjax.latency.profiles.profile import Calibration, LatencyProfile, Seen

LLAMA = "meta-llama/Llama-3.1-8B"
SEEN = Seen(tokens=(1, 16384), sequences=(1, 1024), context=(1, 131072), models=(LLAMA,), tensor_parallel_sizes=(1,))
NAMES = ("gemm_bandwidth", "gemm_compute", "decode_skew", "step_s", "api_pre_s")


def covariance(sd: float = 0.05) -> np.ndarray:
    """Of `NAMES`: standard deviations of sd to 5 sd, neighbours correlated."""
    spread = sd * np.arange(1, len(NAMES) + 1)
    return np.outer(spread, spread) * 0.4 ** np.abs(np.subtract.outer(np.arange(len(NAMES)), np.arange(len(NAMES))))


def calibrated(sd: float = 0.05, discrepancy: float = 0.01, seen: Seen = SEEN, device: str = "h100") -> LatencyProfile:
    """The shipped generic profile of a device with a posterior of `NAMES`."""
    rows = tuple(tuple(float(x) for x in row) for row in covariance(sd))
    return replace(load_profile(PROFILES / "latency" / device / "generic.yaml"), calibration=Calibration(NAMES, rows, discrepancy, seen))


def saved(path: Path, profile: LatencyProfile) -> Path:
    """The profile as a file."""
    save_profile(profile, path)
    return path
