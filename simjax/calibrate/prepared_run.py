"""A measured run made ready to be simulated again and again, with the profile as the only thing that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.calibrate.reference_frames import arrivals
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.deployment import Deployment
from simjax.engine.differentiate import Outcome, outcome, outcome_reverse, ticks_needed
from simjax.engine.host.lower import Lowered, lower
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape, power_of_two
from simjax.engine.simulate import simulate
from simjax.errors import SimjaxError
from simjax.latency.compile_profile import compile_profile
from simjax.latency.join import join_step_times
from simjax.latency.profile import LatencyProfile
from simjax.latency.step_time import StepTime
from simjax.validate.run import MeasuredRun
from simjax.workload.workload import Workload

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

ROOMY = 0.5  # part of the KV blocks that such a run uses at most
TICKS_TO_SPARE = 20  # a profile that needs so many times the ticks of the first one is hopeless: its run is cut


class Latencies(NamedTuple):
    """What clients of a simulated run saw; 1 in place of a time that does not exist, so that a logarithm is safe.

    Attributes:
        ttft_s, tpot_s, e2e_s: f64[R]. finished: bool[R].
    """

    ttft_s: Float64[Array, " R"]
    tpot_s: Float64[Array, " R"]
    e2e_s: Float64[Array, " R"]
    finished: Bool[Array, " R"]


@dataclass(frozen=True)
class PreparedRun:
    """A cluster and its workload as arrays.

    Attributes:
        cluster: the engines.
        shape: static sizes.
        params: host arrays; step times and API times are those of the profile it was prepared with.
        requests: how many of them are real.
        ticks: enough for reverse mode, see `ticks_needed`.
    """

    cluster: ClusterSpec
    shape: EngineShape
    params: ClusterParams
    requests: int
    ticks: int

    @property
    def max_ticks(self) -> int:
        """Where a run in forward mode is cut."""
        return TICKS_TO_SPARE * self.ticks

    @property
    def closed_loop(self) -> bool:
        """Whether clients wait for their answers."""
        return self.shape.clients > 0


def prepare(cluster: ClusterSpec, workload: Workload, profile: LatencyProfile) -> PreparedRun:
    """The arrays of a cluster under a workload.

    Raises:
        SimjaxError: the profile does not fit, or a request can never be served.
    """
    deployments, sizes, row = _deployments(cluster)
    with jax.enable_x64(True):
        step_time = jax.tree.map(np.asarray, step_times_of(deployments, sizes, profile, np))
    pre, post = (np.full(len(row), float(getattr(profile.host, name))) for name in ("api_pre_s", "api_post_s"))
    timings = ClusterTiming(step_time, row, pre, post, ())
    lowered = lower(cluster, timings, workload, log=False)
    if workload.prefixes is None and lowered.shape.prefix_nodes:
        lowered = _with_caches_if_needed(lowered, lower(_without_caches(cluster), timings, workload, log=False))
    ticks = ticks_needed(lowered.shape, lowered.params)
    return PreparedRun(cluster, lowered.shape, lowered.params, len(workload), ticks)


def _without_caches(cluster: ClusterSpec) -> ClusterSpec:
    limits = [replace(x.limits, enable_prefix_caching=False) for x in cluster.instances]
    return replace(cluster, instances=tuple(replace(x, limits=y) for x, y in zip(cluster.instances, limits, strict=True)))


def _with_caches_if_needed(caching: Lowered, plain: Lowered) -> Lowered:
    """Of a run whose requests share nothing: prefix caches are of use to preempted requests only, and make it three times slower.

    They are left out if no engine comes near to preempting anybody, so that it will not under the parameters of a fit either.
    """
    blocks = simulate(plain.shape, plain.params).instances.peak_blocks
    return plain if (blocks <= ROOMY * plain.params.ranks.num_blocks).all() else caching


def prepare_measured(run: MeasuredRun, cluster: ClusterSpec, profile: LatencyProfile) -> PreparedRun:
    """The arrays of a measured run; errors as of `prepare`, naming the run."""
    try:
        return prepare(cluster, run.workload(), profile)
    except SimjaxError as error:
        raise SimjaxError(f"{run.source}: {error}") from None


def with_profile(served: PreparedRun, profile: LatencyProfile) -> ClusterParams:
    """The parameters of the run under a profile, whose numbers may be traced; call it inside `jax.enable_x64(True)`."""
    deployments, sizes, _ = _deployments(served.cluster)
    return timed(served.params, step_times_of(deployments, sizes, profile, jnp), profile.host.api_pre_s, profile.host.api_post_s)


def simulated(served: PreparedRun, profile: LatencyProfile, reverse: bool = False) -> Latencies:
    """Latencies of the run, differentiable with respect to the profile as `simjax.calibrate.reference_frames` says.

    Args:
        served: the run.
        profile: its numbers may be traced.
        reverse: for `jax.grad`; else for forward mode.
    """
    params = with_profile(served, profile)
    o = outcome_reverse(served.shape, served.ticks, params) if reverse else outcome(served.shape, params, served.max_ticks)
    return latencies(served, params, o)


def latencies(served: PreparedRun, params: ClusterParams, o: Outcome) -> Latencies:
    """From the times of a run to latencies of its real requests."""
    of = lambda x: x[jnp.maximum(o.instance, 0)]
    arrival_s = arrivals(o, of(params.ranks.api_pre_s), of(params.ranks.api_post_s))
    if served.closed_loop:  # without a pause every client comes at the end of a step, whatever the steps take
        arrival_s = jnp.where(params.requests.think_s[params.served] > 0, arrival_s, o.arrival_s)
    output = params.requests.output_tokens[params.served]
    safe = lambda x: jnp.where(o.finished, x, 0.0)
    ttft_s, e2e_s = safe(o.first_token_s) - safe(arrival_s), safe(o.finish_s) - safe(arrival_s)
    tpot_s = (safe(o.finish_s) - safe(o.first_token_s)) / jnp.maximum(output - 1, 1)
    some = lambda x, there: jnp.where(o.finished & there & (x > 0), x, 1.0)[: served.requests]
    return Latencies(some(ttft_s, True), some(tpot_s, output > 1), some(e2e_s, True), o.finished[: served.requests])


def step_times_of(deployments: Sequence[Deployment], sizes: Sequence[tuple[int, int]], profile: LatencyProfile, xp: ModuleType) -> StepTime:
    """The step times of deployments, one row each; `sizes` holds the most tokens and the most sequences of a step of each."""
    step_times = [compile_profile(profile, deployment, *most, xp) for deployment, most in zip(deployments, sizes, strict=True)]
    return step_times[0] if len(step_times) == 1 else join_step_times(step_times)


def timed(params: ClusterParams, step_time: StepTime, api_pre_s: Any, api_post_s: Any) -> ClusterParams:
    """Host arrays on the device, with these step times and API times (of the shape of the ranks, or one that spreads to it); call it inside
    `jax.enable_x64(True)`.
    """
    params = jax.tree.map(jnp.asarray, params)
    spread = lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float64), params.ranks.api_pre_s.shape)
    instances = replace(params.ranks, api_pre_s=spread(api_pre_s), api_post_s=spread(api_post_s))
    return replace(params, ranks=instances, step_time=step_time)


def _deployments(cluster: ClusterSpec) -> tuple[list[Deployment], list[tuple[int, int]], np.ndarray]:
    """The distinct deployments of a cluster, the most tokens and sequences of their steps, and which of them each instance is, i32[N]."""
    deployments: list[Deployment] = []
    sizes: list[tuple[int, int]] = []
    row = []
    for instance in cluster.instances:
        deployment, limits = instance.deployment.with_times_only(), instance.limits
        most = power_of_two(limits.max_num_batched_tokens), power_of_two(limits.max_num_seqs)
        if deployment not in deployments:
            deployments.append(deployment)
            sizes.append(most)
        place = deployments.index(deployment)
        sizes[place] = (max(sizes[place][0], most[0]), max(sizes[place][1], most[1]))
        row.append(place)
    return deployments, sizes, np.array(row, np.int32)
