"""What a calibration to measured runs leaves in a profile: how sure it is of its parameters, and what it has seen."""

from __future__ import annotations

from dataclasses import dataclass

Bounds = tuple[int, int]


@dataclass(frozen=True)
class Seen:
    """The domain of a calibration: least and most of what its runs held, and what ran.

    Attributes:
        tokens, sequences: scheduled in a step.
        context: tokens of a request, prompt and output.
        models: Hugging Face ids.
        tensor_parallel_sizes: degrees.
    """

    tokens: Bounds
    sequences: Bounds
    context: Bounds
    models: tuple[str, ...]
    tensor_parallel_sizes: tuple[int, ...]


@dataclass(frozen=True)
class Calibration:
    """The posterior of a profile's parameters around the values that the profile has.

    Attributes:
        parameters: names of `simjax.latency.parameters.PARAMETERS`.
        covariance: of the transformed parameters (see `Parameter.transform`), in the same order.
        discrepancy: standard deviation of the logarithm of a step's time that no value of the parameters explains.
        seen: the domain of validity.
    """

    parameters: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    discrepancy: float
    seen: Seen
