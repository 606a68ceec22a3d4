"""The trace formats that exist: every `TraceFormat` in a module of the folder. A new format is a new module, and nothing else."""

from __future__ import annotations

import importlib
import pkgutil

from simjax.workload.formats.base import TraceFormat

_MACHINERY = ("base", "discover", "read", "recognise", "tables")


def formats_in(package: str) -> dict[str, TraceFormat]:
    """The formats of a package's modules by name, in the order in which "auto" tries them.

    First those that need the most columns: a file with the columns of two formats is of the more particular one. Ties go by name.

    Raises:
        ValueError: two formats have the same name.
    """
    found: dict[str, TraceFormat] = {}
    paths = importlib.import_module(package).__path__
    for module in sorted(x.name for x in pkgutil.walk_packages(paths, f"{package}.")):
        if module.removeprefix(f"{package}.").partition(".")[0] in _MACHINERY:
            continue
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, TraceFormat) and found.setdefault(value.name, value) is not value:
                raise ValueError(f"two trace formats have the name {value.name}")
    return dict(sorted(found.items(), key=lambda item: (item[1].fallback, -len(item[1].required), item[0])))
