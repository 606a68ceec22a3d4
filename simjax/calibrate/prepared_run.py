"""A measured run prepared to be simulated many times, with the profile as the only thing that changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from simjax.batch.design import design_of
from simjax.calibrate.profile_timing import ProfileTiming
from simjax.calibrate.reference_frames import arrivals
from simjax.cluster.spec import ClusterSpec
from simjax.engine.differentiate import Outcome, outcome, outcome_reverse, ticks_needed
from simjax.engine.host.lower import Lowered
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape, power_of_two
from simjax.engine.simulate import simulate
from simjax.errors import SimjaxError
from simjax.latency.profiles.profile import LatencyProfile
from simjax.validate.run import MeasuredRun
from simjax.workload.workload import Workload

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

ROOMY = 0.5  # share of the KV blocks that a run without preemptions uses at most
TICKS_TO_SPARE = 20  # a run that takes this many times the ticks of the first profile is cut: its profile is far from any measurement


class ClientLatencies(NamedTuple):
    """ClientLatencies that the clients of a simulated run saw; 1 in place of a time that does not exist, so that a logarithm is safe.

    Attributes:
        sent_s: f64[R], when the client sent the request, seconds.
        ttft_s, tpot_s, e2e_s: f64[R], seconds.
        finished: bool[R], whether the request finished.
    """

    sent_s: Float64[Array, " R"]
    ttft_s: Float64[Array, " R"]
    tpot_s: Float64[Array, " R"]
    e2e_s: Float64[Array, " R"]
    finished: Bool[Array, " R"]


@dataclass(frozen=True)
class PreparedRun:
    """A cluster and its workload as arrays.

    Attributes:
        cluster: the instances and their router.
        shape: static sizes.
        params: host arrays; step times and API times are those of the profile it was prepared with.
        requests: number of requests, padding excluded.
        measured: int[R], those of them that were measured; the others failed then, and are load alone.
        ticks: ticks that suffice for reverse mode, see `ticks_needed`.
    """

    cluster: ClusterSpec
    shape: EngineShape
    params: ClusterParams
    requests: int
    ticks: int
    measured: np.ndarray

    @property
    def max_ticks(self) -> int:
        """Ticks after which a run in forward mode is cut."""
        return TICKS_TO_SPARE * self.ticks


def prepare(cluster: ClusterSpec, workload: Workload, profile: LatencyProfile) -> PreparedRun:
    """The arrays of a cluster under a workload.

    Raises:
        SimjaxError: the profile does not fit, or a request can never be served.
    """
    timing = _timing(cluster).on_host(profile)
    lowered = design_of(cluster, timing, workload).lowered
    if workload.prefixes is None and lowered.shape.prefix_nodes:
        lowered = _with_caches_if_needed(lowered, design_of(_without_caches(cluster), timing, workload).lowered)
    ticks = ticks_needed(lowered.shape, lowered.params)
    return PreparedRun(cluster, lowered.shape, lowered.params, len(workload), ticks, np.arange(len(workload)))


def _timing(cluster: ClusterSpec) -> ProfileTiming:
    limits = [x.limits for x in cluster.instances]
    most = max(x.max_num_batched_tokens for x in limits), max(x.max_num_seqs for x in limits)
    return ProfileTiming.of(cluster.instances, power_of_two(most[0]), power_of_two(most[1]))


def _without_caches(cluster: ClusterSpec) -> ClusterSpec:
    limits = [replace(x.limits, enable_prefix_caching=False) for x in cluster.instances]
    return replace(cluster, instances=tuple(replace(x, limits=y) for x, y in zip(cluster.instances, limits, strict=True)))


def _with_caches_if_needed(caching: Lowered, plain: Lowered) -> Lowered:
    """The lowered run with or without prefix caches, where its requests share nothing.

    Then only preempted requests can use the caches, which make the simulation three times slower. They are left out if no instance comes
    near to preempting a request, so that none will under the parameters of a fit either.
    """
    blocks = simulate(plain.shape, plain.params).instances.peak_blocks
    return plain if (blocks <= ROOMY * plain.params.ranks.num_blocks).all() else caching


def prepare_measured(run: MeasuredRun, cluster: ClusterSpec, profile: LatencyProfile) -> PreparedRun:
    """The arrays of a measured run; its errors are those of `prepare`, with the name of the run."""
    try:
        return replace(prepare(cluster, run.workload(), profile), measured=run.places)
    except SimjaxError as error:
        raise SimjaxError(f"{run.source}: {error}") from None


def with_profile(prepared: PreparedRun, profile: LatencyProfile) -> ClusterParams:
    """The parameters of the run under a profile, whose numbers may be traced; call it inside `jax.enable_x64(True)`."""
    return _timing(prepared.cluster).timed(prepared.params, profile)


def simulated(prepared: PreparedRun, profile: LatencyProfile, reverse: bool = False) -> ClientLatencies:
    """Latencies of the run, differentiable with respect to the profile as `simjax.calibrate.reference_frames` says.

    Args:
        prepared: the run.
        profile: a profile whose numbers may be traced.
        reverse: whether `jax.grad` will differentiate it; else forward mode does.
    """
    params = with_profile(prepared, profile)
    o = outcome_reverse(prepared.shape, prepared.ticks, params) if reverse else outcome(prepared.shape, params, prepared.max_ticks)
    return latencies(prepared.shape, params, o, prepared.measured)


def latencies(shape: EngineShape, params: ClusterParams, o: Outcome, measured: np.ndarray) -> ClientLatencies:
    """Latencies of some requests of a run from the times of its outcome.

    Args:
        shape: static sizes of the run.
        params: its parameters.
        o: its outcome.
        measured: int[M], places of the requests; padding has not finished.
    """
    of = lambda x: x[jnp.maximum(o.instance, 0)]
    arrival_s = arrivals(o, of(params.ranks.api_pre_s), of(params.ranks.api_post_s))
    if shape.clients and not shape.capped:  # without a pause a client sends at the end of a step, however long the steps are
        arrival_s = jnp.where(params.requests.think_s[params.served] > 0, arrival_s, o.arrival_s)
    sent_s = stop_gradient(o.arrival_s)
    if shape.capped:  # and so does a client whose request waited for a seat; all others come when their time has come
        waited = o.arrival_s > params.requests.arrival_s[params.served]
        arrival_s, sent_s = jnp.where(waited, o.arrival_s, arrival_s), jnp.where(waited, o.arrival_s, sent_s)
    output = params.requests.output_tokens[params.served]
    safe = lambda x: jnp.where(o.finished, x, 0.0)
    ttft_s, e2e_s = safe(o.first_token_s) - safe(arrival_s), safe(o.finish_s) - safe(arrival_s)
    tpot_s = (safe(o.finish_s) - safe(o.first_token_s)) / jnp.maximum(output - 1, 1)
    some = lambda x, there: jnp.where(o.finished & there & (x > 0), x, 1.0)[measured]
    return ClientLatencies(safe(sent_s)[measured], some(ttft_s, True), some(tpot_s, output > 1), some(e2e_s, True), o.finished[measured])
