"""Requests that a cluster can never serve: refused by name, before anything runs."""

from __future__ import annotations

import numpy as np

from simjax.cluster.disaggregation import CONNECTORS, MOST_NEW_TOKENS
from simjax.cluster.spec import ClusterSpec
from simjax.deployment import Role
from simjax.engine.params import NoSpeculationParams, RankParams, SpeculationParams
from simjax.errors import SimjaxError
from simjax.workload.workload import Workload


def refuse_impossible(
    cluster: ClusterSpec, instances: RankParams, workload: Workload, speculation: SpeculationParams | NoSpeculationParams
) -> None:
    """Raise for the first request for which no instance of its model, or for one of its two legs none, is large enough.

    Raises:
        SimjaxError: there is such a request.
    """
    whole = workload.prompt_tokens.astype(np.int64) + workload.output_tokens
    role = np.array([x.role.value for x in cluster.ranks])
    both, decode, prefill = (role == x.value for x in (Role.BOTH, Role.DECODE, Role.PREFILL))
    served = _holds(cluster, instances, workload, whole) & ~prefill
    prompt, output = workload.prompt_tokens.astype(np.int64)[:, None], workload.output_tokens[:, None]
    blocks = -(-speculation.most_tokens(instances, prompt, output, np) // instances.block_size)
    _refuse_drafts(cluster, instances, workload, served, blocks)
    served &= blocks <= instances.num_blocks
    if cluster.disaggregated and CONNECTORS[cluster.disaggregation.connector].headroom:
        served &= _have_headroom(cluster, instances, workload, served & decode) | ~decode
    alone, last = (served & both).any(axis=1), (served & decode).any(axis=1)
    first = np.zeros_like(last)
    if prefill.any():  # a prefill instance holds the prompt and gives one token
        holds = _holds(cluster, instances, workload, workload.prompt_tokens.astype(np.int64) + 1) & prefill
        blocks = -(-speculation.most_tokens(instances, prompt, np.ones_like(output), np) // instances.block_size)
        first = (holds & (blocks <= instances.num_blocks)).any(axis=1)
    impossible = np.flatnonzero(~(alone | (first & last)))
    if not impossible.size:
        return
    r = int(impossible[0])
    tokens, among = (whole, ~prefill) if not last[r] else (workload.prompt_tokens.astype(np.int64) + 1, prefill)
    raise SimjaxError(
        f"{workload.source}: request {r} ({workload.prompt_tokens[r]} prompt + {workload.output_tokens[r]} output tokens) can never be "
        f"served: {_reason(cluster, instances, workload, r, int(tokens[r]), among)}; {impossible.size} of {len(workload)} requests are too "
        "long"
    )


def _holds(cluster: ClusterSpec, instances: RankParams, workload: Workload, tokens: np.ndarray) -> np.ndarray:
    """Whether each of N instances can hold R requests of these lengths, and is of their model; bool[R, N]."""
    blocks = -(-(tokens[:, None] - 1) // instances.block_size)  # the last token is never put into the cache
    fits = (tokens[:, None] <= instances.max_model_len) & (blocks <= instances.num_blocks)
    return fits & ~_of_another_model(cluster, instances, workload)


def _have_headroom(cluster: ClusterSpec, instances: RankParams, workload: Workload, served: np.ndarray) -> np.ndarray:
    """Whether each of N instances keeps enough tokens free for R requests, if it has no other; bool[R, N].

    Raises:
        SimjaxError: a request that an instance could hold (served: bool[R, N]) finds room in none for that reason.
    """
    kept = cluster.disaggregation.num_reserved_decode_tokens
    asked = workload.prompt_tokens + np.maximum(np.minimum(workload.output_tokens, MOST_NEW_TOKENS), kept).astype(np.int64)
    enough = asked[:, None] <= instances.num_blocks.astype(np.int64) * instances.block_size
    without = np.flatnonzero(served.any(axis=1) & ~(served & enough).any(axis=1))
    if without.size:
        r = int(without[0])
        raise SimjaxError(
            f"{workload.source}: request {r} ({workload.prompt_tokens[r]} prompt + {workload.output_tokens[r]} output tokens) is never "
            f"reserved: with disaggregation.num_reserved_decode_tokens={kept} a decode instance must have {asked[r]} tokens free, and the "
            f"largest KV cache holds {int((instances.num_blocks.astype(np.int64) * instances.block_size)[served[r]].max())}"
        )
    return enough


def refuse_together(option: str, *others: tuple[bool, str, str]) -> None:
    """Raise for what is not simulated together with a subsystem.

    Args:
        option: the option that asks for it, with its value.
        others: whether it is there, what it is, and what to do instead.

    Raises:
        SimjaxError: one of them is there.
    """
    for given, what, instead in others:
        if given:
            raise SimjaxError(f"{option} together with {what} is not simulated yet; {instead}")


def _refuse_drafts(cluster: ClusterSpec, instances: RankParams, workload: Workload, served: np.ndarray, blocks: np.ndarray) -> None:
    """Raise for the first request that an instance could hold but for its drafts; `blocks`: most that each may need, int[R, N]."""
    without = np.flatnonzero(served.any(axis=1) & ~(served & (blocks <= instances.num_blocks)).any(axis=1))
    if without.size:
        r, best = int(without[0]), int(np.argmax(instances.num_blocks))
        raise SimjaxError(
            f"{workload.source}: request {r} ({workload.prompt_tokens[r]} prompt + {workload.output_tokens[r]} output tokens) needs "
            f"{blocks[r, best]} KV blocks with its drafts, and {cluster.ranks[best].model.name} has {instances.num_blocks[best]}; "
            "fewer speculation.num_speculative_tokens need fewer"
        )


def _of_another_model(cluster: ClusterSpec, instances: RankParams, workload: Workload) -> np.ndarray:
    """Whether the instances serve another model than the requests name, bool[R, N]; [1, N] where none names one."""
    if instances.model is None or workload.models is None:
        return np.zeros((1, len(cluster.ranks)), bool)
    return (workload.models.index[:, None] >= 0) & (workload.models.index[:, None] != np.asarray(instances.model))


def _reason(cluster: ClusterSpec, instances: RankParams, workload: Workload, r: int, tokens: int, among: np.ndarray) -> str:
    """What keeps a request of some tokens out of the largest of some instances (bool[N])."""
    held = np.minimum(instances.max_model_len, instances.num_blocks.astype(np.int64) * instances.block_size)
    other = _of_another_model(cluster, instances, workload)
    best = int(np.argmax(np.where(other[r % len(other)] | ~among, -1, held)))
    spec = cluster.ranks[best]
    of = "" if spec.role is Role.BOTH else f" (its {spec.role.value} instances)"
    if -(-(tokens - 1) // int(instances.block_size[best])) > instances.num_blocks[best]:
        capacity = int(instances.num_blocks[best]) * spec.limits.block_size
        return f"the KV cache of {spec.model.name} on {spec.device.name}{of} holds {capacity} tokens ({instances.num_blocks[best]} blocks)"
    if spec.limits.enable_chunked_prefill or tokens > (spec.limits.max_model_len or spec.model.max_position_embeddings):
        return f"max_model_len is {instances.max_model_len[best]}{of}"
    return f"without chunked prefill it must fit max_num_batched_tokens={spec.limits.max_num_batched_tokens}{of}"
