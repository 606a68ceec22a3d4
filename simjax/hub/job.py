"""`simjax profile import`: a device's profile with the operators of an installed database."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec
from simjax.hub.aiconfigurator import BACKENDS, tables
from simjax.hub.fit import Fitted, fit_table
from simjax.latency.priors import VLLM
from simjax.latency.profiles.profile import ANY_DEGREE, LatencyProfile

SOURCE = "aiconfigurator-core"


@dataclass(frozen=True)
class Imported:
    """An operation of a profile: its name there, the backend whose kernels it has (None for all), whose tables it comes from, the fit."""

    key: str
    backend: str | None
    version: str
    fitted: Fitted


def import_operators(
    base: LatencyProfile, device: DeviceSpec, folder: Path, only: Sequence[str] = (), on_table: Callable[[str], None] | None = None
) -> tuple[LatencyProfile, list[Imported]]:
    """A profile with the operators of a database in place of its own, by backend where they differ.

    Args:
        base: a profile for any model on the device; what is not imported stays as it is there.
        device: the device.
        folder: the folder `systems` of the database.
        only: names of the operations to take, such as `gemm_fp8` or `experts_*`; all when empty. Those that other backends than vLLM have
            for themselves are always taken.
        on_table: is told the name of each table before it is fitted.

    Raises:
        SimjaxError: the database lacks the device or one of `only`, or the base is for one model.
    """
    if base.model is not None or ANY_DEGREE not in base.ranks:
        raise SimjaxError(f"{base.source}: operators go into a profile for any model at any degree, such as the shipped generic ones")
    found: list[Imported] = []
    for table in tables(folder, (device.name, *device.aliases)):
        if on_table is not None:
            on_table(f"{table.version} {table.key}")
        found.append(Imported(table.key, table.backend, table.version, fit_table(table.measured, device, table.kind == "experts")))
    keys = list(dict.fromkeys(x.key for x in found))
    for name in only:
        if not fnmatch.filter(keys, name):
            raise SimjaxError(f"only: the tables of {device.name} have no {name}; {closest(name, keys)}")
    rank = base.ranks[ANY_DEGREE]
    taken = [x for x in found if not only or x.backend not in (None, VLLM) or any(fnmatch.fnmatchcase(x.key, name) for name in only)]
    with_operators = lambda backend: {
        ANY_DEGREE: replace(rank, ops={**rank.ops, **{x.key: x.fitted.efficiency for x in taken if x.backend in (None, backend)}})
    }
    others = {name: with_operators(name) for name in BACKENDS if name != VLLM}
    provenance: Mapping[str, Any] = {**base.provenance, "operators": [_line(x) for x in taken]}
    return replace(base, ranks=with_operators(VLLM), backend_ranks=others, provenance=provenance), found


def _line(x: Imported) -> str:
    f = x.fitted
    return (
        f"{x.key}{f' of {x.backend}' if x.backend else ''}: {SOURCE}, {x.version}; {f.points} times of {f.shapes} shapes, {f.rows[0]} to "
        f"{f.rows[1]} rows; error of shapes left out, median {f.median_percent:.1f} %, p90 {f.p90_percent:.0f} %"
    )
