"""Classes of service that requests belong to: each with a priority, and limits on latencies of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simjax.errors import SimjaxError, closest

NONE = -1
"""Index of a request of no class."""
LIMITS = ("ttft_s", "tpot_s", "e2e_s")
"""Limits that a class may have, by the names of `slo.*`."""
_KEYS = ("share", "priority", *LIMITS)
_INT32 = 2**31


@dataclass(frozen=True)
class ServiceClass:
    """A class of `workload.classes`.

    Attributes:
        share: weight by which requests are drawn; None where a trace names their classes.
        priority: of its requests, small ones first.
        limits: limits in seconds that are set, by their names in `LIMITS`.
    """

    share: float | None
    priority: int
    limits: dict[str, float]

    @staticmethod
    def of(name: str, given: object) -> ServiceClass:
        """The class that an entry of `workload.classes` describes.

        Raises:
            SimjaxError: it is no mapping, or has an unknown key or an impossible value.
        """
        where = f"workload.classes.{name}"
        if not isinstance(given, Mapping):
            raise SimjaxError(f"{where}: a class is a mapping like {{share: 3, priority: 0, ttft_s: 0.5, tpot_s: 0.05}}, got {given!r}")
        for key in given:
            if key not in _KEYS:
                raise SimjaxError(f"{where}.{key}: there is no such key; {closest(str(key), list(_KEYS))}")
        values = {key: value for key, value in given.items() if value is not None}
        priority = values.get("priority", 0)
        if isinstance(priority, bool) or not isinstance(priority, int) or not -_INT32 <= priority < _INT32:
            raise SimjaxError(f"{where}.priority={priority}: it must be a whole number; small ones go first")
        limits = {key: _positive(where, key, values[key]) for key in LIMITS if key in values}
        return ServiceClass(_positive(where, "share", values["share"]) if "share" in values else None, priority, limits)


def _positive(where: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
        raise SimjaxError(f"{where}.{key}={value}: it must be a positive number" + (" of seconds" if key in LIMITS else ""))
    return float(value)


@dataclass(frozen=True)
class RequestClasses:
    """The classes of R requests.

    Attributes:
        names: each class once; those of the configuration in its order, then others in the order in which a trace first names them.
        index: int32[R], place in `names`, or `NONE`.
        limits: limits in seconds of each class, by its place, as in `ServiceClass`.
    """

    names: tuple[str, ...]
    index: np.ndarray
    limits: tuple[dict[str, float], ...]

    @staticmethod
    def of(names: Sequence[object] | None) -> RequestClasses | None:
        """The classes of requests from the name of each, None or "" where it has none; None if no request has one."""
        texts = ["" if name is None else str(name).strip() for name in names or ()]
        found = tuple(dict.fromkeys(text for text in texts if text))
        place = {name: i for i, name in enumerate(found)}
        return RequestClasses(found, np.array([place.get(text, NONE) for text in texts], np.int32), ({},) * len(found)) if found else None

    def take(self, index: np.ndarray) -> RequestClasses:
        """The classes of the requests `index` (int[K]), in that order."""
        return replace(self, index=self.index[index])

    def limit(self, name: str) -> np.ndarray:
        """A limit of every request in seconds, float64[R]; infinity where its class has none."""
        of_class = [limits.get(name, np.inf) for limits in self.limits]
        return np.array([*of_class, np.inf])[self.index]  # the last one for those of no class

    def validate(self, requests: int, source: str) -> None:
        """Raise a `SimjaxError` unless they are the classes of that many requests."""
        if len(self.index) != requests:
            raise SimjaxError(f"{source}: classes are given for {len(self.index)} requests, not {requests}")
        if np.any((self.index < NONE) | (self.index >= len(self.names))) or len(self.limits) != len(self.names):
            raise SimjaxError(f"{source}: a request has the index of no class; it must lie in [{NONE}, {len(self.names)})")


def drawn_classes(classes: Mapping[str, ServiceClass], draws: np.ndarray) -> RequestClasses:
    """The classes of requests by their shares.

    Args:
        classes: each has a share.
        draws: float64[R] in [0, 1), one for each request; calls of a session have the same.
    """
    shares = np.array([x.share for x in classes.values()], np.float64)
    index = np.searchsorted(np.cumsum(shares / shares.sum())[:-1], draws, side="right").astype(np.int32)
    return RequestClasses(tuple(classes), index, tuple(x.limits for x in classes.values()))


def named_classes(classes: Mapping[str, ServiceClass], named: RequestClasses) -> RequestClasses:
    """The classes that a trace names, with the limits of the configuration."""
    names = tuple(dict.fromkeys((*classes, *named.names)))
    place = np.array([*(names.index(name) for name in named.names), NONE], np.int32)
    return RequestClasses(names, place[named.index], tuple(classes[name].limits if name in classes else {} for name in names))
