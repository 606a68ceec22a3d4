"""A measured bundle of kernel times as a target: the sums of them that a step's time consists of.

A bundle holds some ten thousand times of a few dozen kernels. Their distance from any smooth formula is not noise: kernel times form
staircases, one step for every wave of tiles and for every switch to another kernel, so neighbours are off together. Matrix products switch
about twice an octave, and there are eleven octaves from 1 to 2,048 tokens: a block of such times counts as some twenty independent numbers
(`TableWeights.block_weight`), however densely it was measured, and each octave as much as any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.calibrate.targets.residuals import pseudo_huber
from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec
from simjax.latency.attention.coefficients import decode_attention_s, mixed_attention_s
from simjax.latency.attention.fit import AttentionPoints, chunks_of, decodes_of
from simjax.latency.fitting.fit import CACHED_EXPERT_BYTES, LEAST_DECODES, RankData, kv_tokens, read_ranks
from simjax.latency.profiles.compile import all_layers_attention, total_s
from simjax.latency.profiles.profile import LatencyProfile
from simjax.latency.tables.bundle import Curve
from simjax.latency.tables.curves import at_sizes, moe_s
from simjax.model import ModelSpec
from simjax.model.ops import Op, step_ops

if TYPE_CHECKING:
    from jaxtyping import Float64

MOST_POINTS = 500  # points of attention in a block: more points of the same grid only take more time


@dataclass(frozen=True)
class TableWeights:
    """Weights of the blocks of a bundle.

    Attributes:
        dense_sd, head_sd, decode_sd, mixed_sd: standard deviations of the logarithm of the work by tokens, of head and sampler, and of the
            attention of decodes and of steps with a chunk: about the errors of the shipped generic profiles on the bundles that they are
            fitted to (root mean squares 3 to 4, 2 to 4, 6 to 12 and 7 to 10 %).
        block_weight: independent observations that a block stands for.
        outlier: standard deviations beyond which a residual counts linearly, not squared: a sign of another kernel, not another device.
    """

    dense_sd: float = 0.04
    head_sd: float = 0.04
    decode_sd: float = 0.10
    mixed_sd: float = 0.10
    block_weight: float = 20.0
    outlier: float = 3.0


@dataclass(frozen=True)
class Block:
    """Measured times of one kind on one rank.

    Attributes:
        name: name of the kind.
        log_s: f64[N], logarithms of the times in seconds.
        sd: standard deviation of a logarithm.
        weight: f64[N], independent observations that each point stands for.
    """

    name: str
    log_s: np.ndarray
    sd: float
    weight: np.ndarray


@dataclass(frozen=True)
class _Rank:
    """The part of a bundle for one tensor-parallel degree, ready to be compared."""

    deployment: Deployment
    by_tokens: tuple[Op, ...]
    by_sequences: tuple[Op, ...]
    tokens: np.ndarray
    sequences: np.ndarray
    decodes: AttentionPoints
    mixed: AttentionPoints
    blocks: tuple[Block, ...]

    @property
    def degree(self) -> int:
        """Tensor-parallel degree."""
        return self.deployment.parallelism.tensor

    def predicted(self, profile: LatencyProfile) -> list[Array]:
        """Predicted times of every block, f64[N] in seconds each."""
        model, device = self.deployment.model, self.deployment.device
        rank = profile.rank(self.degree, model)
        attention = all_layers_attention(rank, self.deployment, jnp)
        times_s = partial(total_s, rank=rank, source=profile.source, device=device, dtype=model.dtype, xp=jnp)
        return [
            jnp.asarray(times_s(self.by_tokens, rows=self.tokens)),
            jnp.asarray(times_s(self.by_sequences, rows=self.sequences)),
            decode_attention_s(attention, decodes_of(self.decodes)),
            mixed_attention_s(attention, chunks_of(self.mixed), decodes_of(self.mixed)),
        ]


@dataclass(frozen=True)
class TablesTarget:
    """The kernel times of a bundle.

    Attributes:
        name: name for messages.
        ranks: one part for each tensor-parallel degree.
        weights: weights of the blocks.
    """

    name: str
    ranks: tuple[_Rank, ...]
    weights: TableWeights

    @classmethod
    def of(
        cls,
        folder: str | Path,
        model: ModelSpec | None = None,
        device: DeviceSpec | None = None,
        weights: TableWeights | None = None,
    ) -> TablesTarget:
        """Prepare a bundle.

        Args:
            folder: the folder that holds `meta.yaml`, or one of its tpN folders for that degree alone.
            model: the model that was measured; looked up by the name in `meta.yaml` when None.
            device: the device that it was measured on; likewise.
            weights: weights of the blocks.

        Raises:
            SimjaxError: the folder is no bundle, or its device or model is unknown.
        """
        folder, w = Path(folder), weights or TableWeights()
        one = folder.name.startswith("tp") and folder.name[2:].isdecimal()
        data = read_ranks(folder.parent if one else folder, model, device)
        if one:
            data = [rank for rank in data if f"tp{rank.degree}" == folder.name]
            if not data:
                raise SimjaxError(f"{folder}: no such folder; give the folder of a bundle that holds meta.yaml, or a tpN folder in it")
        degrees = ", ".join(f"tp{rank.degree}" for rank in data)
        return cls(f"kernels of {data[0].model.name} on {data[0].device.name} ({degrees})", tuple(_prepared(x, w) for x in data), w)

    @property
    def observations(self) -> float:
        """Number of independent observations that the residuals stand for."""
        return float(sum(np.sum(block.weight) for rank in self.ranks for block in rank.blocks))

    def residuals(self, profile: LatencyProfile, reverse: bool = False) -> Float64[Array, " K"]:
        """Residuals (log simulated - log measured) / sd times the root of each point's weight.

        Args:
            profile: a profile of the device, for any model or this one; its numbers may be traced.
            reverse: ignored, for nothing is simulated.
        """
        with jax.enable_x64(True):
            parts = [
                pseudo_huber((jnp.log(seconds) - block.log_s) / block.sd, self.weights.outlier) * np.sqrt(block.weight)
                for rank in self.ranks
                for block, seconds in zip(rank.blocks, rank.predicted(profile), strict=True)
            ]
            return jnp.concatenate(parts)

    def errors(self, profile: LatencyProfile) -> dict[str, tuple[float, float]]:
        """Weighted mean and root mean square of log simulated - log measured, by the name of the block."""
        found = {}
        with jax.enable_x64(True):
            for rank in self.ranks:
                for block, seconds in zip(rank.blocks, rank.predicted(profile), strict=True):
                    if not len(block.log_s):
                        continue
                    off, share = np.log(np.asarray(seconds)) - block.log_s, block.weight / np.sum(block.weight)
                    found[f"tp{rank.degree} {block.name}"] = float(share @ off), float(np.sqrt(share @ off**2))
        return found


def _prepared(rank: RankData, w: TableWeights) -> _Rank:
    ops = [op for op in step_ops(rank.model, rank.degree) if op.name in rank.kernels]
    by_tokens, by_sequences = (tuple(op for op in ops if op.per_sequence == kind) for kind in (False, True))
    tokens = next(m.rows for op in by_tokens if not op.experts for m in [rank.kernels[op.name]])
    for op in by_tokens:
        if op.experts:  # with few tokens the experts stayed in the profiler's cache, which they never do in a model
            tokens = tokens[op.distinct_experts(tokens, np) * op.expert_bytes > CACHED_EXPERT_BYTES]
    if rank.model.is_moe and rank.degree > 1:  # experts were measured on one rank only, and without them there is little to sum
        tokens = tokens[:0]
    sequences = rank.kernels[by_sequences[0].name].rows
    decodes, mixed = _attention_points(rank)
    layers = rank.model.num_hidden_layers
    seconds = {
        "work by tokens": (sum(op.count * _measured_s(rank, op, tokens) for op in by_tokens), w.dense_sd, _octaves(tokens)),
        "head and sampler": (sum(op.count * _measured_s(rank, op, sequences) for op in by_sequences), w.head_sd, _octaves(sequences)),
        "decode attention": (layers * decodes.seconds, w.decode_sd, np.ones(len(decodes.seconds))),
        "mixed attention": (layers * mixed.seconds, w.mixed_sd, np.ones(len(mixed.seconds))),
    }
    blocks = tuple(_block(name, s, sd, share, w.block_weight) for name, (s, sd, share) in seconds.items())
    return _Rank(rank.deployment, by_tokens, by_sequences, tokens, sequences, decodes, mixed, blocks)


def _block(name: str, seconds: Any, sd: float, share: np.ndarray, weight: float) -> Block:
    """A block whose points share `weight` independent numbers, but never more than there are points; it may have none."""
    return Block(name, np.log(np.asarray(seconds)), sd, min(weight, len(share)) * share / max(np.sum(share), 1e-300))


def _measured_s(rank: RankData, op: Op, sizes: np.ndarray) -> np.ndarray:
    m = rank.kernels[op.name]
    if not op.experts:
        return at_sizes(Curve(m.rows, m.seconds), sizes)
    assert rank.bundle.moe is not None
    return moe_s(rank.bundle.moe, sizes, op.distinct_experts(sizes, np))


def _attention_points(rank: RankData) -> tuple[AttentionPoints, AttentionPoints]:
    """Decode-only points and points with a chunk, with contexts that fit the device; a few decodes alone were measured in the cache."""
    p = rank.bundle.attention
    fits = p.decodes * p.decode_kv + p.chunk_kv <= kv_tokens(rank)
    found = []
    for kind in ((p.chunk == 0) & (p.decodes >= LEAST_DECODES), p.chunk > 0):
        chosen = np.flatnonzero(fits & kind)
        # at random: every n-th point would be in step with the nested axes of the grid
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:MOST_POINTS])
        found.append(AttentionPoints(*(x[chosen] for x in p)))
    for part, name in zip(found, ("decode-only", "mixed"), strict=True):
        if not len(part.seconds):
            raise SimjaxError(f"{rank.bundle.path / 'attention.csv'}: no {name} point whose context fits {rank.device.name}")
    return found[0], found[1]


def _octaves(sizes: np.ndarray) -> np.ndarray:
    """Share of the logarithmic axis that each of the increasing sizes stands for."""
    return np.gradient(np.log(sizes)) if len(sizes) > 1 else np.ones(len(sizes))
