"""A run whose arrivals are not recorded but drawn: its statistics are fitted as far as two samples agree, single requests not at all."""

from dataclasses import replace

import numpy as np

from simjax.calibrate.prepared_run import ClientLatencies, prepare_measured
from simjax.calibrate.targets.measured_run import LossWeights, RunTarget, replay_noise, sampling_noise
from simjax.metrics.latency import PERCENTILES
from simjax.validate.compare import METRICS
from simjax.workload.workload import Workload
from tests.calibrate.runs import cluster, measured, poisson, profile


def test_noise_is_that_of_samples() -> None:
    rng = np.random.default_rng(0)
    samples = rng.lognormal(0.0, 0.4, (400, 300))
    several = np.log(np.stack([samples.mean(1), *(np.percentile(samples, q, axis=1) for q in PERCENTILES.values())]))
    told = np.mean([sampling_noise(sample) for sample in samples[:20]], axis=0)
    np.testing.assert_allclose(told[:3], several.std(axis=1)[:3], rtol=0.25)
    assert told[-1] > told[0], "a far percentile is known worse than the mean"


def test_noise_of_a_replay_is_that_of_requests_near_a_percentile() -> None:
    # Requests of very different lengths, each 8 % off by itself: their own spread says nothing of how sure a statistic is.
    rng = np.random.default_rng(1)
    lengths = rng.lognormal(0.0, 1.0, 1000)
    several = lengths * np.exp(0.08 * rng.normal(size=(400, 1000)))
    seen = np.log(np.stack([several.mean(1), *(np.percentile(several, q, axis=1) for q in PERCENTILES.values())])).std(axis=1)
    told = replay_noise(lengths, 0.08)
    assert (told < sampling_noise(lengths)).all()
    assert (seen < 2.0 * told).all() and (told < 2.0 * seen).all(), (told, seen)
    even = replay_noise(1.0 + 1e-3 * rng.random(300), 0.08)
    assert even.max() < 1e-3, "values that are all but equal leave no doubt about their percentiles"


def test_other_arrivals_of_the_same_process_are_no_sign_of_another_profile() -> None:
    load = poisson(6.0, 200)
    run = measured(load, {})
    rng = np.random.default_rng(5)
    arrival_s = np.cumsum(rng.exponential(1 / 6.0, len(load)))
    drawn = replace(run, arrival_s=arrival_s - arrival_s[0], drawn_arrivals=True)
    prepared = prepare_measured(drawn, cluster(), profile())
    target = RunTarget.of_run(drawn, prepared, LossWeights())
    strict = RunTarget(drawn, prepared, LossWeights())
    slow = measured(Workload(drawn.arrival_s, load.prompt_tokens, load.output_tokens), {"gemm_bandwidth": 0.8})
    same = measured(Workload(drawn.arrival_s, load.prompt_tokens, load.output_tokens), {})
    loss = lambda of, x: float(np.sum(np.square(of.of(_latencies(x)))))
    assert loss(target, same) < 0.2 * loss(strict, same), "requests that came at other times were held against the profile"
    assert loss(target, same) < 2.0 * target.observations < loss(target, slow), "and a slower device must be seen"
    assert target.observations == len(METRICS) * (1 + len(PERCENTILES)) * LossWeights().statistic_weight
    replayed = RunTarget.of_run(run, prepared, LossWeights())
    assert all((replayed.noise[name] < target.noise[name]).all() for name in METRICS)


def _latencies(x):
    return ClientLatencies(x.arrival_s, x.ttft_s, np.where(x.has_tpot, x.tpot_s, 1.0), x.e2e_s, np.ones(len(x), bool))
