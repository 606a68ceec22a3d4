"""Where tests find the measured data, which is not part of the project."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("SIMJAX_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def data_path(relative: str) -> Path:
    """The path of a measured file, or a skipped test when the data are not on this machine."""
    path = ROOT / relative
    if not path.exists():
        pytest.skip(f"measured data not found: {path} (set SIMJAX_DATA to the data folder)")
    return path
