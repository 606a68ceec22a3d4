"""Work of the fullest rank in a MoE layer: pairs of tokens and experts, and distinct experts, by tokens of the step.

The ranks of an EP group wait for the fullest of them in every layer. With q_e the probability that a token chooses expert e, a step of T
tokens gives a rank T·Σq pairs and Σ(1 - (1 - q)^T) distinct experts on average (the coupon collector); the counts of the ranks spread about
these, less than independent draws would, for a token's experts are all different. Covariances of a token's choices are Hájek's,
-q(1-q)·q'(1-q')/Σq(1-q), exact where all experts are alike. The fullest rank is the largest of counts with these means and
variances. Pairs and distinct experts stand each on its own: where one rank has the most pairs and another one the most experts, the layer
is taken to have both. Against draws both are within 2 % for 128 experts on up to 8 ranks, within 10 % for 8 experts, and 15 % too large for
a few tokens on 64 ranks.

The arrays are tables over tokens, made on the host; nothing is drawn. Copies of an expert share its tokens evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simjax.deployment import Deployment
from simjax.parallel.experts import LLMSERVINGSIM, Experts

_EXACT_TOKENS, _PER_OCTAVE = 16, 6  # token counts that are computed; between them the tables are linear
_SPREADS, _BEYOND, _POINTS = 6.0, 4.0, 96  # of the sum over the distribution of the largest


@dataclass(frozen=True)
class ExpertLoad:
    """The fullest rank in steps of 1 to T tokens, averaged over MoE layers.

    Attributes:
        pairs: f[T], pairs of a token and an expert that it computes.
        distinct: f[T], distinct experts whose weights it reads.
        mean_pairs: f[T], pairs of a rank on average: `mean_pairs / pairs` is the balancedness of a step.
    """

    pairs: Any
    distinct: Any
    mean_pairs: Any


def load_of(deployment: Deployment, tokens: np.ndarray) -> ExpertLoad | None:
    """The load of a deployment in steps of so many tokens of all ranks, which increase, i[N].

    None where the closed form of one rank and even popularity holds (`Op.distinct_experts`).
    """
    model, experts, ranks = deployment.model, deployment.parallelism.experts, deployment.parallelism.expert
    if not model.is_moe or (ranks == 1 and experts.popularity.even):
        return None
    if experts.all2all_backend == LLMSERVINGSIM:
        own = np.maximum(tokens // deployment.parallelism.data, 1)
        return simplified_load(own, model.num_experts, model.num_experts_per_tok, ranks)
    sizes = model.num_experts, model.num_experts_per_tok, model.num_moe_layers
    return expert_load(experts, *sizes, ranks, int(tokens[-1]), at=tokens)


def simplified_load(tokens: np.ndarray, num_experts: int, experts_per_token: int, ranks: int) -> ExpertLoad:
    """The load of LLMServingSim's balanced gate: of a member's tokens those with an expert on the rank, as if all of theirs were there."""
    reached = np.round(tokens * (1.0 - ((ranks - 1) / ranks) ** experts_per_token)) * experts_per_token
    distinct = np.minimum(np.round(tokens * experts_per_token / ranks), num_experts // ranks)
    return ExpertLoad(np.maximum(reached, experts_per_token), np.maximum(distinct, 1.0), tokens * (experts_per_token / ranks))


def expert_load(
    experts: Experts,
    num_experts: int,
    experts_per_token: int,
    layers: int,
    ranks: int,
    max_tokens: int,
    xp: Any = np,
    at: np.ndarray | None = None,
) -> ExpertLoad:
    """The fullest of `ranks` ranks in steps of 1 to `max_tokens` tokens.

    Args:
        experts: placement and popularity.
        num_experts: routed experts of a layer.
        experts_per_token: experts that a token chooses.
        layers: MoE layers, for popularities that differ between them.
        ranks: ranks of the EP group; 1 without expert parallelism, whose ranks all compute a part of every expert.
        max_tokens: most tokens of a step.
        xp: numpy, or jax.numpy to take derivatives by the parameters of the popularity; the placement is held.
        at: the tokens for which it is asked instead of all of 1 to `max_tokens`, i[T].
    """
    tokens = np.arange(1, max_tokens + 1) if at is None else at
    mean_pairs = tokens * (experts_per_token / ranks)
    chosen = experts.popularity.chosen(num_experts, experts_per_token, layers, xp)
    if experts.popularity.kind == "balanced":
        return ExpertLoad(mean_pairs, np.minimum(mean_pairs, num_experts / ranks), mean_pairs)
    placing = np.asarray(jax.lax.stop_gradient(chosen)) if experts.eplb else np.zeros(chosen.shape)  # linear, whatever is chosen
    slots = experts.slots(placing, ranks)
    if experts.popularity.kind == "round_robin":
        return ExpertLoad(*_in_turn(tokens * experts_per_token, num_experts, slots[0]), mean_pairs)
    copies = np.stack([np.bincount(layer[layer >= 0], minlength=num_experts) for layer in slots])
    of_copy = chosen / copies
    q = xp.where(slots >= 0, xp.take_along_axis(of_copy, np.maximum(slots, 0).reshape(len(slots), -1), axis=1).reshape(slots.shape), 0.0)
    grid = _grid(max_tokens)
    pairs, distinct = zip(*(fullest(layer, int(t), xp) for t in grid for layer in [q]), strict=True)
    return ExpertLoad(_between(grid, xp.stack(pairs), tokens, xp), _between(grid, xp.stack(distinct), tokens, xp), mean_pairs)


def fullest(q: Any, tokens: int, xp: Any = np) -> tuple[Any, Any]:
    """Expected pairs and distinct experts of the fullest rank in a step, both averaged over layers, scalars.

    Args:
        q: probability that a token chooses the expert in a slot, f[L, ranks, slots].
        tokens: tokens of the step.
        xp: numpy or jax.numpy.
    """
    count = q.shape[1] * q.shape[2]
    own = q * (1.0 - q)  # variance of one token's choice
    layer = xp.maximum(own.sum(axis=(1, 2), keepdims=True), 1e-300)
    hajek = count / max(count - 1, 1) / layer[:, :, 0]
    missed = (1.0 - q) ** (tokens - 1)
    hit = 1.0 - missed * (1.0 - q)
    means = tokens * q.sum(axis=2), hit.sum(axis=2)
    # variance of a sum of indicators with variances v, whose covariances are -w w' times a factor
    spreads = []
    for v, w, factor in ((tokens * own, own, tokens * hajek), (hit * (1.0 - hit), own * missed, tokens * hajek)):
        rank = v.sum(axis=2) - factor * (w.sum(axis=2) ** 2 - (w**2).sum(axis=2))
        whole = v.sum(axis=(1, 2)) - factor[:, 0] * (w.sum(axis=(1, 2)) ** 2 - (w**2).sum(axis=(1, 2)))
        spreads.append(_independent(xp.maximum(rank, 0.0), xp.maximum(whole, 0.0), xp))
    most = tokens * xp.minimum(1.0 * q.shape[2], q.sum(axis=(1, 2)))  # all of a token's experts on one rank
    pairs = xp.minimum(_largest(means[0], spreads[0], xp), most)
    distinct = xp.minimum(_largest(means[1], spreads[1], xp), xp.minimum(1.0 * q.shape[2], most))
    return pairs.mean(), distinct.mean()


def _independent(variances: Any, whole: Any, xp: Any) -> Any:
    """Variances of independent variables whose largest exceeds their mean as much as that of correlated ones, f[L, ranks].

    The largest of equally correlated variables is that of independent ones of variance (1 - correlation) times as large.

    Args:
        variances: of each rank, f[L, ranks].
        whole: of the sum over ranks, f[L].
        xp: numpy or jax.numpy.
    """
    ranks = variances.shape[1]
    if ranks == 1:
        return variances
    total = xp.maximum(variances.sum(axis=1), 1e-300)
    correlation = (whole - total) / ((ranks - 1) * total)
    return variances * (1.0 - correlation[:, None])


def _largest(means: Any, variances: Any, xp: Any) -> Any:
    """Expected largest of independent counts, f[L], of means and variances f[L, ranks].

    The sum over j of the probability that some count exceeds j; a count is Poisson's, stretched to its variance, by the approximation of
    Wilson and Hilferty. Where the counts are large, one j stands for several.
    """
    if means.shape[1] == 1:
        return means[:, 0]
    stretch = xp.clip(variances / xp.maximum(means, 1e-9), 1e-3, 1e3)[:, :, None]
    reach = _SPREADS * xp.sqrt(variances)
    low = xp.floor(xp.maximum((means - reach).max(axis=1, keepdims=True), 0.0))
    step = xp.maximum(((means + reach).max(axis=1, keepdims=True) + _BEYOND - low) / _POINTS, 1.0)
    x = (low + step * (np.arange(_POINTS) + 0.5))[:, None, :]
    a = x / stretch + 0.5
    z = 3.0 * xp.sqrt(a) * (1.0 - 1.0 / (9.0 * a) - (xp.maximum(means, 1e-9)[:, :, None] / stretch / a) ** (1.0 / 3.0))
    below = _normal(z, xp).prod(axis=1)
    return low[:, 0] + step[:, 0] * (1.0 - below).sum(axis=1)


def _normal(z: Any, xp: Any) -> Any:
    """The distribution function of the standard normal."""
    if xp is jnp:
        return jax.scipy.special.ndtr(z)
    from scipy.special import ndtr  # here, not at the top: dense models need none

    return ndtr(z)


def _in_turn(pairs: np.ndarray, experts: int, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs and distinct experts of the fullest rank where pairs take the experts in turn, f[T] both."""
    each, copies = np.arange(experts), np.bincount(slots[slots >= 0], minlength=experts)
    counts = pairs[:, None] // experts + (each < pairs[:, None] % experts)  # [T, E]
    of_copy = np.where(slots >= 0, (counts / copies)[:, np.maximum(slots, 0)], 0.0)  # [T, ranks, slots]
    return of_copy.sum(axis=2).max(axis=1), np.minimum(of_copy, 1.0).sum(axis=2).max(axis=1)


def _grid(max_tokens: int) -> np.ndarray:
    octaves = max(int(np.ceil(np.log2(max(max_tokens, 2)))), 1)
    grid = np.unique(np.concatenate([np.arange(1, _EXACT_TOKENS + 1), np.round(2.0 ** (np.arange(octaves * _PER_OCTAVE) / _PER_OCTAVE))]))
    return np.append(grid[grid < max_tokens], max_tokens).astype(int)


def _between(grid: np.ndarray, values: Any, tokens: np.ndarray, xp: Any) -> Any:
    return xp.interp(xp.asarray(tokens, dtype=float), xp.asarray(grid, dtype=float), values)
