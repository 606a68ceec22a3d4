"""Work of steps with drafts."""

from __future__ import annotations

from dataclasses import fields

import pytest

from simjax.cluster.configured.cluster import configured_cluster
from simjax.config.compose import compose_config, typed
from simjax.deployment import Deployment
from simjax.power.work import step_work, work_with_drafts

LARGE = "model=llama-3.1-70b"
RATES = "speculation.synthetic_acceptance_rates=[{}]"


def deployed(*words: str) -> Deployment:
    return configured_cluster(typed(compose_config("run", ["device=h100", *words]))).instances[0].deployment


def test_without_drafts_it_is_the_models_own():
    assert work_with_drafts(deployed(LARGE)) == step_work(deployed(LARGE))


def test_n_grams_cost_rows_at_the_head_and_nothing_else():
    deployment = deployed(LARGE, "speculation=ngram", "speculation.num_speculative_tokens=3", RATES.format("0.7,0.5,0.3"))
    plain, work = step_work(deployment), work_with_drafts(deployment)
    changed = {x.name for x in fields(work) if getattr(work, x.name) != getattr(plain, x.name)}
    assert changed == {"sequence_s", "sequence_compute_s"} and work.sequence_s == 4 * plain.sequence_s


def test_a_draft_model_is_read_once_for_each_draft():
    words = (
        LARGE,
        "cluster.tensor_parallel_size=4",
        "speculation=eagle",
        "speculation.method=draft_model",
        "speculation.model=llama-3.1-8b",
    )
    drafter = step_work(deployed("model=llama-3.1-8b", "cluster.tensor_parallel_size=4"))
    for k in (1, 4):
        rates = RATES.format(",".join(["0.5"] * k))
        deployment = deployed(*words, f"speculation.num_speculative_tokens={k}", rates)
        plain, work = step_work(deployment), work_with_drafts(deployment)
        assert work.weights_s == pytest.approx(plain.weights_s + k * drafter.weights_s)
        assert work.kv_s == pytest.approx(plain.kv_s + k * drafter.kv_s)
        assert work.token_compute_s == pytest.approx(plain.token_compute_s + drafter.token_compute_s)
        later = (k - 1) * drafter.token_compute_s + k * drafter.sequence_compute_s
        assert work.sequence_compute_s == pytest.approx((1 + k) * plain.sequence_compute_s + later)
