"""Prefill and decode instances in the configuration: pools, groups with roles, and the options of the hand-over."""

from __future__ import annotations

import dataclasses
import math

import pytest

import simjax
from simjax.cluster.configured.cluster import configured_cluster, handover
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.spec import ClusterSpec
from simjax.config.disaggregation import DisaggregationConfig
from simjax.deployment import Role
from simjax.errors import SimjaxError
from simjax.explore.axes import axis
from simjax.explore.options import Options
from simjax.explore.points import grid
from simjax.job import about_options


def built(*overrides: str) -> ClusterSpec:
    return configured_cluster(simjax.compose(list(overrides)))


def roles(cluster: ClusterSpec) -> list[Role]:
    return [instance.role for instance in cluster.instances]


def test_defaults_are_those_of_the_hand_over() -> None:
    assert handover(DisaggregationConfig()) == Disaggregation()
    names = [{field.name for field in dataclasses.fields(kind)} for kind in (DisaggregationConfig, Disaggregation)]
    assert names[0] == names[1]
    assert handover(DisaggregationConfig()).local_prefill_ratio == math.inf


def test_pools_have_flags_of_their_own() -> None:
    cluster = built(
        *("cluster=disaggregated", "cluster.prefill.instances=1", "cluster.prefill.device=h200", "cluster.decode.tensor_parallel_size=2"),
        *("cluster.decode.max_num_seqs=64", "scheduler.max_num_batched_tokens=4096", "disaggregation.setup_s=0.002"),
    )
    assert roles(cluster) == [Role.PREFILL, Role.DECODE, Role.DECODE]
    assert [x.device.name for x in cluster.instances] == ["h200", "h100", "h100"]
    assert [x.parallelism.tensor for x in cluster.instances] == [1, 2, 2]
    assert [x.limits.max_num_seqs for x in cluster.instances] == [256, 64, 64]
    assert {x.limits.max_num_batched_tokens for x in cluster.instances} == {4096}
    assert cluster.disaggregation == Disaggregation(setup_s=0.002)
    assert cluster.num_devices == 5


def test_groups_have_roles() -> None:
    cluster = built("cluster.groups=[{role: prefill, device: l40s},{role: decode, instances: 2},{}]")
    assert roles(cluster) == [Role.PREFILL, Role.DECODE, Role.DECODE, Role.BOTH]
    assert cluster.disaggregated and not built().disaggregated


@pytest.mark.parametrize(
    "words, line",
    [
        (["cluster.prefill.instances=2"], r"^cluster\.decode\.instances=0: it must be at least 1, as there are prefill instances$"),
        (["cluster=disaggregated", "cluster.prefill.instances=-1"], r"^cluster\.prefill\.instances=-1: it must be at least 1"),
        (["cluster.prefill.device=h200"], r"^cluster\.prefill\.device=h200 has no effect without cluster\.prefill\.instances$"),
        (["cluster=disaggregated", "cluster.instances=3"], r"^cluster\.instances=3 has no effect with cluster\.prefill\.instances"),
        (["disaggregation.setup_s=0.1"], r"^disaggregation\.setup_s=0\.1 has no effect in a cluster whose instances run both phases"),
        (
            ["cluster=disaggregated", "cluster.prefill.max_num_seqs=0"],
            r"^cluster\.prefill: max_num_seqs=0: it must be an integer of at least 1",
        ),
        (
            ["cluster=disaggregated", "disaggregation.connector=nixxl"],
            r"^disaggregation\.connector=nixxl: there is no such connector; did you",
        ),
        (["cluster=disaggregated", "disaggregation.link_efficiency=0"], r"^disaggregation\.link_efficiency=0\.0: it must lie in \(0, 1\]$"),
        (["cluster=disaggregated", "disaggregation.local_prefill_ratio=0.3"], r"ratio=0\.3 has no effect with local_prefill_tokens=0"),
        (["cluster.groups=[{role: prefil}]"], r"^cluster\.groups\[0\]: role=prefil: there is no such role; did you mean prefill\?$"),
        (["cluster.groups=[{role: prefill}]"], r"^the cluster has prefill instances and no decode instances; it needs both, or neither$"),
        (
            ["cluster=disaggregated", "cluster.prefill.max_num_seqs=8", "cluster.decode.max_num_seqs=8", "scheduler.max_num_seqs=33"],
            r"^scheduler\.max_num_seqs=33 has no effect with cluster\.prefill and cluster\.decode, which have their own max_num_seqs$",
        ),
    ],
)
def test_mistakes_get_one_line(words: list[str], line: str) -> None:
    with pytest.raises(SimjaxError, match=line) as error:
        built(*words)
    assert "\n" not in str(error.value)


def test_what_sweeps_come_through_is_named() -> None:
    config = simjax.compose(
        ["cluster=disaggregated", "cluster.prefill.instances=1", "cluster.decode.instances=1", "disaggregation.decode_router=random"]
    )
    assert about_options(config) == [
        "cluster.router=least_loaded has no effect with one instance, to which every request goes",
        "disaggregation.decode_router=random has no effect with one decode instance, to which every request goes",
    ]
    assert about_options(simjax.compose(["cluster=disaggregated", "disaggregation.handover_s=40"])) == [
        "disaggregation.handover_s=40 is implausible: it is in seconds (not ms), usually 1e-06 to 10"
    ]


def test_ratios_of_instances_and_options_of_pools_are_axes() -> None:
    """An aggregated cluster and xPyD in one sweep, each point with its own roles; a flag of a pool that is not there is refused."""
    points = grid(
        [
            axis("cluster.prefill.instances", "1,2"),
            axis("cluster.decode.instances", "1,2,4"),
            axis("cluster.prefill.tensor_parallel_size", "1,2"),
            axis("disaggregation.link_efficiency", "linspace(0.5,0.7,2)"),
        ]
    )
    options = Options(["workload.num_requests=20"], points.keys)
    clusters = [configured_cluster(options.config(dict(zip(points.keys, row, strict=True)))) for row in points.rows]
    assert len(clusters) == 24
    for (prefill, decode, degree, efficiency), cluster in zip(points.rows, clusters, strict=True):
        assert roles(cluster) == [Role.PREFILL] * prefill + [Role.DECODE] * decode
        assert cluster.instances[0].parallelism.tensor == degree and cluster.instances[-1].parallelism.tensor == 1
        assert cluster.disaggregation.link_efficiency == efficiency
    both = Options(["cluster=disaggregated"], ["cluster.prefill.instances", "cluster.decode.instances", "cluster.instances"])
    keys = ("cluster.prefill.instances", "cluster.decode.instances", "cluster.instances")
    assert roles(configured_cluster(both.config(dict(zip(keys, (0, 0, 4), strict=True))))) == [Role.BOTH] * 4
    with pytest.raises(SimjaxError, match=r"^cluster\.instances=4 has no effect with cluster\.prefill\.instances"):
        both.config(dict(zip(keys, (1, 1, 4), strict=True)))
    flags = Options(["cluster.decode.max_num_seqs=64"], keys[:2])
    with pytest.raises(SimjaxError, match=r"^cluster\.decode\.max_num_seqs=64 has no effect without cluster\.decode\.instances$"):
        flags.config(dict(zip(keys, (0, 0), strict=False)))
