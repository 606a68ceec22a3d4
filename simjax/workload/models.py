"""Models that requests name, where a cluster serves several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simjax.errors import SimjaxError
from simjax.model import plain_name

ANY = -1
"""Index of a request that names no model: any instance may serve it."""


@dataclass(frozen=True)
class RequestModels:
    """The models that R requests name.

    Attributes:
        names: each model once, as the source first writes it; two names are the same if `plain_name` says so.
        index: int32[R], place in `names`, or `ANY`.
    """

    names: tuple[str, ...]
    index: np.ndarray

    @staticmethod
    def of(names: Sequence[object] | None) -> RequestModels | None:
        """The models of requests from the name of each, None or "" where it has none; None if no request has one."""
        place: dict[str, int] = {}
        spelt: list[str] = []
        index = []
        for name in [] if names is None else names:
            text = "" if name is None else str(name).strip()
            key = plain_name(text)
            if text and key not in place:
                place[key] = len(spelt)
                spelt.append(text)
            index.append(place[key] if text else ANY)
        return RequestModels(tuple(spelt), np.array(index, np.int32)) if spelt else None

    @property
    def turn(self) -> np.ndarray:
        """Number of earlier requests that name the same model, int32[R]: instances of a model take turns among themselves."""
        turn = np.zeros(len(self.index), np.int32)
        for model in range(ANY, len(self.names)):
            mine = self.index == model
            turn[mine] = np.arange(np.count_nonzero(mine))
        return turn

    def take(self, index: np.ndarray) -> RequestModels:
        """The models of the requests `index` (int[K]), in that order."""
        return RequestModels(self.names, self.index[index])

    def served_by(self, models: Sequence[str]) -> np.ndarray:
        """Place in `names` of the model of each instance, int32[N]; one past the last for a model that no request names."""
        place = {plain_name(name): i for i, name in enumerate(self.names)}
        return np.array([place.get(plain_name(name), len(self.names)) for name in models], np.int32)

    def validate(self, requests: int, source: str) -> None:
        """Raise a `SimjaxError` unless they are the models of that many requests."""
        if len(self.index) != requests:
            raise SimjaxError(f"{source}: models are given for {len(self.index)} requests, not {requests}")
        if np.any((self.index < ANY) | (self.index >= len(self.names))):
            raise SimjaxError(f"{source}: a request has the index of no model; it must lie in [{ANY}, {len(self.names)})")
