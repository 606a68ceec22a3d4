"""How far a run goes beyond what the calibration of its profile has seen: told by name, and how much less sure its step times are there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.warnings import beyond_context
from simjax.engine.host.result import NEVER
from simjax.job import Run
from simjax.latency.priors import CORRECTION_TOKENS
from simjax.latency.profile import Bounds, LatencyProfile, Seen
from simjax.latency.warnings import range_warnings
from simjax.model import ModelSpec, same_architecture

# Standard deviations of the logarithm of step times. What a profile of measured kernels was late by on three vLLM runs changes by 4.1 % rms
# from one octave of the batch to the next, 7.0 % over three octaves, 11 % over five (experiments/validation/results/batches.tsv).
OCTAVE_SD = 0.05  # for each octave of tokens, sequences or context beyond those seen
# Efficiencies are off by 3.3 to 4.5 % on a model that took no part in their fit, by 2.4 to 3.6 % on those that did (`latency.efficiency`).
STRANGER_SD = 0.03  # for a model, or shards of one, that took no part
PRIOR_SD = 0.05  # of a profile that was never held against a run: the prior of the step corrections


@dataclass(frozen=True)
class Engines:
    """Engines of a cluster that run one model at one degree and take their costs from one profile.

    Attributes:
        profile: with the parameters of the run's `LatencySource`.
        model, tensor_parallel_size: what they run.
        places: their numbers in the cluster.
    """

    profile: LatencyProfile
    model: ModelSpec
    tensor_parallel_size: int
    places: tuple[int, ...]


@dataclass(frozen=True)
class Widths:
    """How far steps may be off for reasons that no value of the parameters explains; standard deviations of the logarithm of times.

    Attributes:
        steps: of the token-wise work of a step, at `CORRECTION_TOKENS`.
        decode, prefill: of attention.
        collectives: whether all-reduces are as unsure as their priors, because no such degree was seen.
    """

    steps: tuple[float, ...]
    decode: float
    prefill: float
    collectives: bool = False


def engines_of(cluster: ClusterSpec, source: LatencySource) -> tuple[Engines, ...]:
    """The engines of a cluster by profile, model and degree, in the order of their first.

    Raises:
        SimjaxError: a profile is missing or malformed.
    """
    found: list[Engines] = []
    for place, instance in enumerate(cluster.instances):
        degree = instance.parallelism.tensor
        profile = source.profile_of(instance.deployment)
        for number, known in enumerate(found):
            if same_profile(known.profile, profile) and known.tensor_parallel_size == degree and known.model == instance.model:
                found[number] = replace(known, places=(*known.places, place))
                break
        else:
            found.append(Engines(profile, instance.model, degree, (place,)))
    return tuple(found)


def same_profile(a: LatencyProfile, b: LatencyProfile) -> bool:
    """Whether two profiles of one `LatencySource` are the same."""
    return (a.source, a.device) == (b.source, b.device)


def reach(run: Run, places: Iterable[int] | None = None) -> Seen | None:
    """What a run held, as a calibration would have seen it; None if nothing ran.

    Args:
        run: with a leap log, as `simjax.simulate_cluster` makes it.
        places: numbers of the engines to look at; None for all.
    """
    instances, leaps, requests = run.cluster.instances, run.result.leaps, run.result.requests
    if leaps is None:
        raise ValueError("what a run held is read from its leap log")
    chosen = list(range(len(instances)) if places is None else places)
    mine = np.isin(leaps.instance, chosen)
    if not mine.any():
        return None
    later = mine & (leaps.steps > 1)  # steps after the first of a leap hold a token of each sequence
    tokens = np.concatenate([(leaps.prompt_tokens + leaps.decodes)[mine], leaps.outputs[later]])
    sequences = np.concatenate([leaps.running[mine], leaps.outputs[later]])
    served = np.isin(requests.instance, chosen) & (requests.scheduled_s != NEVER)
    context = (requests.prompt_tokens.astype(np.int64) + requests.output_tokens)[served]
    return Seen(
        tokens=_bounds(tokens),
        sequences=_bounds(sequences),
        context=_bounds(context),
        models=tuple(dict.fromkeys(instances[place].model.name for place in chosen)),
        tensor_parallel_sizes=tuple(sorted({instances[place].parallelism.tensor for place in chosen})),
    )


def _bounds(values: np.ndarray) -> Bounds:
    return int(values.min()), int(values.max())


def widths(engines: Engines, reached: Seen | None) -> Widths:
    """How far the steps of some engines may be off.

    Independent causes add up as variances: the profile's discrepancy, a model or degree that it has not seen, and octaves of tokens,
    sequences and context beyond what it has. Tokens and sequences widen the corrections of steps of that size only, context and sequences
    the decodes' attention, context and tokens that of prompts. Contexts shorter than those seen take next to no time and widen nothing.

    Args:
        engines: which.
        reached: what they held; None for nothing outside.
    """
    calibration, degree = engines.profile.calibration, engines.tensor_parallel_size
    if calibration is None:
        return Widths((PRIOR_SD,) * len(CORRECTION_TOKENS), PRIOR_SD, PRIOR_SD, collectives=degree > 1)
    seen = calibration.seen
    known = degree in seen.tensor_parallel_sizes
    strange = not known or not any(same_architecture(name, engines.model) for name in seen.models)
    base = (calibration.discrepancy, STRANGER_SD if strange else 0.0)
    if reached is None:
        return Widths((math.hypot(*base),) * len(CORRECTION_TOKENS), math.hypot(*base), math.hypot(*base), degree > 1 and not known)
    more = {name: OCTAVE_SD * _octaves(getattr(reached, name)[1], getattr(seen, name)) for name in ("tokens", "sequences", "context")}
    steps = []
    for number, size in enumerate(CORRECTION_TOKENS):
        # The first and the last correction hold for all smaller and larger steps. A decode-only step has as many tokens as sequences.
        asked = (1 if number == 0 else size), (math.inf if number == len(CORRECTION_TOKENS) - 1 else size)
        beyond = (_furthest(asked, reached.tokens, seen.tokens), _furthest(asked, reached.sequences, seen.sequences))
        steps.append(math.hypot(*base, *(OCTAVE_SD * octaves for octaves in beyond)))
    return Widths(
        steps=tuple(steps),
        decode=math.hypot(*base, more["sequences"], more["context"]),
        prefill=math.hypot(*base, more["tokens"], more["context"]),
        collectives=degree > 1 and not known,
    )


def _furthest(asked: tuple[float, float], reached: Bounds, seen: Bounds) -> float:
    """Most octaves outside of what was seen, of the sizes that were asked for as far as the run has them."""
    return max(_octaves(min(max(size, reached[0]), reached[1]), seen) for size in asked)


def _octaves(size: float, seen: Bounds) -> float:
    """Octaves by which a size lies outside of what was seen."""
    return max(math.log2(size / seen[1]), math.log2(seen[0] / size), 0.0)


def with_domain_warnings(run: Run, source: LatencySource) -> Run:
    """The run with a line for each range of a calibration that it left: tokens and sequences of a step, and context of a request.

    The lines take the place of those that said so of the limits, before it was known how far the run would go. (Models and degrees that
    took no part are told before a run: `simjax.latency.warnings.profile_warnings`.)
    """
    if source.bundle_root is not None:
        return run
    lines: list[str] = []
    said: set[str] = set()
    engines = [x for x in engines_of(run.cluster, source) if x.profile.calibration is not None]
    for first in engines:
        together = [x for x in engines if same_profile(x.profile, first.profile)]
        if together[0] is not first:
            continue
        places = [place for x in together for place in x.places]
        new, old = _left(run, first.profile, places)
        lines += new
        said |= old
    return replace(run, warnings=(*(line for line in run.warnings if line not in said), *lines))


def _left(run: Run, profile: LatencyProfile, places: Sequence[int]) -> tuple[list[str], set[str]]:
    """The lines for the engines of a profile, and the lines that they replace."""
    reached = reach(run, places)
    if reached is None or profile.calibration is None:
        return [], set()
    seen, lines, said = profile.calibration.seen, [], set[str]()
    limits = [run.cluster.instances[place].limits for place in places]
    of_limits = [range_warnings(profile.source, profile.valid, x.max_num_batched_tokens, x.max_num_seqs) for x in limits]
    of_context = beyond_context([(profile.source, profile.valid.context[1])], run.workload.longest_tokens)
    named = {
        "tokens": ("steps of {} tokens", [line for lines in of_limits for line in lines if "max_num_batched_tokens" in line]),
        "sequences": ("{} sequences a step", [line for lines in of_limits for line in lines if "max_num_seqs" in line]),
        "context": ("requests of {} tokens", of_context),
    }
    for axis, (words, replaced) in named.items():
        known, held = getattr(seen, axis), getattr(reached, axis)
        went = [f"to {held[1]:,}"] if held[1] > known[1] else []
        if held[0] < known[0] and axis != "context":
            went.insert(0, f"down to {held[0]:,}")
        if went:
            calibrated = words.format(f"{known[0]:,} to {known[1]:,}")
            lines.append(f"{profile.source}: calibrated on {calibrated}, this run went {' and '.join(went)}; intervals are widened")
            said.update(replaced)
    return lines, said
