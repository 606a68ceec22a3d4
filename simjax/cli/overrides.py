"""The arguments of a multirun, sorted into Hydra's own settings, single values and swept keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from simjax.config import compose
from simjax.config.sweep import read_space
from simjax.errors import SimjaxError
from simjax.explore.axes import axis
from simjax.explore.keys import canonical, check_key
from simjax.explore.values import format_value, read_override, shortened

SHARD = "sweep.shard"


@dataclass(frozen=True)
class Arguments:
    """The arguments of a multirun.

    Attributes:
        hydra: overrides of Hydra's own settings.
        fixed: overrides with one value.
        swept: keys with several values, and these values in Hydra's grammar or as "linspace(1,20,40)".
    """

    hydra: list[str]
    fixed: list[str]
    swept: dict[str, str]


def sort_arguments(overrides: Sequence[str]) -> Arguments:
    """Sort the arguments of a multirun by what they set.

    Raises:
        SimjaxError: an argument is not an option, or sets a key that another one sets.
    """
    found, given = Arguments([], [], {}), dict[str, str]()
    for override in map(compose.normal, overrides):
        key, _, value = override.partition("=")
        if key.lstrip("+").startswith(("hydra.", "hydra/")):
            found.hydra.append(re.sub(r"^(hydra\.sweeper\.params[.=])", r"++\1", override))  # these keys are in no schema
            continue
        compose.check_form([override])
        space = read_space(value)
        several = space is not None or read_override(override).is_sweep_override()
        if several and re.match(r"\+[^+]", key):
            check_key(canonical(key[1:]))
            raise SimjaxError(f"{shortened(override)}: leave the + out: {key[1:]} has a value, and these replace it")
        key = canonical(key)
        if key in given:
            raise SimjaxError(f"{key} is given twice: {shortened(given[key])} and {shortened(override)}")
        given[key] = override
        if several:
            found.swept[key] = value if space is None else "{}({})".format(*space)
        else:
            found.fixed.append(override)
    return found


def axes_override(swept: dict[str, str]) -> list[str]:
    """Swept keys as one override of `sweep.axes`; none without swept keys."""
    axes = {key: [value for (value,) in axis(key, values).values] for key, values in swept.items() if key != SHARD}
    return [f"++sweep.axes={format_value(axes)}"] if axes else []
