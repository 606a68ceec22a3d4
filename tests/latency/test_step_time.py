"""The contract between the latency model and the engine: `mixed_step_s`, `decode_steps`, rows and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.latency.join import join_step_times
from simjax.latency.step_time import decode_steps, mixed_step_s, row
from tests.latency.step_times import COEFFICIENTS, example_step_time

SLOTS = 64
MIXED, DECODE = jax.jit(mixed_step_s), jax.jit(decode_steps)
GRADIENT = jax.jit(jax.grad(lambda step_time, new, computed: mixed_step_s(row(step_time, 0), new, computed)))


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def i32(*values):
    return jnp.array(values, jnp.int32)


def decode_step_of(step_time, contexts):
    contexts = np.asarray(contexts)
    return DECODE(row(step_time, 0), len(contexts), int(contexts.sum()), int(contexts.max()))


def mixed_of(step_time, new, computed):
    slots = np.zeros((2, SLOTS), np.int32)  # one size, so that one compilation serves all tests
    slots[0, : len(new)], slots[1, : len(computed)] = new, computed
    return float(MIXED(row(step_time, 0), *slots))


def test_an_empty_step_costs_nothing():
    for measured in (False, True):
        assert mixed_of(example_step_time(measured=measured), [0, 0, 0], [5, 0, 700]) == 0.0


def test_a_decode_step_is_the_sum_of_its_parts():
    c = COEFFICIENTS
    contexts = [100, 300]
    effective = 400 + c["decode_skew"] * (2 * 300 - 400)
    attention_s = c["decode_floor_s"] + 2 * c["decode_sequence_s"] + c["decode_kv_s"] * effective
    expected = 1e-3 + (2e-3 + 2e-5) + (5e-4 + 4e-6) + attention_s
    assert mixed_of(example_step_time(), [1, 0, 1], [100, 999, 300]) == pytest.approx(expected, rel=1e-14)
    assert float(decode_step_of(example_step_time(), contexts)[0]) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("measured", [False, True])
def test_decode_steps_are_exactly_affine_while_valid(measured):
    step_time, rng = example_step_time(measured=measured), np.random.default_rng(3)
    for n in (1, 2, 5, 33, 64):
        for top in (20, 1500, 60000):
            contexts = rng.integers(1, top, n)
            first_s, slope_s, valid = (x.item() for x in decode_step_of(step_time, contexts))
            assert valid >= 1
            for j in {0, 1, valid // 2, valid - 1} & set(range(min(valid, 10**6))):
                assert mixed_of(step_time, [1] * n, contexts + j) == pytest.approx(first_s + slope_s * j, rel=1e-13)
                assert float(decode_step_of(step_time, contexts + j)[0]) == pytest.approx(first_s + slope_s * j, rel=1e-13)


def test_a_leap_ends_where_the_table_bends():
    step_time = example_step_time(measured=True)
    _, slope_s, valid = (x.item() for x in decode_step_of(step_time, [90]))
    assert valid == 100 - 90 + 1  # the entry at 100 belongs to both cells
    assert decode_step_of(step_time, [101])[1].item() != slope_s
    _, slope_s, valid = (x.item() for x in decode_step_of(step_time, [3]))
    assert (slope_s, valid) == (0.0, 16 - 3 + 1)  # held below the first context


@pytest.mark.parametrize("measured", [False, True])
def test_rows_are_the_stacked_models(measured):
    both = join_step_times([example_step_time(measured=measured), example_step_time(3.0, measured=measured)])
    new, computed = i32(1, 200, 0, 90, 1), i32(500, 0, 4, 1000, 2000)
    alone = mixed_of(example_step_time(3.0, measured=measured), new, computed)
    assert float(jax.jit(lambda c, i: mixed_step_s(row(c, i), new, computed))(both, jnp.int32(1))) == pytest.approx(alone, rel=1e-14)


@pytest.mark.parametrize("measured", [False, True])
def test_many_batches_at_once_cost_what_each_costs(measured):
    step_time = example_step_time(measured=measured)
    new = jnp.stack([i32(1, 1, 0, 0), i32(1, 64, 30, 0), i32(0, 0, 0, 0)])
    computed = jnp.stack([i32(10, 90, 0, 0), i32(700, 0, 16, 0), i32(1, 2, 3, 4)])
    at_once = jax.jit(jax.vmap(lambda n, k: mixed_step_s(row(step_time, 0), n, k)))(new, computed)
    for i, seconds in enumerate(at_once):
        assert float(seconds) == pytest.approx(mixed_of(step_time, new[i], computed[i]), rel=1e-14)


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize(
    ("new", "computed"), [([0, 0, 0], [0, 0, 0]), ([1, 1, 0], [9000, 40, 0]), ([300, 0, 20], [0, 0, 800]), ([1, 64, 1], [3000, 10, 4000])]
)
def test_gradients_are_those_of_finite_differences(measured, new, computed):
    step_time = example_step_time(measured=measured)
    gradient = GRADIENT(step_time, i32(*new), i32(*computed))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    for name in COEFFICIENTS:
        value = getattr(step_time.attention, name)

        def moved(factor, name=name, value=value):
            return mixed_of(
                dataclasses.replace(step_time, attention=dataclasses.replace(step_time.attention, **{name: value * factor})), new, computed
            )

        difference = (moved(1 + 1e-4) - moved(1 - 1e-4)) / (2e-4 * value.item())
        assert getattr(gradient.attention, name).item() == pytest.approx(difference, rel=1e-5, abs=1e-7 * moved(1.0) / value.item())
    if measured:  # all entries of the table scaled together

        def table_scaled(factor):
            entries = {"mixed_s": step_time.table.mixed_s * factor, "decode_s": step_time.table.decode_s * factor}
            return mixed_of(dataclasses.replace(step_time, table=dataclasses.replace(step_time.table, **entries)), new, computed)

        along = float(
            jnp.vdot(gradient.table.mixed_s, step_time.table.mixed_s) + jnp.vdot(gradient.table.decode_s, step_time.table.decode_s)
        )
        assert along == pytest.approx((table_scaled(1.5) - table_scaled(0.5)), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("measured", [False, True])
def test_gradients_pass_through_a_loop(measured):
    def total_s(step_time):
        def body(_, carry):
            seconds, computed = carry
            return seconds + mixed_step_s(row(step_time, 0), i32(1, 1, 40), computed), computed + 1

        return jax.lax.fori_loop(0, 3, body, (jnp.zeros(()), i32(5, 900, 0)))[0]

    step_time = example_step_time(measured=measured)
    _, tangent = jax.jvp(total_s, (step_time,), (dataclasses.replace(jax.tree.map(jnp.zeros_like, step_time), host_s=jnp.ones(1)),))
    assert float(tangent) == 3.0


def test_an_absent_table_is_no_part_of_the_tree():
    assert len(jax.tree.leaves(example_step_time())) == 3 + len(COEFFICIENTS)
    assert jax.tree.structure(example_step_time()) != jax.tree.structure(example_step_time(measured=True))
