"""Derivatives of a run: forward and reverse mode agree with each other and with finite differences that leave the schedule alone."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from simjax.deployment import Deployment
from simjax.disk.paths import PROFILES
from simjax.engine.differentiate import guarded, outcome, outcome_reverse, ticks_needed
from simjax.engine.programs import compile_count
from simjax.hardware import load_device
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.file import load_profile
from simjax.latency.profiles.profile import ANY_DEGREE
from simjax.model import load_model
from tests.engine.factors import (
    ATTENTION,
    NAMES,
    ONES,
    SECONDS,
    TICKS,
    Case,
    assert_same_schedule,
    cases,
    forward,
    moved,
    reverse,
    run_forward,
    run_reverse,
    times,
)
from tests.engine.scenario import MAX_SEQUENCES, MAX_TOKENS
from tests.quickly import quickly

CACHED = pytest.param(("shared prefixes", "sessions"), marks=pytest.mark.slow)  # the dearest program of all tests
STEP = 1e-6  # of finite differences, relative: moves times by microseconds, the schedule not at all


@pytest.mark.parametrize(
    "name", ["preempting", "synchronous", "one step at a time", "closed loop", "capped", "shared prefixes", "sessions"]
)
def test_forward_mode_equals_finite_differences(name: str):
    case = cases()[name]
    jacobian, _, o = run_forward(case)
    assert o.finished.sum() == 28 and o.preemptions.sum() > 0 and set(o.instance[:28]) == set(range(case.shape.ranks))
    assert np.isfinite(jacobian).all()
    for k, parameter in enumerate(NAMES):
        step = STEP * (np.arange(len(NAMES)) == k)
        (_, above, one), (_, below, other) = (run_forward(case, ONES + sign * step) for sign in (1.0, -1.0))
        assert_same_schedule(one, o)
        assert_same_schedule(other, o)
        np.testing.assert_allclose(jacobian[..., k], (above - below) / (2 * STEP), rtol=1e-6, atol=2e-8, err_msg=parameter)
    # Nothing above holds because all is zero.
    table, sessions = case.params.step_time.table is not None, case.params.requests.sessions
    pauses = (case.shape.clients > 0 and not case.shape.capped) or (sessions is not None and sessions.count.any())
    unused = {"think_s": not pauses, "table": not table, "router": True} | {
        x: table for x in ATTENTION if x.startswith("decode_") and x.endswith("_s")
    }
    felt = np.abs(jacobian).max(axis=(0, 1))
    assert [x for x, size in zip(NAMES, felt, strict=True) if size < 1e-5] == [x for x in NAMES if unused.get(x, False)]


@pytest.mark.parametrize("name", ["preempting", "closed loop", "closed loop, tied", "capped", "shared prefixes", "sessions"])
def test_all_that_takes_seconds_stretches_all_times(name: str):
    """Times are homogeneous in all seconds together: if those are stretched by a factor, the whole run is."""
    jacobian, at, o = run_forward(cases()[name])
    assert o.finished.sum() == 28 and np.isfinite(jacobian).all()
    np.testing.assert_allclose(jacobian[..., SECONDS].sum(axis=-1), at, rtol=1e-10)


@pytest.mark.parametrize("names", [("preempting", "synchronous"), ("closed loop", "closed loop, tied"), CACHED])
def test_reverse_mode_equals_forward_mode(names: tuple[str, ...]):
    rng = np.random.default_rng(0)
    for case in (cases()[name] for name in names):
        jacobian, at, o = run_forward(case)
        for weights in (np.ones(at.shape), rng.normal(size=at.shape)):
            gradient, same = run_reverse(case, weights)
            assert_same_schedule(same, o)
            np.testing.assert_allclose(gradient, np.einsum("trk,tr->k", jacobian, weights), rtol=1e-9, atol=1e-12)
    assert forward(case.shape)._cache_size() == reverse(case.shape)._cache_size() == 1  # switches, prices, arrivals and weights are values


def test_a_leap_has_the_derivative_of_its_steps():
    (leaping, _, leaps), (stepping, _, steps) = (run_forward(cases()[name]) for name in ("preempting", "one step at a time"))
    assert leaps.ticks < 0.8 * steps.ticks and leaps.steps == steps.steps
    np.testing.assert_allclose(leaping, stepping, rtol=1e-9, atol=1e-13)


def test_a_run_that_stalls_has_finite_derivatives_of_what_finished():
    """One request can never be served, so those behind it do not finish."""
    case = cases()["preempting"]
    prompt = case.params.requests.prompt_tokens.copy()
    prompt[0, 14] = 500
    stalled = case._replace(params=replace(case.params, requests=replace(case.params.requests, prompt_tokens=prompt)))
    jacobian, at, o = run_forward(stalled)
    gradient, same = run_reverse(stalled, np.ones(at.shape))
    assert_same_schedule(same, o)
    assert 5 < o.finished.sum() < 28 and np.isfinite(jacobian).all() and np.isfinite(gradient).all()
    for seconds in (o.arrival_s, o.first_token_s, o.finish_s):
        np.testing.assert_array_equal(np.isfinite(seconds), o.finished)
    np.testing.assert_allclose(gradient, jacobian.sum(axis=(0, 1)), rtol=1e-9, atol=1e-12)


def test_another_schedule_is_not_in_the_derivative():
    """The limits of the tangent: times are linear while the schedule is the same, and jump with it."""
    case, work = cases()["preempting"], NAMES.index("work")
    jacobian, at, o = run_forward(case)
    missed = {}
    for h in (1e-4, 0.02):
        _, later, other = run_forward(case, ONES + h * (np.arange(len(NAMES)) == work))
        missed[h] = np.abs(later - at - h * jacobian[..., work]).max()
        assert (other.steps == o.steps) == (h == 1e-4)
    assert missed[1e-4] < 1e-12 and missed[0.02] > 0.01


@pytest.mark.parametrize("name", ["closed loop", "sessions"])
def test_tangents_share_one_simulation(name: str):
    """Side by side they do not batch the state that decides: no integer of the loop has an axis of tangents, its end is one bool."""
    shape, params = cases()[name]
    with jax.enable_x64(True):
        jaxpr = forward(shape).trace(params, jnp.asarray(ONES)).jaxpr
    (loop,) = loops(jaxpr.jaxpr)
    carried = [v.aval for v in loop.outvars]
    batched = [x for x in carried if x.shape[:1] == (len(NAMES),)]
    assert 0 < len(batched) < len(carried) / 2
    assert all(x.dtype == jnp.float64 for x in batched)
    assert not [e for e in loop.params["cond_jaxpr"].jaxpr.eqns if e.primitive.name == "reduce_or"]


def loops(jaxpr) -> list:
    """The outermost while loops of a program."""
    found = []
    for e in jaxpr.eqns:
        if e.primitive.name == "while":
            found.append(e)
        elif e.primitive.name in ("jit", "pjit"):
            found += loops(e.params["jaxpr"].jaxpr)
    return found


def test_memory_of_reverse_mode_grows_with_the_root_of_the_ticks():
    """Numbers that scans keep from one pass for the other: twice as many for four times the ticks, however many requests there are."""
    shape, params = cases()["preempting"]

    def kept(ticks: int, requests: int) -> int:
        more = lambda x: np.pad(x, ((0, 0), (0, requests - x.shape[1])), mode="edge") if x.ndim == 2 else x

        def f(theta):
            longer = replace(params, requests=jax.tree.map(more, params.requests))
            return jnp.sum(times(outcome_reverse(replace(shape, requests=requests), ticks, moved(longer, theta))))

        with jax.enable_x64(True):
            return stacked(jax.make_jaxpr(jax.grad(f))(jnp.asarray(ONES)).jaxpr)

    # Requests cost nothing, as the table of outcomes is written, but not kept.
    assert 1.8 < kept(4_096, 512) / kept(1_024, 32) < 2.1


def stacked(jaxpr) -> int:
    """Numbers that all scans of a program give out step by step."""
    total = 0
    for e in jaxpr.eqns:
        if e.primitive.name == "scan":
            body = getattr(e.params["jaxpr"], "jaxpr", e.params["jaxpr"])
            pairs = zip(e.outvars, body.outvars, strict=True)
            total += sum(whole.aval.size for whole, part in pairs if whole.aval.ndim > part.aval.ndim)
        for inner in jax.tree.leaves(list(e.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                total += stacked(getattr(inner, "jaxpr", inner))
    return total


def test_enough_ticks():
    """Runs that differ a little need the same number, so that they share a program; a log makes no difference."""
    shape, params = cases()["preempting"]
    *_, o = run_forward(cases()["preempting"])
    before = compile_count()
    assert o.ticks * 1.25 < ticks_needed(shape, params) == ticks_needed(replace(shape, log_rows=7), params) == 256
    longer = replace(params, requests=replace(params.requests, arrival_s=params.requests.arrival_s * 100))
    longer = replace(longer, ranks=replace(longer.ranks, max_num_batched_tokens=np.array([1], np.int32)))
    *_, o = run_forward(Case(shape, longer))
    assert 256 < o.ticks * 1.25 < ticks_needed(shape, longer) == 512
    assert compile_count() <= before + 2  # start and ticks


def test_requests_that_never_arrive_have_no_tangent():
    """Infinity times a factor has an infinite derivative, which one `0 * inf` would spread."""
    params = cases()["closed loop"].params
    with jax.enable_x64(True):
        arrival_s = jnp.asarray(params.requests.arrival_s)
        guard = lambda a: guarded(replace(params, requests=replace(params.requests, arrival_s=a))).requests.arrival_s
        same, tangent = jax.jvp(guard, (arrival_s,), (arrival_s,))
    np.testing.assert_array_equal(same, arrival_s)
    np.testing.assert_array_equal(tangent, np.where(np.isfinite(arrival_s), arrival_s, 0.0))


def test_a_shape_that_may_run_out_of_slots_is_refused():
    shape, params = cases()["preempting"]
    with pytest.raises(ValueError, match="tight"):
        outcome(replace(shape, tight=True), params)


def test_a_profile_is_differentiated_through_its_compilation_and_the_run():
    """Efficiencies, floors and overheads of the shipped profile, in reverse mode, against finite differences of the same sum."""
    device, model = load_device("rtx_pro_6000"), load_model("llama-3.1-8b")
    profile = load_profile(PROFILES / "latency" / "rtx_pro_6000" / "generic.yaml")
    profile = replace(profile, host=replace(profile.host, step_s=1e-3, api_pre_s=4e-3, api_post_s=2e-3))
    shape, params = cases()["preempting"]

    def weighted_s(leaves, weights, params):
        rank, host = unravel(leaves)
        fitted = replace(profile, ranks={ANY_DEGREE: rank}, host=host)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # profiles are compiled outside the engine
            step = compile_profile(fitted, Deployment(model, device), max_tokens=MAX_TOKENS, max_sequences=MAX_SEQUENCES, xp=jnp)
        api = {name: jnp.asarray(getattr(host, name))[None] for name in ("api_pre_s", "api_post_s")}
        o = outcome_reverse(shape, TICKS, replace(params, step_time=step, ranks=replace(params.ranks, **api)))
        return jnp.sum(weights * times(o)), o

    with jax.enable_x64(True):
        leaves, unravel = ravel_pytree((profile.rank(1), profile.host))
        run = jax.jit(jax.value_and_grad(weighted_s, has_aux=True), compiler_options=quickly())
        weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, shape.requests)))
        (_, o), gradient = run(leaves, weights, params)
        assert np.isfinite(gradient).all() and o.finished.sum() == 28 and o.preemptions.sum() > 0
        difference = np.zeros(len(leaves))
        for k in range(len(leaves)):
            step = STEP * float(leaves[k])
            ends = [run(leaves.at[k].add(sign * step), weights, params)[0] for sign in (1.0, -1.0)]
            for _, end in ends:
                assert_same_schedule(end, o)
            difference[k] = (ends[0][0] - ends[1][0]) / (2 * STEP)
    assert run._cache_size() == 1
    gradient = np.asarray(gradient) * np.asarray(leaves)  # with respect to a factor
    np.testing.assert_allclose(gradient, difference, rtol=1e-6, atol=2e-7)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path((profile.rank(1), profile.host))]
    felt = {name for name, size in zip(names, np.abs(gradient), strict=True) if size > 1e-4}
    assert len(felt) >= 15 and all(any(word in name for name in felt) for word in ("gemm", "bandwidth", "floor", "step_s", "api_pre_s"))
