"""Measured runs, and the errors of their simulations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simjax.validate.compare import compare
from simjax.validate.measured import read_measured
from simjax.validate.run import EngineFacts, HardwareFacts, MeasuredRun, engine_side
from simjax.validate.table import comparison_table

if TYPE_CHECKING:
    from simjax.validate.replay import validate as validate

__all__ = ["EngineFacts", "HardwareFacts", "MeasuredRun", "compare", "comparison_table", "engine_side", "read_measured", "validate"]


def __getattr__(name: str) -> Any:
    # Simulating needs jax; reading and comparing, which plots use too, must not import it.
    if name == "validate":
        from simjax.validate.replay import validate

        return validate
    raise AttributeError(f"module 'simjax.validate' has no attribute '{name}'")
