"""From cluster and workload to arrays: sizes, padding, routing mode, and requests that can never be served."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec, RouterWeights
from simjax.cluster.timing import cluster_timing
from simjax.deployment import Role
from simjax.engine.host.lower import Lowered, lower
from simjax.engine.host.lowering.requests import request_params
from simjax.engine.shape import REQUEST_BUCKETS, bucket, seat_bucket, slots_for
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.model import load_model
from simjax.workload.contents.radix import from_blocks
from simjax.workload.sessions import from_waits
from simjax.workload.workload import Workload

SPEC = InstanceSpec(load_model("llama-3.1-8b"), load_device("h100"), limits=InstanceLimits(max_num_seqs=32, num_gpu_blocks_override=101))
PRICES = cluster_timing((SPEC,), LatencySource())


def workload(*lengths: tuple[int, int], **changes) -> Workload:
    prompt, output = (np.array(x, np.int32) for x in zip(*lengths, strict=True))
    return dataclasses.replace(Workload(np.arange(len(lengths), dtype=float), prompt, output, source="trace.csv"), **changes)


def lowered(work: Workload, router: str = "round_robin", instances: int = 1, **limits):
    spec = dataclasses.replace(SPEC, limits=dataclasses.replace(SPEC.limits, **limits))
    cluster = ClusterSpec((spec,) * instances, router)
    return lower(cluster, cluster_timing(cluster.instances, LatencySource()), work)


def test_padding_never_arrives():
    params = lowered(workload((10, 2), (20, 3))).params
    assert params.requests.count == [2]
    assert np.isinf(params.requests.arrival_s[0, 2:]).all() and (params.requests.prompt_tokens[0, 2:] == 1).all()
    assert params.ranks.num_blocks.tolist() == [100]


def test_rules_of_releases_are_switches_of_ranks():
    """The watermark is a share of all blocks, the null block included; SGLang, which carries tokens, has no threshold for lone requests."""
    limits = dataclasses.replace(SPEC.limits, watermark=0.1, long_prefill_alone=True, reserve_kv_loads=True, reuse_nameless_first=True)
    first, second = (dataclasses.replace(SPEC, limits=x, role=role) for x, role in ((SPEC.limits, Role.PREFILL), (limits, Role.DECODE)))
    for connector, alone in (("nixl", [False, True]), ("sglang", [False, False])):
        cluster = ClusterSpec((first, second), disaggregation=Disaggregation(connector))
        ranks = lower(cluster, cluster_timing(cluster.instances, LatencySource()), workload((10, 2))).params.ranks
        assert ranks.long_prefill_alone.tolist() == alone and ranks.reserve_kv_loads.tolist() == [False, True]
        assert ranks.watermark_blocks.tolist() == [0, 10] and ranks.reuse_nameless_first.tolist() == [False, True]


@pytest.mark.parametrize("share", [-0.1, 1.0, np.nan])
def test_a_watermark_is_a_share(share: float):
    with pytest.raises(SimjaxError, match=r"^scheduler\.watermark=.*: it must lie in \[0, 1\)$"):
        InstanceLimits(watermark=share)


def test_sizes_come_in_buckets():
    assert [bucket(n, REQUEST_BUCKETS) for n in (1, 512, 513, 19_366, 131_072, 131_073)] == [512, 512, 4_096, 32_768, 131_072, 262_144]
    assert [seat_bucket(n) for n in (1, 16, 17, 24, 25, 33, 48, 49, 97, 128, 129, 256, 300)] == [
        16,
        16,
        24,
        24,
        32,
        48,
        48,
        64,
        128,
        128,
        192,
        256,
        384,
    ]
    assert slots_for(256, 4_096, 4) >= 256 + 2 * 4 and slots_for(4_096, 512, 4) >= 512 + 2 * 4


def test_the_router_stage_exists_only_where_it_is_needed():
    work = workload((10, 2), (20, 3))
    assert not lowered(work, "least_loaded").shape.live_routing
    assert not lowered(work, "round_robin", 3).shape.live_routing
    assert lowered(work, "least_kv", 3).shape.live_routing
    closed = dataclasses.replace(work, arrival_s=np.array([0.0, np.inf]), concurrency=1)
    assert lowered(closed).shape.live_routing and lowered(closed).shape.clients == 16


@pytest.mark.parametrize(
    "lengths, limits, message",
    [
        ((1500, 102), {}, r"trace.csv: request 1 \(1500 prompt \+ 102 output tokens\).*KV cache.*holds 1600 tokens \(100 blocks\)"),
        ((900, 200), {"max_model_len": 1000}, "max_model_len is 1000"),
        (
            (900, 200),
            {"enable_chunked_prefill": False, "max_num_batched_tokens": 512},
            "without chunked prefill.*max_num_batched_tokens=512",
        ),
    ],
)
def test_a_request_that_never_fits_is_refused_by_name(lengths, limits, message: str):
    with pytest.raises(SimjaxError, match=message):
        lowered(workload((10, 2), lengths), **limits)


def test_the_last_token_needs_no_place_in_the_cache():
    assert lowered(workload((10, 2), (1500, 101))).params.requests.count == 2  # 1600 tokens on 100 blocks of 16


def test_the_random_router_follows_the_seed():
    draws = [request_params([workload((10, 2), (20, 3))], 512, [seed]).router_draw[0, :2] for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).all()


def test_a_request_that_fits_one_engine_is_not_refused():
    small = dataclasses.replace(SPEC, limits=dataclasses.replace(SPEC.limits, num_gpu_blocks_override=11))
    cluster = ClusterSpec((small, SPEC), "round_robin")
    assert lower(cluster, cluster_timing(cluster.instances, LatencySource()), workload((1000, 10))).shape.ranks == 2


def test_an_empty_workload_is_refused():
    with pytest.raises(SimjaxError, match="empty"):
        lower(ClusterSpec((SPEC,)), PRICES, Workload(np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32), source="trace.csv"))


def cached_lowered(
    router: str = "weighted", common: tuple[int, ...] = (32, 32, 48, 48), caching: bool = True, gap_s: float = 1.0, **cluster
) -> Lowered:
    """Four calls of a session behind a router with two caching engines.

    Calls begin with so many `common` tokens; `gap_s` is between them, `caching` the second engine's switch, `num_blocks` are of both.
    """
    prompt, output = np.array([60, 70, 80, 90], np.int32), np.array([5, 6, 7, 8], np.int32)
    contents = [
        np.where(np.arange(n) < shared, 1, 100 * (r + 1)) for r, (n, shared) in enumerate(zip(prompt + output, common, strict=True))
    ]
    prefixes = from_blocks(contents, 1, prompt + output, prompt + output)
    sessions = from_waits(np.zeros(4, np.int32), ("s",), np.arange(4, dtype=np.int32), np.array([2]), np.array([3]), np.array([gap_s]))
    arrival_s = np.array([0.0, gap_s, 2 * gap_s, np.inf])
    blocks = cluster.pop("num_blocks", 101)
    limits = [dataclasses.replace(SPEC.limits, num_gpu_blocks_override=blocks, enable_prefix_caching=x) for x in (True, caching)]
    spec = ClusterSpec(tuple(dataclasses.replace(SPEC, limits=x) for x in limits), router, **cluster)
    work = Workload(arrival_s, prompt, output, source="trace.csv", prefixes=prefixes, sessions=sessions)
    return lower(spec, cluster_timing(spec.instances, LatencySource()), work)


def test_values_of_caches_and_routers_share_a_program():
    """What a program is made for are the shape and the sizes of the arrays; that these are all is for `test_batch`."""

    def made_for(design: Lowered) -> tuple:
        leaves = [np.asarray(x) for x in jax.tree.leaves(design.params)]
        return design.shape, jax.tree.structure(design.params), [(x.shape, x.dtype) for x in leaves]

    base = cached_lowered(router_staleness_s=0.5)
    others = [
        cached_lowered(router_staleness_s=0.5, router_weights=RouterWeights(prefix=3.0, queue=0.5, kv=0.0)),
        cached_lowered(router_staleness_s=2.0),
        cached_lowered(router_staleness_s=0.5, num_blocks=57),
        cached_lowered(router_staleness_s=0.5, common=(65, 65, 80, 80)),
        cached_lowered(router_staleness_s=0.5, caching=False),
        cached_lowered(router_staleness_s=0.5, gap_s=0.3),
        cached_lowered("longest_prefix", router_staleness_s=0.5),
        cached_lowered("session_affinity", router_staleness_s=0.5),
    ]
    leaves = [b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(design.params)) for design in (base, *others)]
    assert len(set(leaves)) == len(leaves)
    prefixes = [design.params.requests.prefix for design in (base, others[3])]
    assert [np.count_nonzero(x.end_tokens) for x in prefixes if x is not None] == [6, 5]  # the first ends where another goes on
    for other in others:
        assert made_for(other) == made_for(base)
    # A view that is always fresh needs no place, and a router that looks at nothing no view.
    assert base.shape.stale_view and not cached_lowered().shape.stale_view
    assert not cached_lowered("round_robin", router_staleness_s=0.5).shape.stale_view
