"""A subsystem's part of a lowered simulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """What a subsystem adds to the arrays of a cluster; nothing where the cluster does not have it.

    Attributes:
        sizes: fields of `EngineShape`.
        params: fields of `ClusterParams`.
    """

    sizes: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: Part) -> Part:
        return Part(self.sizes | other.sizes, self.params | other.params)
