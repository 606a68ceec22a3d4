"""Compile a measured profile bundle for one deployment into a `StepTime`: kernel times of one layer become seconds of all layers."""

from dataclasses import replace

import numpy as np

from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.latency.attention.coefficients import AttentionCoefficients, scaled
from simjax.latency.attention.fit import fit_attention, fit_decode_skew
from simjax.latency.attention.grid import attention_table
from simjax.latency.attention.table import AttentionTable
from simjax.latency.experts.load import ExpertLoad, load_of
from simjax.latency.groups.union import UnionTerms, exchange_terms, knots, nothing
from simjax.latency.profiles.profile import HostOverheads
from simjax.latency.step_time import StepTime
from simjax.latency.tables.bundle import Bundle, op_sequence
from simjax.latency.tables.curves import at_sizes, distinct_experts, moe_s
from simjax.latency.terms import StepTerms, assemble, layer_collectives_s
from simjax.placement.weights import EMBEDDING, NORM


def compile_tables(
    bundle: Bundle,
    deployment: Deployment,
    max_tokens: int,
    max_sequences: int,
    host: HostOverheads | None = None,
    measured_attention: bool = True,
) -> StepTime:
    """The `StepTime` (C = 1) of one deployment, or of one of its pp stages, whose kernels are those of `bundle`.

    Call it inside `jax.enable_x64(True)`.

    Args:
        bundle: kernel times at the deployment's tensor-parallel degree.
        deployment: model, device and link between the ranks.
        max_tokens: most tokens of a step (`max_num_batched_tokens`).
        max_sequences: most sequences of a step (`max_num_seqs`).
        host: time outside the kernels, of which bundles know nothing; none by default.
        measured_attention: keep the measured attention table; False times attention by the coefficients fitted to it.

    Raises:
        SimjaxError: the bundle is for another degree, lacks an operator, or has experts where the model has none; or the deployment's
            parallelism is not simulated.
    """
    deployment.parallelism.require_simulated()
    model, degree = deployment.model, deployment.parallelism.tensor
    ops = op_sequence(bundle)
    if bundle.tensor_parallel_size != degree:
        measured = f"measured at tensor_parallel_size={bundle.tensor_parallel_size}"
        raise SimjaxError(f"{bundle.path}: {measured}, asked for tensor_parallel_size={degree}; use the bundle's folder of that degree")
    if bundle.moe is not None and not 0 < model.num_experts_per_tok <= model.num_experts:
        raise SimjaxError(f"{bundle.path}: a mixture-of-experts profile needs the model's number of experts and experts per token")
    tokens, sequences = np.arange(1, max_tokens + 1), np.arange(1, max_sequences + 1)
    own = [op for op in ops.layer if op != "attention" and not (op == "moe" and deployment.exchanges)]
    load = load_of(deployment, tokens)
    attention, table = _attention(bundle, deployment.part.num_hidden_layers)
    ends = (ops.prologue if deployment.has_embedding else ()) + (ops.head if deployment.has_head else ())
    of_sequences = ops.per_sequence if deployment.has_head else ()
    terms = StepTerms(
        dense_s=sum(at_sizes(bundle.dense[op], tokens) for op in ends) + np.zeros(max_tokens),
        layer_s=sum(_layer_op_s(bundle, op, deployment, tokens, load) for op in own),
        collectives_s=layer_collectives_s(deployment, max_tokens),
        sequences_s=sum(at_sizes(bundle.per_sequence[op], sequences) for op in of_sequences) + np.zeros(max_sequences),
        attention=attention,
        host=host or HostOverheads(),
        table=table if measured_attention else None,
        until_kv_s=sum(at_sizes(bundle.dense[op], tokens) for op in (*ops.prologue, *ops.layer[: ops.layer.index("qkv_proj") + 1])),
        union=_union(bundle, deployment, max_tokens),
        ends_s=_ends_s(bundle, ends, tokens),
    )
    return assemble(terms, deployment)


def _ends_s(bundle: Bundle, ends: tuple[str, ...], tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the embedding and of the last norm, f64[N]; 0 of those that are not among the operations outside the layers."""
    nothing_s = np.zeros(len(tokens))
    first, last = (at_sizes(bundle.dense[op], tokens) if op in ends else nothing_s for op in (EMBEDDING, NORM))
    return first, last


def _layer_op_s(bundle: Bundle, op: str, deployment: Deployment, tokens: np.ndarray, load: ExpertLoad | None) -> np.ndarray:
    """Seconds of one operator of a layer, f64[N].

    Experts were measured without parallelism. Under tensor parallelism ranks share every expert's columns evenly, and reading weights or
    multiplying them shrinks alike. Under expert parallelism the fullest rank takes as long as it takes one rank to do its pairs, as many
    for each token as there were, on its distinct experts.
    """
    if op != "moe" or bundle.moe is None:
        return at_sizes(bundle.dense[op], tokens)
    model, parallelism = deployment.model, deployment.parallelism
    shared_by = parallelism.tensor * parallelism.data if parallelism.expert == 1 else 1
    if load is None:
        activated, at_once = distinct_experts(tokens, model.num_experts, model.num_experts_per_tok), tokens.astype(float)
    else:
        activated, at_once = load.distinct, load.pairs / model.num_experts_per_tok
    return moe_s(bundle.moe, at_once, activated) / shared_by


def _union(bundle: Bundle, deployment: Deployment, max_tokens: int) -> UnionTerms | None:
    """The experts and the exchanges of a deployment whose ranks exchange tokens; None where they do nothing together."""
    if not deployment.exchanges:
        return nothing(deployment, max_tokens) if deployment.grouped else None
    tokens = knots(deployment.parallelism.data, max_tokens)
    experts_s = deployment.part.num_moe_layers * _layer_op_s(bundle, "moe", deployment, tokens, load_of(deployment, tokens))
    return UnionTerms(experts_s, *exchange_terms(deployment, max_tokens))


def _attention(bundle: Bundle, layers: int) -> tuple[AttentionCoefficients, AttentionTable]:
    """Coefficients and table of all layers; the skew of decode-only steps is fitted wherever skewed batches were measured.

    `skew_profile.enabled` of meta.yaml says only whether LLMServingSim uses its buckets: the RTX 4090's skewed decodes are 5 % slower than
    equal ones whether or not that switch is on, and one coefficient removes the bias.
    """
    a, _ = fit_attention(bundle.attention)
    if bundle.skew is not None:
        alone = bundle.skew.chunk == 0
        a = replace(a, decode_skew=fit_decode_skew(bundle.skew.mean_s[alone], bundle.skew.longest_s[alone], bundle.skew.skewed_s[alone]))
    a = scaled(a, layers)
    return a, attention_table(bundle.attention._replace(seconds=bundle.attention.seconds * layers), a)
