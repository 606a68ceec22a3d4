"""Measured mean points as a target: all of them simulated side by side as closed loops, one program for the batch.

In a closed loop clients move with the engine's clock, so latencies have no phase to hold and their pathwise derivative is the right one.

Benchmark clients start all at once and send ten prompts each. Their mean is made of a first round, in which everybody waits for
everybody's prompt, a second one that still feels it, rounds that are alike, and a last one in which the engine empties. Fewer rounds tell
the same when one of those that are alike stands for all that are not simulated. What four rounds leave in place of ten, on 75 rows of H100
and H200: 1.4 to 2.2 % rms of mean TTFT (6 % at worst) and 0.3 to 0.4 % of mean TPOT. On two cores 40 points of 8 deployments take 0.2 s,
1.1 s with twelve tangents, after 5 and 15 s of compilation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.calibrate.prepared_run import timed
from simjax.calibrate.targets.points import MeanPoint
from simjax.calibrate.targets.residuals import UNFINISHED, robust
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.deployment import Deployment
from simjax.engine.arrivals.closed_loop import ClosedLoop
from simjax.engine.batch import BATCH_AXES, run_batch
from simjax.engine.columns import recorded
from simjax.engine.differentiate import outcome_reverse
from simjax.engine.host.batch import make_batch
from simjax.engine.host.lower import Lowered, lower
from simjax.engine.host.result import RequestLog
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape, power_of_two
from simjax.errors import SimjaxError
from simjax.latency.compile_profile import compile_profile
from simjax.latency.join import join_step_times
from simjax.latency.profile import LatencyProfile
from simjax.latency.step_time import StepTime
from simjax.workload.synthetic.closed_loop import closed_loop

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

BENCHMARK_ROUNDS = 10  # prompts that each client of the benchmark sends
FEWEST_ROUNDS = 4
TICKS_PER_REQUEST = 64  # a run that needs more is hopeless: it is cut; 2 is usual
LENGTHS_SEED = 0


@dataclass(frozen=True)
class PointOptions:
    """How points are simulated and how much they count.

    Attributes:
        rounds: prompts that each client sends, at least 4.
        ttft_sd, tpot_sd: of the logarithm of the means. Means repeat within 10 to 20 % (TTFT) and 3 to 5 % (TPOT) from one run of a server
            to the next; kernels and schedulers of other engines than vLLM are in it, too.
        group_weight: independent numbers that the points of a group stand for, of each of the two means: they share harness, kernels and
            host, and one fault moves all of them.
        outlier: beyond so many standard deviations a residual counts linearly, not squared.
    """

    rounds: int = 4
    ttft_sd: float = 0.2
    tpot_sd: float = 0.05
    group_weight: float = 10.0
    outlier: float = 3.0


class Means(NamedTuple):
    """Simulated means of B points; 1 where a request has not finished.

    Attributes:
        ttft_s, tpot_s: f64[B]. finished: bool[B], whether all requests of the point have.
    """

    ttft_s: Float64[Array, " B"]
    tpot_s: Float64[Array, " B"]
    finished: Bool[Array, " B"]


@dataclass(frozen=True)
class PointsTarget:
    """Mean points of any models, degrees and devices that one profile times.

    Attributes:
        name: for messages.
        points: what was measured, B of them.
        options: how they are simulated.
        kinds: instances with step times of their own: the backend whose host times they have (`MeanPoint.engine`), and the deployment.
        shape, params: of the batch, host arrays; its step times and API times are replaced by the profile's.
        share: f64[B, R], weight of each request in the means of its point; rows sum to 1.
        max_ticks: where the batch is cut.
    """

    name: str
    points: tuple[MeanPoint, ...]
    options: PointOptions
    kinds: tuple[tuple[str, Deployment], ...]
    shape: EngineShape
    params: ClusterParams
    share: np.ndarray
    max_ticks: int

    @classmethod
    def of(cls, points: Sequence[MeanPoint], profile: LatencyProfile, options: PointOptions | None = None, name: str = "") -> PointsTarget:
        """Prepare points.

        Args:
            points: of the profile's device.
            profile: only tells whether it has what the points need.
            options: how to simulate them.
            name: for messages; by default the groups of the points.

        Raises:
            SimjaxError: there is no point, or one cannot be simulated: its model does not fit, or the profile does not hold for it.
        """
        o = options or PointOptions()
        if not points:
            raise SimjaxError("no mean points are left to calibrate with; read_points says why rows are left out")
        if o.rounds < FEWEST_ROUNDS:
            raise SimjaxError(
                f"rounds={o.rounds}: mean points need at least {FEWEST_ROUNDS}, the first two and the last are not like the rest"
            )
        kinds: list[tuple[str, Deployment]] = []
        step_times: list[StepTime] = []
        designs = []
        with jax.enable_x64(True):
            for point in points:
                kind = (point.engine, point.instance.deployment.with_times_only())
                if kind not in kinds:
                    kinds.append(kind)
                    compiled = compile_profile(profile.for_backend(point.engine), kind[1], *_sizes(points))
                    step_times.append(jax.tree.map(np.asarray, compiled))
                designs.append(_lowered(point, o, step_times[kinds.index(kind)]))
            batch = make_batch(designs)
        # `make_batch` counts the step times in order of appearance, which is the order of `kinds`.
        share = np.zeros((len(points), batch.shape.requests))
        for b, point in enumerate(points):
            own = _shares(point.concurrency, o.rounds)
            share[b, : len(own)] = own
        ticks = TICKS_PER_REQUEST * max(point.concurrency for point in points) * o.rounds
        groups = dict.fromkeys(point.group or point.id for point in points)
        name = name or ", ".join(groups)
        return cls(name, tuple(points), o, tuple(kinds), batch.shape, batch.params, share, ticks)

    def means(self, profile: LatencyProfile, reverse: bool = False) -> Means:
        """Simulated means under a profile, whose numbers may be traced; call it inside `jax.enable_x64(True)` and a `jax.jit`.

        Args:
            profile: of the device.
            reverse: for `jax.grad`, one point after the other; else for values and forward mode, side by side.
        """
        params = self._with(profile)
        arrival_s, first_s, finish_s = self._in_reverse(params) if reverse else self._side_by_side(params)
        output = params.requests.output_tokens[params.workload]
        done = jnp.isfinite(finish_s)
        safe = lambda x: jnp.where(done, x, 0.0)
        ttft_s = safe(first_s) - safe(arrival_s)
        tpot_s = (safe(finish_s) - safe(first_s)) / jnp.maximum(output - 1, 1)
        finished = jnp.all(done | (self.share == 0.0), axis=1)
        mean = lambda x: jnp.where(finished, jnp.sum(self.share * jnp.where(done, x, 0.0), axis=1), 1.0)
        return Means(mean(ttft_s), mean(tpot_s), finished)

    @property
    def observations(self) -> float:
        """Independent numbers that the residuals stand for."""
        return 2.0 * float(np.sum(self.weights))

    def residuals(self, profile: LatencyProfile, reverse: bool = False) -> Array:
        """f64[2 B], (log simulated - log measured) / sd times the root of the point's weight: TTFT of all points, then TPOT."""
        means, o = self.means(profile, reverse), self.options
        weight = self.weights
        parts = []
        for name, sd in (("ttft_s", o.ttft_sd), ("tpot_s", o.tpot_sd)):
            measured = np.array([getattr(point, name) for point in self.points])
            ratio = jnp.where(means.finished, jnp.log(getattr(means, name)) - np.log(measured), UNFINISHED)
            parts.append(robust(ratio / sd, o.outlier) * np.sqrt(weight))
        return jnp.concatenate(parts)

    @property
    def weights(self) -> np.ndarray:
        """f64[B], independent numbers that each point stands for, of each of its means."""
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
        """The same for `jax.grad`: a loop over points leaves each of them when it has ended, which many side by side could not."""
        own = [name for name in ClusterParams.__dataclass_fields__ if getattr(BATCH_AXES, name) == 0]

        def one(mine: dict[str, Any]) -> tuple[Array, Array, Array]:
            o = outcome_reverse(self.shape, self.max_ticks, replace(params, **mine))
            return o.arrival_s, o.first_token_s, o.finish_s

        return jax.lax.map(one, {name: getattr(params, name) for name in own})

    def _with(self, profile: LatencyProfile) -> ClusterParams:
        """The batch under a profile."""
        sizes, hosts = _sizes(self.points), [profile.for_backend(point.engine).host for point in self.points]
        step_time = join_step_times([compile_profile(profile.for_backend(engine), kind, *sizes, jnp) for engine, kind in self.kinds])
        pre, post = (jnp.stack([jnp.asarray(getattr(h, name), jnp.float64) for h in hosts]) for name in ("api_pre_s", "api_post_s"))
        return timed(self.params, step_time, pre[:, None], post[:, None])


def point_lengths(point: MeanPoint, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output tokens of the requests of a point, int[rounds * concurrency] each, in the order they are sent.

    Every round holds one length of each of `concurrency` equal parts of the distribution, in random order: it is like many rounds.
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


def _lowered(point: MeanPoint, options: PointOptions, step_time: StepTime) -> Lowered:
    nothing = np.zeros(1)
    timings = ClusterTiming(step_time, np.zeros(1, np.int32), nothing, nothing, ())
    try:
        workload = closed_loop(*point_lengths(point, options.rounds), point.concurrency, source=point.id)
        return lower(ClusterSpec((point.instance,)), timings, workload, log=False)
    except SimjaxError as error:
        raise SimjaxError(f"mean point {point.id}: {error}") from None
