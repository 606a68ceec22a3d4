"""The few physical parameters by which a profile is calibrated, whatever coefficients it holds: their names, meanings and priors.

A factor multiplies an efficiency of every operation it belongs to, so that it carries over to all models on the device; its value in any
profile is 1 by definition. Other parameters are numbers that the profile holds itself. Fits and posteriors live in transformed values,
where a prior is a normal distribution: the logarithm of a positive number, the logit of a share.

In addition to the physical ones there are corrections of a step's time by its number of tokens, `step_8` to `step_2048`, for effects
that no efficiency explains. With a model in brackets, `step_8[meta-llama/Llama-3.1-8B]`, a correction holds for the model's own ranks in
the profile only. Times of the host belong to the backend that runs on it, and simjax simulates vLLM; with another backend in brackets,
`step_s[trtllm]`, they are that backend's, so that its measurements constrain the device and leave vLLM's host times alone.

`simjax.latency.parameters` applies parameters to a profile; this module needs no JAX.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from simjax.errors import SimjaxError, closest

CORRECTION_TOKENS = (8, 32, 128, 512, 2048)
"""Scheduled tokens at which `RankCoefficients.correction` has its factors."""

TABLES = "spread of the fraction of the data sheet that kernels reach, over the devices and tables that profiles were fitted to"
HOST = "range of host times that public fits of vLLM found on H100 (10 to 50 us a layer with the kernels' own floors, 0 to 130 us a step)"
SWITCH = (
    "all-reduces of vLLM, SGLang and TensorRT-LLM in the tables of aiconfigurator-core 0.12.0: 3 to 5 us of latency within CUDA graphs; "
    "ranks that wait for each other add to it"
)
LAUNCHES = (
    "one all-reduce of 256 bytes launched from Python takes 19 to 33 us on H100 and 2 to 5 us within a CUDA graph, whatever the backend "
    "(tables of aiconfigurator-core 0.12.0)"
)
FP8 = "fp8 matrix products of vLLM, SGLang and TensorRT-LLM reach between 0.8 and 1.25 times the generic profile (same tables)"
SERVER = "idle vLLM servers answer 8 to 20 ms after the prefill step"
COMPILED = (
    "spread between kernels timed one by one and compiled, captured models: steps are late by jumps of up to 16 % with the batch, 2 to 6 "
    "% in the mean of a kind of step (experiments/validation/README.md, what explains the errors, 4)"
)
EXCHANGES = (
    "DeepEP's published times on 8 to 256 ranks of H800 are met within 9 % (low latency) and 18 % (high throughput) by the constants of "
    "simjax.network.all_to_all; no other kernels, fabrics or loads were compared"
)
POPULARITY = "no measurement: half to twice the unevenness that the cluster states, for texts differ in what their tokens choose"
ACCEPTANCE = (
    "published runs of MTP, by model and text: second tokens accepted at 0.76 to 0.90, 3.2 to 4.8 tokens a step of 7 drafts; runs of "
    "accepted drafts half to twice as long as on gsm8k"
)
STEP_CORRECTIONS = tuple(f"step_{tokens}" for tokens in CORRECTION_TOKENS)
"""Names of the corrections of steps by their number of tokens; a fit leaves them alone unless they are freed."""

BACKEND_TIMES = ("step_s", "sequence_s", "launch_s")
"""Parameters that backends other than vLLM have for themselves."""
DRAWN = ("draft_acceptance",)
"""Parameters of draws: with the schedule held they move nothing, so only differences between simulations tell their effect."""
VLLM = "vllm"
"""The backend that simjax simulates."""
OTHER_BACKENDS = ("trtllm", "sglang")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a profile.

    Attributes:
        name: name in configurations and reports.
        unit: "factor", "s" or "share".
        prior: median of the prior.
        prior_sd: standard deviation of the prior of the transformed value.
        source: where the prior comes from.
        text: description in a few words.
    """

    name: str
    unit: str
    prior: float
    prior_sd: float
    source: str
    text: str

    def transform(self, value: Any, xp: ModuleType = np) -> Any:
        """The unbounded number that stands for a value."""
        return xp.log(value) - xp.log1p(-value) if self.unit == "share" else xp.log(value)

    def value(self, transformed: Any, xp: ModuleType = np) -> Any:
        """The inverse of `transform`."""
        return 1.0 / (1.0 + xp.exp(-transformed)) if self.unit == "share" else xp.exp(transformed)


PARAMETERS: dict[str, Parameter] = {
    p.name: p
    for p in (
        Parameter("gemm_bandwidth", "factor", 1.0, 0.04, TABLES, "memory bandwidth that matrix products reach"),
        Parameter("gemm_compute", "factor", 1.0, 0.04, TABLES, "FLOP/s that large matrix products reach"),
        Parameter("fp8_compute", "factor", 1.0, 0.15, FP8, "FLOP/s that fp8 matrix products reach, in addition to gemm_compute"),
        Parameter("gemm_tile", "factor", 1.0, 0.15, TABLES, "size of the tiles at which a matrix product reaches half of them"),
        Parameter("elementwise_bandwidth", "factor", 1.0, 0.15, TABLES, "memory bandwidth of norms, activations, rotary embedding"),
        Parameter("kernel_floor", "factor", 1.0, 0.15, TABLES, "least time of a kernel"),
        Parameter("decode_attention", "factor", 1.0, 0.08, TABLES, "speed at which decodes read keys and values"),
        Parameter("prefill_attention", "factor", 1.0, 0.15, TABLES, "speed of attention in steps with a prompt"),
        Parameter("decode_skew", "share", 0.03, 1.0, TABLES, "way from the mean to the longest context at which unequal decodes behave"),
        Parameter("collective_bandwidth", "factor", 1.0, 0.20, TABLES, "bandwidth that all-reduces reach"),
        Parameter("collective_latency", "factor", 1.0, 0.50, SWITCH, "latency of an all-reduce"),
        Parameter("exchange_bandwidth", "factor", 1.0, 0.20, EXCHANGES, "bandwidth at which ranks exchange the tokens of their experts"),
        Parameter("exchange_latency", "factor", 1.0, 0.40, EXCHANGES, "time of such an exchange whatever its size"),
        Parameter("expert_skew", "factor", 1.0, 0.5, POPULARITY, "unevenness of experts: the power of the stated popularity"),
        Parameter(
            "draft_acceptance", "factor", 1.0, 0.50, ACCEPTANCE, "length of runs of accepted drafts: rates to the power of its inverse"
        ),
        Parameter("launch_s", "s", 21e-6, 0.4, LAUNCHES, "host time to launch a kernel, where no CUDA graph does"),
        Parameter("step_s", "s", 50e-6, 1.5, HOST, "host time of a step that the device waits for"),
        Parameter("layer_s", "s", 1e-6, 1.5, HOST, "gap between kernels, a layer"),
        Parameter("sequence_s", "s", 3e-6, 1.5, HOST, "host time of a sequence in a step"),
        Parameter("overlap", "share", 0.5, 1.5, "no evidence either way", "share of the host's time that asynchronous scheduling hides"),
        Parameter("api_pre_s", "s", 4e-3, 0.7, SERVER, "from the client's request to the instance's queue"),
        Parameter("api_post_s", "s", 2e-3, 0.7, SERVER, "from the end of a step to the client's token"),
        *(
            Parameter(name, "factor", 1.0, 0.05, COMPILED, f"time of the token-wise work of a step of {tokens} tokens")
            for name, tokens in zip(STEP_CORRECTIONS, CORRECTION_TOKENS, strict=True)
        ),
    )
}


def parameter(name: str) -> Parameter:
    """The parameter of that name, which may be a step correction of one model or a time of a backend other than vLLM.

    Raises:
        SimjaxError: there is none.
    """
    plain, model = split_name(name)
    if plain not in PARAMETERS:
        raise SimjaxError(f"there is no parameter '{plain}'; {closest(plain, list(PARAMETERS))}")
    if model is None:
        return PARAMETERS[plain]
    if plain in BACKEND_TIMES and model not in OTHER_BACKENDS:
        raise SimjaxError(f"{name}: in brackets stands a backend other than vLLM, one of {', '.join(OTHER_BACKENDS)}")
    if plain not in BACKEND_TIMES and plain not in STEP_CORRECTIONS:
        raise SimjaxError(
            f"{name}: {plain} is shared by all models; only {STEP_CORRECTIONS[0]} to {STEP_CORRECTIONS[-1]} can be a model's own"
        )
    return replace(PARAMETERS[plain], name=name)


def check_value(name: str, value: float) -> None:
    """Refuse a value that a parameter cannot have.

    Raises:
        SimjaxError: there is no such parameter, or the value is not positive or, of a share, not below 1.
    """
    share = parameter(name).unit == "share"
    if not 0 < value < (1 if share else math.inf):
        raise SimjaxError(f"{name}={value}: it must {'lie in (0, 1)' if share else 'be positive'}")


def split_name(name: str) -> tuple[str, str | None]:
    """A name without the model or backend in brackets, and the text in the brackets."""
    match = re.fullmatch(r"([^\[\]]+)\[([^\[\]]+)\]", name)
    return (name, None) if match is None else (match[1], match[2])
