"""The reference simulator of tests/reference on the same cluster, with the same step times in plain Python."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from common import ROOT

from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.engine.host.lower import FLAGS, LIMITS, instance_params
from simjax.engine.host.result import Result
from simjax.latency.attention.coefficients import (
    TILE,
    AttentionCoefficients,
    ChunkBatch,
    DecodeBatch,
    decode_attention_s,
    mixed_attention_s,
)
from simjax.latency.step_time import StepTime
from simjax.workload.workload import Workload

sys.path.insert(0, str(ROOT))
from tests.reference.instance import RefInstance
from tests.reference.simulator import RefRequest, RefResult, simulate


def step_seconds(step_time: StepTime) -> Callable[[list[tuple[int, int]]], float]:
    """The step time as a function of (new, computed) of its requests, from the profile's first row."""
    assert step_time.table is None, "measured attention tables have no plain version"
    tokens_s, sequences_s = np.asarray(step_time.tokens_s[0]).tolist(), np.asarray(step_time.sequences_s[0]).tolist()
    host_s = float(step_time.host_s[0])
    a = AttentionCoefficients(**{name: float(value[0]) for name, value in vars(step_time.attention).items()})

    def seconds(batch: list[tuple[int, int]]) -> float:
        chunks = queries = history = tiles = tile_keys = longest = most_tiles = 0
        decodes = kv_sum = kv_max = 0
        for new, computed in batch:
            if new == 1:
                decodes, kv_sum, kv_max = decodes + 1, kv_sum + computed, max(kv_max, computed)
                continue
            blocks = -(-new // TILE)
            chunks, queries, history, tiles = chunks + 1, queries + new, history + new * computed, tiles + blocks
            tile_keys += blocks * computed + TILE // 2 * blocks * (blocks + 1)
            longest, most_tiles = max(longest, new + computed), max(most_tiles, blocks)
        shared_s = tokens_s[queries + decodes] + sequences_s[chunks + decodes] + host_s
        d = DecodeBatch(float(decodes), float(kv_sum), float(kv_max))
        if not chunks:
            return shared_s + float(decode_attention_s(a, d, np))
        c = ChunkBatch(*map(float, (chunks, queries, history, tiles, tile_keys, longest, most_tiles)))
        return shared_s + float(mixed_attention_s(a, c, d, np))

    return seconds


def run_reference(cluster: ClusterSpec, timings: ClusterTiming, workload: Workload) -> RefResult:
    """One open-loop run of a cluster whose instances share one source of step times."""
    limits = instance_params(cluster, timings, len(workload))
    names = ("num_blocks", "max_model_len", "api_pre_s", "api_post_s", *LIMITS, *FLAGS)
    step_time = step_seconds(timings.step_time)
    instances = [
        RefInstance(step_time=step_time, **{name: np.asarray(getattr(limits, name))[i].item() for name in names})
        for i in range(len(cluster.instances))
    ]
    rows = zip(workload.arrival_s.tolist(), workload.prompt_tokens.tolist(), workload.output_tokens.tolist(), strict=True)
    return simulate(instances, [RefRequest(*row) for row in rows], cluster.router, max_steps=2**40)


def difference(result: Result, reference: RefResult) -> float:
    """Largest relative difference of first-token and finish times."""
    from common import relative_difference

    wanted = np.array([(outcome.first_token_s, outcome.finish_s) for outcome in reference.requests], float)
    found = np.stack([result.requests.first_token_s, result.requests.finish_s], axis=1)
    return relative_difference(found, wanted)
