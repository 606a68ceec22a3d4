"""From a configuration to the parts of its latencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from simjax.cluster.latency_source import latency_source
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.config.schema import ExplainConfig, SimulatedConfig
from simjax.errors import SimjaxError
from simjax.explain.parts import Costs, Parts, parts_of
from simjax.explain.statistics import statistics_frame
from simjax.job import Progress, Run, measurement_window, run
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.slo import NO_LIMITS
from simjax.options.effect import conditionals, looking_at, refuse_without_effect

WITHOUT_EFFECT = ("power", "price", "slo")


@dataclass(frozen=True)
class Explained:
    """A run and the parts of its latencies.

    Attributes:
        run: the run.
        parts: those of its finished requests.
        statistics: a row for each statistic of each latency over the measurement window, see `statistics_frame`.
    """

    run: Run
    parts: Parts
    statistics: pd.DataFrame


def explain(config: SimulatedConfig, on_progress: Progress | None = None) -> Explained:
    """Simulate a configuration, and divide the latencies of its requests.

    Args:
        config: the configuration, such as that of `simjax.compose`.
        on_progress: called now and then with (requests finished, all requests).

    Raises:
        SimjaxError: as for `simjax.run`; or power, prices or limits are set that no latency depends on; or instances have pp stages or
            decode speculatively, whose steps overlap or give several tokens; or no request has finished.
    """
    here = [one for one in conditionals(ExplainConfig) if one.key in WITHOUT_EFFECT]
    refuse_without_effect(here, looking_at(config))  # those of presets too, which the command line does not look at
    done = run(config, on_progress)
    if any(x.parallelism.pipeline > 1 or x.speculation is not None for x in done.cluster.instances):
        raise SimjaxError("explain: steps of pp stages overlap, and those with drafts give several tokens: neither is divided yet")
    parts = parts_of(done.result, costs_of(done.cluster, config))
    if not len(parts.request):
        raise SimjaxError("explain: no request has finished; raise sim.max_ticks, or lower the load")
    runs = Runs.of([done.result], [NO_LIMITS], [done.cluster.num_devices], [measurement_window(config.metrics)])
    return Explained(done, parts, statistics_frame(parts, runs.measured.arrived[0]))


def costs_of(cluster: ClusterSpec, config: SimulatedConfig) -> Costs:
    """The costs of the ranks of a cluster."""
    of = np.array(cluster.instance_of_rank)
    timing = cluster_timing(cluster.instances, latency_source(config.profile))
    host_s = np.asarray(timing.step_time.host_s)[timing.row]
    sizes = np.array([x.limits.block_size for x in cluster.ranks])
    return Costs(timing.api_pre_s[of], timing.api_post_s[of], host_s[of], sizes)
