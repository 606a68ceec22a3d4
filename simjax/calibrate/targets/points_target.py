"""Measured mean points as a target: all of them simulated side by side as closed loops, one program for the batch.

In a closed loop clients move with the engine's clock, so latencies have no phase to hold and their pathwise derivative is the right one.

Benchmark clients start all at once and send ten prompts each. Their mean is over a first round, in which every client waits for the
prompts of all, a second one that still shows it, rounds that are alike, and a last one in which the instance empties. Fewer rounds give the
same means when one of those that are alike stands for all that are not simulated. Four rounds in place of ten leave an error, on 75 rows of
H100 and H200, of 1.4 to 2.2 % rms in mean TTFT (6 % at worst) and of 0.3 to 0.4 % in mean TPOT. On two cores 40 points of 8 deployments
take 0.2 s, 1.1 s with twelve tangents, after 5 and 15 s of compilation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.batch.design import design_of
from simjax.calibrate.profile_timing import ProfileTiming
from simjax.calibrate.targets.points import MeanPoint
from simjax.calibrate.targets.residuals import UNFINISHED, pseudo_huber
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.engine.arrivals.closed_loop import ClosedLoop
from simjax.engine.batch import BATCH_AXES, run_batch
from simjax.engine.columns import recorded
from simjax.engine.differentiate import outcome_reverse
from simjax.engine.host.batch import make_batch
from simjax.engine.host.lower import Lowered
from simjax.engine.host.result import RequestLog
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape, power_of_two
from simjax.errors import SimjaxError
from simjax.latency.profiles.profile import LatencyProfile
from simjax.workload.synthetic.closed_loop import closed_loop

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

BENCHMARK_ROUNDS = 10  # prompts that each client of the benchmark sends
FEWEST_ROUNDS = 4
TICKS_PER_REQUEST = 64  # 2 are usual; a run that needs more is cut, for its profile is far from any measurement
LENGTHS_SEED = 0


@dataclass(frozen=True)
class PointOptions:
    """Options of how points are simulated and how much they count.

    Attributes:
        rounds: prompts that each client sends, at least 4.
        ttft_sd, tpot_sd: standard deviations of the logarithm of the means. Means repeat within 10 to 20 % (TTFT) and 3 to 5 % (TPOT) from
            one run of a server to the next; they also cover the kernels and schedulers of backends other than vLLM.
        group_weight: independent observations that the points of a group stand for, for each of the two means: they share harness, kernels
            and host, and one fault moves all of them.
        outlier: standard deviations beyond which a residual counts linearly, not squared.
    """

    rounds: int = 4
    ttft_sd: float = 0.2
    tpot_sd: float = 0.05
    group_weight: float = 10.0
    outlier: float = 3.0


class Means(NamedTuple):
    """Simulated means of B points; 1 where a request has not finished.

    Attributes:
        ttft_s, tpot_s: f64[B], seconds.
        finished: bool[B], whether all requests of the point have finished.
    """

    ttft_s: Float64[Array, " B"]
    tpot_s: Float64[Array, " B"]
    finished: Bool[Array, " B"]


@dataclass(frozen=True)
class PointsTarget:
    """Mean points of any models and tensor-parallel degrees whose step times one profile gives.

    Attributes:
        name: name for messages.
        points: the B measured points.
        options: options of how they are simulated.
        timing: step times and API times of the points' instances by a profile.
        shape, params: the batch, host arrays; its step times and API times are replaced by those of the profile that is tried.
        share: f64[B, R], weight of each request in the means of its point; rows sum to 1.
        max_ticks: ticks after which the batch is cut.
    """

    name: str
    points: tuple[MeanPoint, ...]
    options: PointOptions
    timing: ProfileTiming
    shape: EngineShape
    params: ClusterParams
    share: np.ndarray
    max_ticks: int

    @classmethod
    def of(cls, points: Sequence[MeanPoint], profile: LatencyProfile, options: PointOptions | None = None, name: str = "") -> PointsTarget:
        """Prepare points.

        Args:
            points: measured points of the profile's device.
            profile: a profile, to check that it holds for the points.
            options: options of how they are simulated.
            name: name for messages; by default the groups of the points.

        Raises:
            SimjaxError: there is no point, or one cannot be simulated: its model does not fit, or the profile does not hold for it.
        ValueError: they are not `alike`, so that no batch can hold them.
        """
        o = options or PointOptions()
        if not points:
            raise SimjaxError("no mean points are left to calibrate with; read_points says why rows are left out")
        if o.rounds < FEWEST_ROUNDS:
            raise SimjaxError(
                f"rounds={o.rounds}: mean points need at least {FEWEST_ROUNDS}, the first two and the last are not like the rest"
            )
        timing = ProfileTiming.of([point.instance for point in points], *_sizes(points), [point.known_backend for point in points])
        times = timing.on_host(profile)
        with jax.enable_x64(True):  # all designs share one table of step times, so the batch keeps its rows
            batch = make_batch([_lowered(point, o, _alone(times, b)) for b, point in enumerate(points)])
        share = np.zeros((len(points), batch.shape.requests))
        for b, point in enumerate(points):
            own = _shares(point.concurrency, o.rounds)
            share[b, : len(own)] = own
        ticks = TICKS_PER_REQUEST * max(point.concurrency for point in points) * o.rounds
        groups = dict.fromkeys(point.group or point.id for point in points)
        name = name or ", ".join(groups)
        return cls(name, tuple(points), o, timing, batch.shape, batch.params, share, ticks)

    def means(self, profile: LatencyProfile, reverse: bool = False) -> Means:
        """Simulated means under a profile, whose numbers may be traced; call it inside `jax.enable_x64(True)` and a `jax.jit`.

        Args:
            profile: a profile of the device.
            reverse: simulate one point after the other, for `jax.grad`; else side by side, for values and forward mode.
        """
        params = self.timing.timed(self.params, profile)
        arrival_s, first_s, finish_s = self._in_reverse(params) if reverse else self._side_by_side(params)
        output = params.requests.output_tokens[params.workload]
        done = jnp.isfinite(finish_s)
        safe = lambda x: jnp.where(done, x, 0.0)
        ttft_s = safe(first_s) - safe(arrival_s)
        tpot_s = (safe(finish_s) - safe(first_s)) / jnp.maximum(output - 1, 1)
        finished = jnp.all(done | (self.share == 0.0), axis=1)
        mean = lambda x: jnp.where(finished, jnp.sum(self.share * jnp.where(done, x, 0.0), axis=1), 1.0)
        return Means(mean(ttft_s) + jnp.where(finished, self.steps_unseen * mean(tpot_s), 0.0), mean(tpot_s), finished)

    @property
    def steps_unseen(self) -> np.ndarray:
        """Steps in the mean until the scheduler of each point looks for new requests, f64[B]."""
        return np.array([0.5 * point.receive_interval for point in self.points])

    @property
    def observations(self) -> float:
        """Number of independent observations that the residuals stand for."""
        return 2.0 * float(np.sum(self.weights))

    def residuals(self, profile: LatencyProfile, reverse: bool = False) -> Array:
        """Residuals (log simulated - log measured) / sd times the root of the point's weight, f64[2 B]: TTFT of all points, then TPOT."""
        means, o = self.means(profile, reverse), self.options
        weight = self.weights
        parts = []
        for name, sd in (("ttft_s", o.ttft_sd), ("tpot_s", o.tpot_sd)):
            measured = np.array([getattr(point, name) for point in self.points])
            ratio = jnp.where(means.finished, jnp.log(getattr(means, name)) - np.log(measured), UNFINISHED)
            parts.append(pseudo_huber(ratio / sd, o.outlier) * np.sqrt(weight))
        return jnp.concatenate(parts)

    @property
    def weights(self) -> np.ndarray:
        """Independent observations that each point stands for, for each of its means, f64[B]."""
        groups = [point.group or point.id for point in self.points]
        return np.array([min(1.0, self.options.group_weight / groups.count(group)) for group in groups])

    def _side_by_side(self, params: ClusterParams) -> tuple[Array, Array, Array]:
        """Arrival, first token and finish of every request of every point, f64[B, R]; infinity where there is none."""
        state, _ = run_batch(self.shape, 1, params, jnp.asarray(self.max_ticks, jnp.int32))
        assert isinstance(state.arrivals, ClosedLoop)
        names, outcome = recorded(RequestLog, self.shape), state.outcome[:, : self.shape.requests]
        first_token_s, finish_s = (outcome[:, :, names.index(name)] for name in ("first_token_s", "finish_s"))
        return state.arrivals.arrived_s[:, : self.shape.requests], first_token_s, finish_s

    def _in_reverse(self, params: ClusterParams) -> tuple[Array, Array, Array]:
        """The same for `jax.grad`: a loop over points ends each of them in its own time, which points side by side cannot."""
        own = [name for name in ClusterParams.__dataclass_fields__ if getattr(BATCH_AXES, name) == 0]

        def one(mine: dict[str, Any]) -> tuple[Array, Array, Array]:
            o = outcome_reverse(self.shape, self.max_ticks, replace(params, **mine))
            return o.arrival_s, o.first_token_s, o.finish_s

        return jax.lax.map(one, {name: getattr(params, name) for name in own})


def alike(points: Sequence[MeanPoint]) -> list[list[MeanPoint]]:
    """The points by what a batch has to have in common: ranks that step together or not, their number, pp stages and drafts."""
    found: dict[tuple, list[MeanPoint]] = {}
    for point in points:
        deployment = point.instance.deployment
        kind = (point.data_parallel_size, deployment.grouped, point.pipeline_parallel_size > 1, point.speculation is not None)
        found.setdefault(kind, []).append(point)
    return list(found.values())


def point_lengths(point: MeanPoint, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output tokens of the requests of a point, int[rounds * concurrency] each, in the order they are sent.

    Every round holds one length of each of `concurrency` equal parts of the distribution, in random order: so it is like many rounds.
    """
    rng = np.random.default_rng([LENGTHS_SEED, point.concurrency])
    n = point.concurrency

    def lengths(longest: int) -> np.ndarray:
        shortest = max(int(point.uniform_from * longest), 1)
        part = np.concatenate([(rng.permutation(n) + rng.random(n)) / n for _ in range(rounds)])
        return shortest + np.floor(part * (longest - shortest + 1)).astype(int)

    return lengths(point.prompt_tokens), lengths(point.output_tokens)


def _shares(concurrency: int, rounds: int) -> np.ndarray:
    """Weights in a mean of `BENCHMARK_ROUNDS` rounds of as many requests, f64[rounds * concurrency]; they sum to 1."""
    benchmark = max(BENCHMARK_ROUNDS, rounds)
    alike = (benchmark - 3) / (rounds - 3)
    return np.repeat([1.0, 1.0, *[alike] * (rounds - 3), 1.0], concurrency) / (benchmark * concurrency)


def _sizes(points: Sequence[MeanPoint]) -> tuple[int, int]:
    """Most tokens and most sequences of a step of any point; no more sequences than requests are ever in flight."""
    most_seqs = max(min(point.max_num_seqs, point.concurrency) for point in points)
    return power_of_two(max(point.max_num_batched_tokens for point in points)), power_of_two(most_seqs)


def _alone(times: ClusterTiming, b: int) -> ClusterTiming:
    """The times of one of many instances, by rows of the same table."""
    return replace(times, row=times.row[b : b + 1], api_pre_s=times.api_pre_s[b : b + 1], api_post_s=times.api_post_s[b : b + 1])


def _lowered(point: MeanPoint, options: PointOptions, timing: ClusterTiming) -> Lowered:
    try:
        workload = closed_loop(*point_lengths(point, options.rounds), point.concurrency, source=point.id)
        return design_of(ClusterSpec((point.instance,)), timing, workload).lowered
    except SimjaxError as error:
        raise SimjaxError(f"mean point {point.id}: {error}") from None
