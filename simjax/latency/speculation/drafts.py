"""Seconds that drafts take in a step, and the rows that verify them.

K drafts are made after the model's own pass, one after the other. The first pass of the drafter sees all tokens of the step, as the model
did, so that it has their keys; each later one the last draft of every sequence. Every pass ends with the head on a row of each sequence.
The verification itself is in the model's pass: a decode has 1 + K rows there and at the head. A step of prompts has no drafts to verify,
and counts these rows nevertheless. A draft model's products take as long, for their bytes and FLOPs, as the profile says of the model's
own. N-grams cost no device time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from simjax.deployment import Deployment
from simjax.latency.attention.coefficients import DIMENSIONLESS, AttentionCoefficients
from simjax.latency.terms import StepTerms, layer_collectives_s
from simjax.model.ops import EMBEDDING, step_ops

Timed = Callable[..., Any]
"""Function (operations, rows=...) of their seconds."""


def rows_of_head(deployment: Deployment, max_sequences: int) -> np.ndarray:
    """Rows at the head in steps of 1 to `max_sequences` sequences: one each, and one for each of their drafts."""
    drafts = 0 if deployment.speculation is None else deployment.speculation.num_speculative_tokens
    return (1 + drafts) * np.arange(1, max_sequences + 1)


def drafting(deployment: Deployment) -> Deployment | None:
    """The drafter as it is deployed; None where drafts cost nothing. Of several pp stages the last one has it, whole."""
    drafts = deployment.speculation
    drafter = None if drafts is None or not deployment.has_head else drafts.drafter(deployment.model)
    if drafter is None:
        return None
    alone = replace(deployment.parallelism, pipeline=1, layer_partition=None)
    return replace(deployment, model=drafter, speculation=None, parallelism=alone, stage=None)


def with_drafts(
    terms: StepTerms, deployment: Deployment, timed: Timed, attention: Callable[[Deployment], AttentionCoefficients]
) -> StepTerms:
    """The terms of a step with the drafter's passes; as they are where there is none.

    Args:
        terms: of the model.
        deployment: of the model.
        timed: seconds of operations.
        attention: coefficients of the attention of all layers of a deployment.
    """
    drafter = drafting(deployment)
    if drafter is None:
        return terms
    assert deployment.speculation is not None
    passes, layers = deployment.speculation.num_speculative_tokens, drafter.model.num_hidden_layers
    tokens, sequences = len(terms.dense_s), len(terms.sequences_s)
    ops = step_ops(drafter.model, deployment.parallelism.tensor)
    layer = [op for op in ops if not op.per_sequence and (op.name not in EMBEDDING or drafter.model is deployment.speculation.model)]
    head = [op for op in ops if op.per_sequence]

    def pass_s(rows: int) -> Any:
        return timed(layer, rows=np.arange(1, rows + 1)) + layers * layer_collectives_s(drafter, rows)

    return replace(
        terms,
        dense_s=terms.dense_s + pass_s(tokens),
        sequences_s=terms.sequences_s + (passes - 1) * pass_s(sequences) + passes * timed(head, rows=np.arange(1, sequences + 1)),
        attention=_with_passes(terms.attention, attention(drafter), passes),
    )


def _with_passes(model: AttentionCoefficients, drafter: AttentionCoefficients, passes: int) -> AttentionCoefficients:
    """Attention of the model and of the drafter's passes: each of these reads the keys of a decode, and the first one those of chunks."""
    names = [x.name for x in fields(model) if x.name not in DIMENSIONLESS]
    of_decodes = lambda name: name.startswith(("decode_", "mixed_"))
    return replace(model, **{name: getattr(model, name) + (passes if of_decodes(name) else 1) * getattr(drafter, name) for name in names})
