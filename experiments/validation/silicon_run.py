"""Mean points of many devices simulated side by side, each with the profile of its device: a program for each size of point.

Points of about as many requests share a program, for a batch runs until its longest point is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from simjax.batch.design import design_of
from simjax.calibrate.targets.points import MeanPoint
from simjax.calibrate.targets.points_target import BENCHMARK_ROUNDS, TICKS_PER_REQUEST, alike, point_lengths
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.deployment import Deployment
from simjax.engine.arrivals.closed_loop import ClosedLoop
from simjax.engine.batch import compiled_batch
from simjax.engine.columns import recorded
from simjax.engine.host.batch import make_batch
from simjax.engine.host.lower import Lowered
from simjax.engine.host.result import RequestLog
from simjax.engine.shape import power_of_two
from simjax.latency.join import join_step_times
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.profile import LatencyProfile
from simjax.latency.step_time import StepTime
from simjax.workload.synthetic.closed_loop import closed_loop

SIZES = (16, 32, 64, 128, 256, 1024)  # most requests in flight of the points that share a program
EXPECTED_TICKS = 200_000  # a fit effort of the compiler: some seconds of runs
ROUNDS = 6  # of the benchmark's ten; a first one, a last one and those between, one of which stands for all that are left out


def simulated(points: Sequence[MeanPoint], profiles: Mapping[str, LatencyProfile], rounds: int = ROUNDS) -> np.ndarray:
    """TTFT and TPOT of every point in seconds, f64[B, 2].

    Args:
        points: measured points of any devices.
        profiles: a profile for each device, by its name.
        rounds: prompts that each client sends, of which those in the middle stand for all of the benchmark's.
    """
    found = np.zeros((len(points), 2))
    place = {point.id: b for b, point in enumerate(points)}
    for some in alike(points):
        timings = _timings(some, profiles)
        for most in SIZES:
            least = max((x for x in SIZES if x < most), default=0)
            mine = [(p, t) for p, t in zip(some, timings, strict=True) if least < p.concurrency <= most]
            if mine:
                found[[place[p.id] for p, _ in mine]] = _means([p for p, _ in mine], [t for _, t in mine], rounds)
    return found


def _timings(points: Sequence[MeanPoint], profiles: Mapping[str, LatencyProfile]) -> list[ClusterTiming]:
    """The step times of each point, all of them in one table."""
    tokens = power_of_two(max(p.max_num_batched_tokens for p in points))
    seqs = power_of_two(max(min(p.max_num_seqs, p.concurrency) for p in points))
    kinds: list[tuple[str, Deployment]] = []
    rows, hosts = [], []
    for point in points:
        kind = (point.known_backend, point.instance.deployment.with_times_only())
        if kind not in kinds:
            kinds.append(kind)
        rows.append(kinds.index(kind))
        hosts.append(profiles[point.device.name].for_backend(point.known_backend).host)
    with jax.enable_x64(True):
        parts = list(_compiled(kinds, profiles, tokens, seqs))
        table = jax.tree.map(np.asarray, parts[0] if len(parts) == 1 else join_step_times(parts))
    one = lambda value: np.array([float(value)])
    return [
        ClusterTiming(table, np.array([row], np.int32), one(host.api_pre_s), one(host.api_post_s), ())
        for row, host in zip(rows, hosts, strict=True)
    ]


def _compiled(
    kinds: Sequence[tuple[str, Deployment]], profiles: Mapping[str, LatencyProfile], tokens: int, seqs: int
) -> Iterator[StepTime]:
    for backend, deployment in kinds:
        yield compile_profile(profiles[deployment.device.name].for_backend(backend), deployment, tokens, seqs)


def _means(points: Sequence[MeanPoint], timings: Sequence[ClusterTiming], rounds: int) -> np.ndarray:
    """Means of points that share a program."""
    designs = [_lowered(p, t, rounds) for p, t in zip(points, timings, strict=True)]
    with jax.enable_x64(True):
        batch = make_batch(designs)
        ticks = np.asarray(TICKS_PER_REQUEST * rounds * max(p.concurrency for p in points), np.int32)
        params = jax.device_put(batch.params)
        state, _ = compiled_batch(batch.shape, 1, params, EXPECTED_TICKS)(params, jax.device_put(ticks))
    assert isinstance(state.arrivals, ClosedLoop)
    n, names = batch.shape.requests, recorded(RequestLog, batch.shape)
    outcome, arrived_s = np.asarray(state.outcome)[:, :n], np.asarray(state.arrivals.arrived_s)[:, :n]
    first_s, finish_s = (outcome[:, :, names.index(name)] for name in ("first_token_s", "finish_s"))
    found = []
    for b, point in enumerate(points):
        own = rounds * point.concurrency
        output = point_lengths(point, rounds)[1]
        assert np.isfinite(finish_s[b, :own]).all(), f"{point.id} has not finished"
        ttft_s, tpot_s = first_s[b, :own] - arrived_s[b, :own], (finish_s[b, :own] - first_s[b, :own]) / np.maximum(output - 1, 1)
        share = np.repeat([1.0, 1.0, *[(BENCHMARK_ROUNDS - 3) / (rounds - 3)] * (rounds - 3), 1.0], point.concurrency)
        share /= BENCHMARK_ROUNDS * point.concurrency
        means = share @ ttft_s, share @ tpot_s
        found.append((point.seen_s(*means), means[1]))
    return np.array(found)


def _lowered(point: MeanPoint, timing: ClusterTiming, rounds: int) -> Lowered:
    workload = closed_loop(*point_lengths(point, rounds), point.concurrency, source=point.id)
    return design_of(ClusterSpec((point.instance,)), timing, workload).lowered
