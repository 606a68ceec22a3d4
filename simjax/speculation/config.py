"""The `speculation` group of the configuration: speculative decoding, under the names of vLLM's `speculative_config`.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

from dataclasses import dataclass

from simjax.options.condition import is_set, one_of
from simjax.options.option import option
from simjax.speculation.methods import DRAFT_MODEL, MOST_DRAFTS

_ON = is_set("method")


@dataclass
class SpeculationConfig:
    """Speculative decoding of all instances.

    A decode verifies `num_speculative_tokens` drafts in a step and gets those that are accepted, from the left, and one token more.
    """

    method: str | None = option(None, "rule that makes drafts: ngram, eagle, mtp or draft_model; unset: no drafts", "NAME")
    num_speculative_tokens: int = option(1, "drafts of a request in a step", bounds=(1, MOST_DRAFTS), only=(_ON,))
    synthetic_acceptance_rates: list[float] = option(
        [],
        "probability, for each draft, that it and all before it are accepted; []: for mtp those measured on gsm8k, other methods need them",
        only=(_ON,),
    )
    model: str | None = option(
        None, "draft model, as model of the run", "NAME", only=(one_of("method", DRAFT_MODEL, words="method=draft_model"),)
    )
    seed: int = option(0, "seed of the draws of accepted drafts", only=(_ON,))


@dataclass
class MeasuredSpeculationConfig:
    """`speculation` of `simjax validate` and `simjax calibrate`: how the drafts of runs that record a `speculative_config` are accepted."""

    synthetic_acceptance_rates: list[float] = option(
        [],
        "probability, for each draft, that it and all before it are accepted; []: as recorded, for mtp those measured on gsm8k; without "
        "any, drafts are not simulated",
    )
    seed: int = option(0, "seed of the draws of accepted drafts")
