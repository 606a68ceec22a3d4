"""Old names that keep working for a while, each with one line that gives the new one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str], get: Callable[[str], Any]) -> Callable[[str], Any]:
    """A module's `__getattr__` that knows old names.

    Args:
        module: name of the module.
        names: new names by old ones.
        get: function that returns what a new name stands for, and raises AttributeError for any other.
    """

    def of_name(name: str) -> Any:
        if name not in names:
            return get(name)
        warnings.warn(f"{module}.{name} is called {module}.{names[name]} now", DeprecationWarning, stacklevel=2)
        return get(names[name])

    return of_name
