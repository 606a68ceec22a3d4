"""Formats in which quantised matrices are kept: bytes of a weight, and the data type in which its products are computed.

Scales count where they are not negligible: a float16 scale for a group of weights in int4 (and the group's zero point in 4 bits), an 8-bit
one for 32 weights of the OCP's microscaling formats (mxfp4, mxfp8), one for 16 of NVIDIA's nvfp4. Those of fp8 and int8 are one for a row,
a tensor or a block of 128 x 128 weights (0.02 %, `fp8_block`), and are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from simjax.errors import SimjaxError, closest

MLP, EXPERTS, SHARED_EXPERTS = "mlp", "experts", "shared_experts"
"""Names of the matrices of a dense MLP, of the routed and of the shared experts; those of a mixer have the names of its products."""


@dataclass(frozen=True)
class Format:
    """A format: bytes of a weight with its share of the scales, the data type of matrix products, None for that of the activations
    (only the weights are quantised; they are unpacked on the way), and the kind of kernels that multiply it.
    """

    bytes: Fraction
    compute: str | None
    kernels: str

    def of(self, elements: int) -> int:
        """Bytes of so many weights."""
        return ceil(elements * self.bytes)


FORMATS = {
    "fp8": Format(Fraction(1), "fp8", "fp8"),
    "fp8_block": Format(Fraction(1), "fp8", "fp8_block"),
    "mxfp8": Format(1 + Fraction(1, 32), "fp8", "mxfp8"),
    "fp8_wo": Format(Fraction(1), None, "fp8_wo"),
    "int8": Format(Fraction(1), "int8", "int8"),
    "int8_wo": Format(Fraction(1), None, "int8_wo"),
    "int4": Format(Fraction(1, 2) + Fraction(5, 2 * 128), None, "int4"),
    "mxfp4": Format(Fraction(1, 2) + Fraction(1, 32), None, "mxfp4"),
    "mxfp4_mxfp8": Format(Fraction(1, 2) + Fraction(1, 32), "fp8", "mxfp4_mxfp8"),
    "nvfp4": Format(Fraction(1, 2) + Fraction(1, 16), "fp4", "nvfp4"),
    "nvfp4_wo": Format(Fraction(1, 2) + Fraction(1, 16), None, "nvfp4_wo"),
}
"""By name; `_wo` is weight-only. vLLM multiplies mxfp4 experts with 16-bit activations on every device unless told otherwise;
`mxfp4_mxfp8` is with those of 8 bits."""
FP8 = ("fp8", "fp8_block")
"""Formats whose products parameter `fp8_compute` scales: scales for a row or a tensor, and for blocks."""
WHAT_IF = ("fp8", "int8", "int8_wo", "int4", "mxfp4", "nvfp4", "nvfp4_wo")
"""Formats that can be asked for a checkpoint that is not quantised."""
_INT4 = re.compile(r"int4_g(\d+)(s?)")


def int4_name(group_size: int, symmetric: bool) -> str:
    """The name of weight-only int4 in groups of so many weights (-1: whole columns, whose scales are left out), "s" without zero points."""
    return f"int4_g{max(group_size, 0)}{'s' if symmetric else ''}"


def format_named(name: str) -> Format:
    """The format of that name.

    Raises:
        SimjaxError: there is none.
    """
    if found := FORMATS.get(name):
        return found
    if match := _INT4.fullmatch(name):
        group = int(match[1])
        scales = Fraction(2 if match[2] else Fraction(5, 2)) / group if group else Fraction(0)
        return Format(Fraction(1, 2) + scales, None, "int4")
    raise SimjaxError(f"quantization '{name}' is not known; {closest(name, list(FORMATS))}")
