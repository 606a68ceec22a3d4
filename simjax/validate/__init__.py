"""Measured runs, and how far a simulation is from them."""

from simjax.validate.compare import compare
from simjax.validate.measured import read_measured
from simjax.validate.replay import validate
from simjax.validate.run import EngineFacts, HardwareFacts, MeasuredRun, engine_side
from simjax.validate.table import comparison_table

__all__ = ["EngineFacts", "HardwareFacts", "MeasuredRun", "compare", "comparison_table", "engine_side", "read_measured", "validate"]
