"""Weights that are copied when it is known which ones a step needs: routed experts, and rows of the embedding.

A layer that has chosen its experts waits for those that the device does not keep: nothing can be computed in the meantime. The device
keeps the most popular ones (`WeightPlacement.cached_experts`), so that with q the probability with which a token chooses expert e, a step
of T tokens copies the sum over the others of 1 - (1 - q)^T experts in every layer, and the cache's hit rate is the share of the pairs of
tokens and experts that go to those which it keeps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.deployment import Deployment
from simjax.memory.pieces import pieces_of
from simjax.placement.weights import EMBEDDING, EXPERTS


def demand_s(deployment: Deployment, max_tokens: int) -> Any:
    """Seconds of the copies on demand in steps of 1 to `max_tokens` tokens, f[max_tokens]; 0.0 where there are none."""
    placement, model = deployment.weights, deployment.part
    if placement is None:
        return 0.0
    tokens, seconds = np.arange(1.0, max_tokens + 1), 0.0
    pieces = pieces_of(deployment)
    missed = missed_experts(deployment, max_tokens) if any(x.name == EXPERTS for x in pieces) else 0.0
    for piece in pieces:
        index = placement.store_of(piece.name, piece.block)
        if index is None or not placement.on_demand(piece.name):
            continue
        store = placement.stores[index]
        if piece.name == EMBEDDING:
            seconds = seconds + store.latency_s + store.read_s(tokens * model.hidden_size * model.dtype_bytes)
        elif placement.simplified:
            seconds = seconds + store.latency_s + store.read_s(piece.size_bytes)
        else:
            seconds = seconds + store.latency_s + store.read_s(missed * piece.expert_bytes, missed)
    return seconds


def missed_experts(deployment: Deployment, max_tokens: int) -> np.ndarray:
    """Experts of a rank that a step of 1 to `max_tokens` tokens copies for a layer, the mean over layers, f[max_tokens]."""
    tokens, ranks = np.arange(1.0, max_tokens + 1), deployment.parallelism.expert
    return sum((1.0 - (1.0 - q) ** tokens for q in _not_kept(deployment).mean(axis=0)), np.zeros(max_tokens)) / ranks


def hit_rate(deployment: Deployment) -> float:
    """Share of the pairs of tokens and experts whose expert the device keeps."""
    return 1.0 - float(_not_kept(deployment).sum(axis=1).mean()) / deployment.model.num_experts_per_tok


def _not_kept(deployment: Deployment) -> np.ndarray:
    """Probability that a token chooses each expert that the device does not keep, the most popular of these first, f[L, E - kept]."""
    placement, model = deployment.weights, deployment.part
    assert placement is not None
    popularity = deployment.parallelism.experts.popularity
    chosen = np.asarray(popularity.chosen(model.num_experts, model.num_experts_per_tok, max(model.num_moe_layers, 1)))
    return np.sort(chosen, axis=1)[:, ::-1][:, placement.cached_experts :]
