"""How large the steps and requests of a run were, in the terms of a calibration's ranges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from simjax.cluster.instance import InstanceSpec
from simjax.engine.host.result import NEVER, LeapLog, Result
from simjax.latency.profiles.profile import Bounds, Seen
from simjax.metrics.handover.legs import first_legs


class StepExtremes(NamedTuple):
    """The smallest and the largest steps of N instances, int64[N] each; 0 where an instance took no step or recorded none.

    Attributes:
        tokens_min, tokens_max: scheduled tokens of a step.
        sequences_min, sequences_max: requests of a step.
    """

    tokens_min: np.ndarray
    tokens_max: np.ndarray
    sequences_min: np.ndarray
    sequences_max: np.ndarray

    @classmethod
    def of_leaps(cls, leaps: LeapLog, instances: int) -> StepExtremes:
        """The extremes of `instances` instances by the leap log of their run."""
        later = leaps.steps > 1  # steps after the first of a leap hold one token of each of their requests
        instance = np.concatenate([leaps.instance, leaps.instance[later]])
        tokens = np.concatenate([leaps.prompt_tokens + leaps.decodes, leaps.outputs[later]])
        sequences = np.concatenate([leaps.running, leaps.outputs[later]])
        return cls(*_extremes(instance, tokens, instances), *_extremes(instance, sequences, instances))


class Extent(NamedTuple):
    """Least and most of a run: scheduled tokens of a step, requests of a step, and tokens of a request (prompt and output)."""

    tokens: Bounds
    sequences: Bounds
    context: Bounds


def step_extremes(result: Result) -> StepExtremes:
    """The smallest and largest steps of each instance of a run, from its leap log, or from what it recorded in place of one."""
    if result.leaps is not None:
        return StepExtremes.of_leaps(result.leaps, len(result.instances.num_blocks))
    return recorded_extremes(result)


def recorded_extremes(result: Result) -> StepExtremes:
    """The extremes that a run without a leap log (a point of a sweep) recorded in its results per instance; zeros where it has none."""
    return StepExtremes(*(getattr(result.instances, f"step_{name}").astype(np.int64) for name in StepExtremes._fields))


def extent(result: Result, indices: Iterable[int]) -> Extent | None:
    """The extent of a run on the instances `indices`; None if they took no step, or it is not known.

    Args:
        result: the run.
        indices: places of the instances in the cluster.
    """
    chosen, steps = np.array(list(indices), int), step_extremes(result)
    stepped = chosen[steps.tokens_max[chosen] > 0]
    requests = result.requests
    started, prompts = requests.scheduled_s != NEVER, requests.prompt_tokens.astype(np.int64)
    mine = np.isin(requests.instance, stepped) & started
    first = np.isin(first_legs(result).instance, stepped) & started & ~mine  # they leave with their first token
    context = np.concatenate([(prompts + requests.output_tokens)[mine], prompts[first] + 1])
    if not len(context):
        return None
    return Extent(
        tokens=(int(steps.tokens_min[stepped].min()), int(steps.tokens_max[stepped].max())),
        sequences=(int(steps.sequences_min[stepped].min()), int(steps.sequences_max[stepped].max())),
        context=(int(context.min()), int(context.max())),
    )


def reach(instances: Sequence[InstanceSpec], result: Result, indices: Iterable[int] | None = None) -> Seen | None:
    """The ranges that a calibration to a run would have seen; None if no instance took a step, or it is not known.

    Args:
        instances: the instances of the cluster.
        result: the run.
        indices: places of the instances to look at; None for all.
    """
    chosen = list(range(len(instances)) if indices is None else indices)
    found = extent(result, chosen)
    if found is None:
        return None
    return Seen(
        **found._asdict(),
        models=tuple(dict.fromkeys(instances[index].model.name for index in chosen)),
        tensor_parallel_sizes=tuple(sorted({instances[index].parallelism.tensor for index in chosen})),
    )


def _extremes(instance: np.ndarray, values: np.ndarray, instances: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and most of the `values` (int[K]) of each instance, int64[N]; 0 where there is none."""
    most = np.zeros(instances, np.int64)
    np.maximum.at(most, instance, values)
    least = most.copy()
    np.minimum.at(least, instance, values)
    return least, most
