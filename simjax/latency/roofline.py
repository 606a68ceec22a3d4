"""A latency profile for a device on which no model was measured, from the fractions of its data sheet that kernels are known to reach."""

from __future__ import annotations

from dataclasses import dataclass

from simjax.hardware import DeviceSpec
from simjax.latency.attention.roofline import AttentionEfficiency
from simjax.latency.fitting.efficiency import OpEfficiency
from simjax.latency.profiles.profile import ANY_DEGREE, HostOverheads, LatencyProfile, RankCoefficients, ValidRange

# What all devices share for want of a measurement: fitted to matrix products and attention on an RTX PRO 6000 (see its generic profile).
TILE_PENALTY = 27.0
OVERLAP = 3.0
LARGE_TILE = (128, 256)
EXPERTS_FLOOR_S = 30e-6  # router, sort, two grouped products, sum
SAMPLER_FLOOR_S = 15e-6


@dataclass(frozen=True)
class Achieved:
    """Fractions of the data sheet that the kernels of a device reach, and the least time of each kind of kernel.

    Attributes:
        gemm_bandwidth: fraction of the memory bandwidth that matrix products of up to 16 rows reach.
        gemm_compute: fraction of the peak that large square matrix products reach.
        gemm_floor_s: least seconds of a matrix product.
        rows_bandwidth: fraction of the memory bandwidth that element-wise operations reach.
        rows_floor_s: least seconds of an element-wise operation.
        decode_bandwidth: fraction of the memory bandwidth that decode attention reaches on much context.
        decode_floor_s: least seconds of decode attention in one layer.
        prefill_compute: fraction of the peak that prefill attention reaches.
        prefill_floor_s: least seconds of prefill attention in one layer.
        packed_decodes: whether the attention kernel of mixed steps splits and packs decodes (FlashAttention 3, Blackwell kernels).
        source: origin of these numbers.
    """

    gemm_bandwidth: float = 0.75
    gemm_compute: float = 0.75
    gemm_floor_s: float = 2.6e-6
    rows_bandwidth: float = 0.8
    rows_floor_s: float = 3e-6
    decode_bandwidth: float = 0.82
    decode_floor_s: float = 12e-6
    prefill_compute: float = 0.53
    prefill_floor_s: float = 12e-6
    packed_decodes: bool = False
    source: str = "assumed: typical of the devices for which kernel tables exist"


def roofline_profile(device: DeviceSpec, achieved: Achieved | None = None, host: HostOverheads | None = None) -> LatencyProfile:
    """Coefficients for any model on `device`, 16-bit weights and activations."""
    a = achieved or Achieved()
    penalty = 1.0 + TILE_PENALTY * sum(1.0 / side for side in LARGE_TILE)
    gemm = OpEfficiency(
        floor_s=a.gemm_floor_s,
        bandwidth_efficiency=a.gemm_bandwidth,
        compute_efficiency=a.gemm_compute * penalty,
        tile_penalty=TILE_PENALTY,
        overlap=OVERLAP,
    )
    rows = OpEfficiency(floor_s=a.rows_floor_s, bandwidth_efficiency=a.rows_bandwidth)
    experts = OpEfficiency(EXPERTS_FLOOR_S, a.gemm_bandwidth, a.gemm_compute * penalty, TILE_PENALTY, OVERLAP)
    sampler = OpEfficiency(floor_s=SAMPLER_FLOOR_S, bandwidth_efficiency=a.rows_bandwidth)
    attention = AttentionEfficiency(
        decode_floor_s=a.decode_floor_s,
        decode_sequence_s=0.05e-6,
        decode_bandwidth_efficiency=a.decode_bandwidth,
        decode_skew=0.03,
        mixed_floor_s=a.prefill_floor_s,
        prefill_compute_efficiency=a.prefill_compute,
        tile_keys=280.0,
        sequence_keys=0.0 if a.packed_decodes else 190.0,
        empty_keys=20.0,
        mixed_decode_share=0.0 if a.packed_decodes else 1.1,
        longest_share=1.17,
        spill_share=0.0 if a.packed_decodes else 1.85,
        spill_tokens=130e3,
        spill_sequences=80.0,
    )
    ops = {"gemm": gemm, "elementwise": rows, "experts": experts, "sampler": sampler}
    return LatencyProfile(
        device=device.name,
        model=None,
        dtype="bfloat16",
        ranks={ANY_DEGREE: RankCoefficients(ops=ops, attention=attention)},
        host=host or HostOverheads(),
        valid=ValidRange(tokens=(1, 16384), sequences=(1, 1024), context=(1, 131072)),
        provenance={"kind": "roofline priors, not fitted to any run", "data": [a.source]},
        source=f"roofline of {device.name}",
    )
