"""Ranges in which numbers with a unit usually lie: one far outside was probably given in another unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from simjax.errors import SimjaxError


@dataclass(frozen=True)
class Plausible:
    """The usual range of a number.

    Attributes:
        least, most: the range.
        unit: the unit, in words, with the plausible mistake where there is one.
    """

    least: float
    most: float
    unit: str

    def doubt(self, name: str, value: float) -> str | None:
        """A line about a value outside the range, None for one inside, for 0 (none of the thing) and for what is no finite number."""
        if value == 0 or not math.isfinite(value) or self.least <= value <= self.most:
            return None
        return f"{name}={value:g} is implausible: it is in {self.unit}, usually {self.least:g} to {self.most:g}"

    def check(self, name: str, value: float) -> None:
        """Refuse a value outside the range, where it cannot be meant.

        Raises:
            SimjaxError: it is outside.
        """
        if value != 0 and not self.least <= value <= self.most:
            raise SimjaxError(f"{name}={value:g} cannot be meant: it is in {self.unit}, from {self.least:g} to {self.most:g}")
