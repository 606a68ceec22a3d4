"""Power of the ranks' devices. Legend: N ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Float64


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PowerParams:
    """Power of the ranks' devices, all devices of a rank together, and the work of its steps; every leaf has a leading axis N.

    Attributes:
        standing_w: power of raised clocks beyond idle.
        standby_s: seconds for which the clocks stay raised after a step.
        footprint_w, memory_w, compute_w: as in `simjax.power.spec.DevicePower`.
        limit_w: most power beyond standby.
        sequence_host_s: seconds of a step for each sequence in which the device waits for the host, in its step time.
        weights_s, token_s, sequence_s, experts_s, expert_share, kv_s: bytes of a step, see `simjax.power.work.StepWork`.
        token_compute_s, sequence_compute_s, pair_compute_s: FLOPs of a step, likewise.
    """

    standing_w: Float64[Array, "*N"]
    standby_s: Float64[Array, "*N"]
    footprint_w: Float64[Array, "*N"]
    memory_w: Float64[Array, "*N"]
    compute_w: Float64[Array, "*N"]
    limit_w: Float64[Array, "*N"]
    sequence_host_s: Float64[Array, "*N"]
    weights_s: Float64[Array, "*N"]
    token_s: Float64[Array, "*N"]
    sequence_s: Float64[Array, "*N"]
    experts_s: Float64[Array, "*N"]
    expert_share: Float64[Array, "*N"]
    kv_s: Float64[Array, "*N"]
    token_compute_s: Float64[Array, "*N"]
    sequence_compute_s: Float64[Array, "*N"]
    pair_compute_s: Float64[Array, "*N"]
