"""How much less sure the step times of a run are where it goes beyond what the calibration of its profile has seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from simjax.latency.priors import CORRECTION_TOKENS
from simjax.latency.profiles.profile import Bounds, Seen
from simjax.model import same_architecture
from simjax.validity.groups import InstanceGroup

# Standard deviations of the logarithm of step times. What a profile of measured kernels was late by on three vLLM runs changes by 4.1 % rms
# from one octave of the batch to the next, 7.0 % over three octaves, 11 % over five (experiments/validation/results/batches.tsv).
OCTAVE_SD = 0.05  # for each octave of tokens, sequences or context beyond those seen
# Efficiencies are off by 3.3 to 4.5 % on a model that took no part in their fit, by 2.4 to 3.6 % on those that did (`latency.efficiency`).
STRANGER_SD = 0.03  # for a model, or shards of one, that took no part in the calibration
PRIOR_SD = 0.05  # for a profile that was never compared with a run: the prior of the step corrections


@dataclass(frozen=True)
class Widths:
    """Standard deviations of the logarithms of step times, for errors that no value of the parameters explains.

    Attributes:
        steps: widths of the token-wise work of a step, at `CORRECTION_TOKENS`.
        decode, prefill: widths of the attention of decodes and of prompts.
        collectives: whether all-reduces are as uncertain as their priors, because no such degree was seen.
    """

    steps: tuple[float, ...]
    decode: float
    prefill: float
    collectives: bool = False


def widths(group: InstanceGroup, reached: Seen | None) -> Widths:
    """The widths of a group of instances.

    Independent causes add up as variances: the profile's discrepancy, a model or degree that it has not seen, and octaves of tokens,
    sequences and context beyond what it has. Tokens and sequences widen the corrections of steps of that size only, context and sequences
    the decodes' attention, context and tokens that of prompts. Contexts shorter than those seen take next to no time and widen nothing.

    Args:
        group: the instances.
        reached: the ranges that they reached; None where these are all within those that were seen.
    """
    calibration, degree = group.profile.calibration, group.tensor_parallel_size
    if calibration is None:
        return Widths((PRIOR_SD,) * len(CORRECTION_TOKENS), PRIOR_SD, PRIOR_SD, collectives=degree > 1)
    seen = calibration.seen
    known = degree in seen.tensor_parallel_sizes
    strange = not known or not any(same_architecture(name, group.model) for name in seen.models)
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
    """Most octaves beyond what was seen, over the sizes asked for, as far as the run has them."""
    return max(_octaves(min(max(size, reached[0]), reached[1]), seen) for size in asked)


def _octaves(size: float, seen: Bounds) -> float:
    """Octaves by which a size lies outside of what was seen."""
    return max(math.log2(size / seen[1]), math.log2(seen[0] / size), 0.0)
