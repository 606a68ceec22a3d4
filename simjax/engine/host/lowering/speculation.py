"""The part of the engine's arrays that speculative decoding has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.cluster.disaggregation import CONNECTORS
from simjax.cluster.spec import ClusterSpec
from simjax.engine.host.impossible import refuse_together
from simjax.engine.params import RankParams, SpeculationParams
from simjax.errors import SimjaxError
from simjax.latency.profiles.profile import accepted
from simjax.speculation.methods import MOST_DRAFTS

DRAFT_BUCKETS = (4, 8, MOST_DRAFTS)


def speculation_params(cluster: ClusterSpec, draft_acceptance: np.ndarray | None = None) -> SpeculationParams | None:
    """Drafts and acceptance rates of the ranks; None where none decodes speculatively.

    Args:
        cluster: the instances.
        draft_acceptance: how much longer runs of accepted drafts are in each than they state, f[instances]; None for 1.
    """
    each = [x.speculation for x in cluster.ranks]
    first = next((x for x in each if x is not None), None)
    if first is None:
        return None
    counts = [0 if x is None else x.num_speculative_tokens for x in each]
    bound = next(size for size in DRAFT_BUCKETS if size >= max(counts))
    rates = np.zeros((len(each), bound))
    for row, one, count in zip(rates, each, counts, strict=True):
        row[:count] = () if one is None else one.rates[:count]
    if draft_acceptance is not None:
        rates = accepted(rates, draft_acceptance[np.array(cluster.instance_of_rank)][:, None])
    return SpeculationParams(
        num_speculative_tokens=np.array(counts, np.int32),  # pyright: ignore[reportArgumentType]
        num_lookahead_tokens=np.array([0 if x is None else x.num_lookahead_tokens for x in each], np.int32),  # pyright: ignore[reportArgumentType]
        rates=rates,  # pyright: ignore[reportArgumentType]
        seed=np.int32(first.seed),  # pyright: ignore[reportArgumentType]
        # A loaded request needs a single token too; what releases make of that is not simulated.
        pads=np.array([x is not None and x.pads and not cluster.disaggregated for x in each]),  # pyright: ignore[reportArgumentType]
        drops_last=np.array([x is not None and x.drops_last for x in each]),  # pyright: ignore[reportArgumentType]
    )


def with_names(cluster: ClusterSpec, instances: RankParams) -> RankParams:
    """The ranks, of which some decode speculatively and some cache prefixes, with what the names of their blocks cover."""
    each = [x.speculation for x in cluster.ranks]
    return replace(instances, names_ahead=np.array([0 if x is None else x.names_ahead for x in each], np.int32))


def most_drafts(speculation: SpeculationParams | None) -> int:
    """U: drafts for which the arrays have room; 0 without."""
    return 0 if speculation is None else speculation.rates.shape[1]


def refuse_with_speculation(cluster: ClusterSpec) -> None:
    """Raise for what is not simulated together with speculative decoding.

    Raises:
        SimjaxError: instances decode speculatively, and there are pp stages without asynchronous scheduling, or with prefill and decode
            instances, or a hand-over that carries the first token.
    """
    methods = [x.speculation.method for x in cluster.instances if x.speculation is not None]
    if not methods:
        return
    connector = cluster.disaggregation.connector
    for instance in cluster.instances:
        stages = instance.parallelism.pipeline
        if stages > 1 and instance.speculation is not None and not instance.limits.async_scheduling:
            raise SimjaxError(
                f"speculation.method={methods[0]} with pipeline_parallel_size={stages} and scheduler.async_scheduling=false: vLLM's "
                "scheduler then asks for the drafts of a request whose token is in flight; use scheduler.async_scheduling=true"
            )
    refuse_together(
        f"speculation.method={methods[0]}",
        (cluster.disaggregated and CONNECTORS[connector].carried, f"disaggregation.connector={connector}", "another connector"),
    )
