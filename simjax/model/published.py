"""What others say of the sizes of the shipped models: counts of parameters and bytes of a token, with their sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from simjax.disk.paths import PROFILES
from simjax.model.registry import load_model
from simjax.model.sizes import active_parameters, kv_bytes_per_token, parameters
from simjax.model.spec import ModelSpec


def _embedding(model: ModelSpec) -> int:
    return model.vocab_size * model.hidden_size


def _embeddings(model: ModelSpec) -> int:
    return _embedding(model) * (1 if model.tie_word_embeddings else 2)


COUNTED: dict[str, Callable[[ModelSpec], int]] = {
    "parameters": parameters,
    "without_embeddings": lambda model: parameters(model) - _embeddings(model),
    "active": active_parameters,
    "active_without_input_embedding": lambda model: active_parameters(model) - _embedding(model),
    "kv_bytes_per_token": kv_bytes_per_token,
}
"""What is counted, by the name that a model's file gives it."""


@dataclass(frozen=True)
class Published:
    """A number that the file of a shipped model quotes.

    Attributes:
        name: short name of the model.
        of: what is counted, a key of `COUNTED`.
        count: the number as stated.
        rounded_to: the unit of its last digit.
        within_percent: how far simjax's own count is at most, where that is further than rounding explains: how it was counted is not said.
        source: where it is stated.
    """

    name: str
    of: str
    count: float
    rounded_to: float = 1.0
    within_percent: float | None = None
    source: str = ""

    @property
    def computed(self) -> int:
        """Simjax's own count."""
        return COUNTED[self.of](load_model(self.name))

    @property
    def error_percent(self) -> float:
        """Error of simjax's own count."""
        return 100.0 * (self.computed / self.count - 1.0)

    @property
    def met(self) -> bool:
        """Whether simjax's own count rounds to the stated one, or is as near as `within_percent` says."""
        if self.within_percent is not None:
            return abs(self.error_percent) <= self.within_percent
        return abs(self.computed - self.count) <= self.rounded_to / 2 if self.rounded_to > 1 else self.computed == self.count


def published() -> list[Published]:
    """All numbers that the files of shipped models quote, by model."""
    return [row for path in sorted((PROFILES / "models").glob("*.yaml")) for row in _of(path)]


def _of(path: Path) -> list[Published]:
    return [Published(path.stem, **row) for row in yaml.safe_load(path.read_text()).get("published", ())]
