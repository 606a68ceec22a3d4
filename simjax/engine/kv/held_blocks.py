"""KV blocks that the requests in the slots hold through the prefix cache."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HeldBlocks:
    """Blocks of the prefix cache that requests hold; arrays over S+W slots, or scalars of one request.

    Attributes:
        hashed: leading blocks of the content that the request holds through runs.
        last: row of its last hold, 0 for none.
        depth: number of the prefix node on its path in which block `hashed` lies.
        reach: leading blocks of the content that are others' as well.
        named_tokens: tokens whose blocks have their names as far as they are full.
        cached_tokens: tokens found in the cache when the request was first admitted.
    """

    hashed: Int32[Array, "*A"]
    last: Int32[Array, "*A"]
    depth: Int32[Array, "*A"]
    reach: Int32[Array, "*A"]
    named_tokens: Int32[Array, "*A"]
    cached_tokens: Int32[Array, "*A"]

    def emptied(self) -> HeldBlocks:
        """The same requests when they hold nothing."""
        zero = jnp.zeros_like(self.hashed)
        return HeldBlocks(zero, zero, zero, zero, zero, self.cached_tokens)

    def first_admitted(self, fresh: Array, cached_tokens: Array) -> HeldBlocks:
        """The requests with the tokens that the fresh ones (bool) among them found when they were admitted."""
        return dataclasses.replace(self, cached_tokens=jnp.where(fresh, cached_tokens, self.cached_tokens))

    def outcome(self) -> dict[str, Array]:
        """Columns of `RequestLog` of one request."""
        return {"cached_tokens": self.cached_tokens}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoHeldBlocks:
    """The same without a prefix cache: no request shares a block with another."""

    hashed: ClassVar[int] = 0
    cached_tokens: ClassVar[int] = 0

    def emptied(self) -> NoHeldBlocks:
        """The same requests when they hold nothing."""
        return self

    def first_admitted(self, fresh: Array, cached_tokens: Array) -> NoHeldBlocks:
        """The requests, which found nothing."""
        return self

    def outcome(self) -> dict[str, Array]:
        """No column."""
        return {}
