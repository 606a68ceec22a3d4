"""From a cluster and a workload to the engine's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.cluster.pricing import ClusterPrices
from simjax.cluster.spec import ClusterSpec
from simjax.engine.params import ClusterParams, InstanceParams, RequestParams, RouterPolicy
from simjax.engine.shape import EngineShape, requests_bucket, seat_bucket, slots_for
from simjax.errors import SimjaxError
from simjax.workload.workload import Workload

FLAGS = ("enable_chunked_prefill", "reserve_full_isl", "async_scheduling")
LIMITS = ("max_num_seqs", "max_num_batched_tokens", "long_prefill_token_threshold", "block_size")
ROUTER_STREAM = 42  # keeps the router's draws apart from the workload's, which have the same seed


@dataclass(frozen=True)
class Lowered:
    """A simulation ready to run: static sizes and traced arrays (numpy)."""

    shape: EngineShape
    params: ClusterParams


def lower(
    cluster: ClusterSpec,
    prices: ClusterPrices,
    workload: Workload,
    *,
    seed: int = 0,
    leap: bool = True,
    log: bool = True,
    requests: RequestParams | None = None,
) -> Lowered:
    """Arrays for `simjax.engine.simulate.simulate`.

    Args:
        cluster: the engines.
        prices: their step costs.
        workload: the requests.
        seed: of the random router.
        leap: take pure-decode steps many at a time.
        log: record what the engines did (`LeapLog`), which time series and inter-token latencies are made from.
        requests: what `request_params` makes of the workload and the seed, where it is known already.

    Raises:
        SimjaxError: the workload is malformed, or a request can never be served by any engine.
    """
    workload.validate()
    size = requests_bucket(len(workload))
    instances = instance_params(cluster, prices, size)
    refuse_impossible(cluster, instances, workload)
    router = RouterPolicy[cluster.router.upper()]
    live = workload.concurrency > 0 or (len(cluster.instances) > 1 and router in (RouterPolicy.LEAST_LOADED, RouterPolicy.LEAST_KV))
    shape = EngineShape(
        requests=size,
        slots=int(instances.slots.max()),
        instances=len(cluster.instances),
        clients=min(seat_bucket(workload.concurrency), size) if workload.concurrency else 0,
        live_routing=live,
        leap=leap,
        log_rows=EngineShape.log_rows if log else 0,
    )
    params = ClusterParams(
        instances=instances,
        num_instances=_host(np.int32(len(cluster.instances))),
        router=_host(np.int32(router)),
        requests=request_params([workload], size, [seed]) if requests is None else requests,
        workload=_host(np.int32(0)),
        cost=prices.cost,
    )
    return Lowered(shape, params)


def instance_params(cluster: ClusterSpec, prices: ClusterPrices, requests: int) -> InstanceParams:
    """Limits of the engines as arrays over N, for a workload of so many requests."""
    specs = cluster.instances
    leaves: dict[str, Any] = {name: [getattr(x.limits, name) for x in specs] for name in LIMITS}
    leaves |= {"max_model_len": [x.longest_request_tokens for x in specs], "num_blocks": [x.usable_blocks for x in specs]}
    leaves |= {"slots": [slots_for(x.limits.max_num_seqs, requests, EngineShape.window) for x in specs]}
    leaves = {name: np.array(values, np.int32) for name, values in leaves.items()}
    leaves |= {name: np.array([getattr(x.limits, name) for x in specs], bool) for name in FLAGS}
    return InstanceParams(**leaves, **{name: getattr(prices, name) for name in ("api_pre_s", "api_post_s")}, cost=_host(prices.row))


def request_params(workloads: Sequence[Workload], size: int, seeds: Sequence[int]) -> RequestParams:
    """V workloads as arrays, each padded to `size` requests; the seeds are those of the random router."""
    if [len(workload) for workload in workloads] == [size]:
        return _as_they_are(workloads[0], seeds[0])
    V = len(workloads)
    arrival_s, draws = np.full((V, size), np.inf), np.zeros((V, size))
    prompt, output = np.ones((V, size), np.int32), np.ones((V, size), np.int32)
    for v, (workload, seed) in enumerate(zip(workloads, seeds, strict=True)):
        n = len(workload)
        arrival_s[v, :n], prompt[v, :n], output[v, :n] = workload.arrival_s, workload.prompt_tokens, workload.output_tokens
        draws[v, :n] = np.random.default_rng([ROUTER_STREAM, seed]).random(n)
    return RequestParams(
        arrival_s=_host(arrival_s),
        prompt_tokens=_host(prompt),
        output_tokens=_host(output),
        router_draw=_host(draws),
        count=_host(np.array([len(workload) for workload in workloads], np.int32)),
        think_s=_host(np.array([workload.think_s for workload in workloads], np.float64)),
    )


def _as_they_are(workload: Workload, seed: int) -> RequestParams:
    """A workload that needs no padding, without copies: a sweep may hold thousands."""
    return RequestParams(
        arrival_s=_host(np.asarray(workload.arrival_s, np.float64)[None]),
        prompt_tokens=_host(np.asarray(workload.prompt_tokens, np.int32)[None]),
        output_tokens=_host(np.asarray(workload.output_tokens, np.int32)[None]),
        router_draw=_host(np.random.default_rng([ROUTER_STREAM, seed]).random(len(workload))[None]),
        count=_host(np.array([len(workload)], np.int32)),
        think_s=_host(np.array([workload.think_s], np.float64)),
    )


def _host(array: Any) -> Any:
    """A numpy array where a record of the engine names a JAX one: the program that takes the record converts it."""
    return array


def refuse_impossible(cluster: ClusterSpec, instances: InstanceParams, workload: Workload) -> None:
    """Raise for the first request that no engine can ever serve: by name, before anything runs."""
    total = workload.prompt_tokens.astype(np.int64) + workload.output_tokens
    blocks = -(-(total[:, None] - 1) // instances.block_size)  # the last token is never put into the cache
    short, small = total[:, None] > instances.max_model_len, blocks > instances.num_blocks
    hopeless = np.flatnonzero((short | small).all(axis=1))
    if not hopeless.size:
        return
    r = int(hopeless[0])
    best = int(np.argmax(np.minimum(instances.max_model_len, instances.num_blocks.astype(np.int64) * instances.block_size)))
    spec = cluster.instances[best]
    if small[r, best]:
        capacity = int(instances.num_blocks[best]) * spec.limits.block_size
        reason = f"the KV cache of {spec.model.name} on {spec.device.name} holds {capacity} tokens ({instances.num_blocks[best]} blocks)"
    elif spec.limits.enable_chunked_prefill or total[r] > (spec.limits.max_model_len or spec.model.max_position_embeddings):
        reason = f"max_model_len is {instances.max_model_len[best]}"
    else:
        reason = f"without chunked prefill it must fit max_num_batched_tokens={spec.limits.max_num_batched_tokens}"
    raise SimjaxError(
        f"{workload.source}: request {r} ({workload.prompt_tokens[r]} prompt + {workload.output_tokens[r]} output tokens) can never be "
        f"served: {reason}; {hopeless.size} of {len(workload)} requests are too long"
    )
