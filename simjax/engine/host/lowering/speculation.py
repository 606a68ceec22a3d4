"""The part of the engine's arrays that speculative decoding has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.cluster.disaggregation import CONNECTORS
from simjax.cluster.spec import ClusterSpec
from simjax.engine.host.impossible import refuse_together
from simjax.engine.host.lowering.part import Part
from simjax.engine.params import RankParams, SpeculationParams
from simjax.errors import SimjaxError
from simjax.latency.profiles.profile import accepted
from simjax.speculation.methods import MOST_DRAFTS, NO_SPECULATION, NoSpeculation, Speculation

DRAFT_BUCKETS = (4, 8, MOST_DRAFTS)


def speculates(cluster: ClusterSpec) -> bool:
    """Whether some instance decodes speculatively."""
    return any(x is not NO_SPECULATION for x in _of_ranks(cluster))


def _of_ranks(cluster: ClusterSpec) -> list[Speculation | NoSpeculation]:
    """How each rank decodes."""
    return [x.speculation or NO_SPECULATION for x in cluster.ranks]


def speculation_part(cluster: ClusterSpec, draft_acceptance: np.ndarray | None = None) -> Part:
    """Drafts and acceptance rates of the ranks; nothing where none decodes speculatively.

    Args:
        cluster: the instances.
        draft_acceptance: how much longer runs of accepted drafts are in each than they state, f[instances]; None for 1.
    """
    if not speculates(cluster):
        return Part()
    each = _of_ranks(cluster)
    counts = [x.num_speculative_tokens for x in each]
    bound = next(size for size in DRAFT_BUCKETS if size >= max(counts))
    rates = np.zeros((len(each), bound))
    for row, one, count in zip(rates, each, counts, strict=True):
        row[:count] = one.rates[:count]
    if draft_acceptance is not None:
        rates = accepted(rates, draft_acceptance[np.array(cluster.instance_of_rank)][:, None])
    params = SpeculationParams(
        num_speculative_tokens=np.array(counts, np.int32),  # pyright: ignore[reportArgumentType]
        num_lookahead_tokens=np.array([x.num_lookahead_tokens for x in each], np.int32),  # pyright: ignore[reportArgumentType]
        rates=rates,  # pyright: ignore[reportArgumentType]
        seed=np.int32(next(x.seed for x in each if x is not NO_SPECULATION)),  # pyright: ignore[reportArgumentType]
        # A loaded request needs a single token too; what releases make of that is not simulated.
        pads=np.array([x.pads and not cluster.disaggregated for x in each]),  # pyright: ignore[reportArgumentType]
        drops_last=np.array([x.drops_last for x in each]),  # pyright: ignore[reportArgumentType]
    )
    return Part({"speculation": bound}, {"speculation": params})


def with_names(cluster: ClusterSpec, instances: RankParams) -> RankParams:
    """The ranks, of which some decode speculatively and some cache prefixes, with what the names of their blocks cover."""
    return replace(instances, names_ahead=np.array([x.names_ahead for x in _of_ranks(cluster)], np.int32))


def refuse_with_speculation(cluster: ClusterSpec) -> None:
    """Raise for what is not simulated together with speculative decoding.

    Raises:
        SimjaxError: instances decode speculatively, and there are pp stages without asynchronous scheduling, or with prefill and decode
            instances, or a hand-over that carries the first token.
    """
    if not speculates(cluster):
        return
    method = next(x.speculation.method for x in cluster.instances if x.speculation)
    connector = cluster.disaggregation.connector
    for instance in cluster.instances:
        stages = instance.parallelism.pipeline
        if stages > 1 and instance.speculation is not None and not instance.limits.async_scheduling:
            raise SimjaxError(
                f"speculation.method={method} with pipeline_parallel_size={stages} and scheduler.async_scheduling=false: vLLM's "
                "scheduler then asks for the drafts of a request whose token is in flight; use scheduler.async_scheduling=true"
            )
    refuse_together(
        f"speculation.method={method}",
        (cluster.disaggregated and CONNECTORS[connector].carried, f"disaggregation.connector={connector}", "another connector"),
    )
