"""Arithmetic of a plan: end times of its steps, number of steps before a given time, and its shortening by an arrival."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.rank import Plan
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


CUT = ("steps", "end_s", "horizon_s")
"""Fields of a plan that `cut_short` changes."""


def end_after(plan: Plan, steps: Int32[Array, ""]) -> Float64[Array, ""]:
    """Time in seconds at which the given number of steps (>= 0) of the plan has ended: the closed form of an affine step time."""
    j = jnp.maximum(steps - 1, 0).astype(jnp.float64)
    tail_s = product(j, plan.next_s) + product(plan.slope_s, 0.5 * j * (j - 1.0))
    return jnp.where(steps > 0, plan.start_s + plan.first_s + tail_s, plan.start_s)


def first_step_reaching(plan: Plan, t_s: Float64[Array, ""]) -> Int32[Array, ""]:
    """Number of the first step that ends at or after t_s; 0 when t_s is not after the start, `steps` + 1 when no step does."""
    rest_s = t_s - plan.start_s - plan.first_s
    rest_s = jnp.where(jnp.isfinite(rest_s), jnp.maximum(rest_s, 0.0), 0.0)
    b = jnp.maximum(plan.next_s - 0.5 * plan.slope_s, 1e-12)
    root = 2.0 * rest_s / (b + jnp.sqrt(b * b + 2.0 * plan.slope_s * rest_s))  # of b j + slope j^2 / 2 = rest
    guess = 1 + jnp.clip(jnp.ceil(root), 0.0, plan.steps.astype(jnp.float64)).astype(jnp.int32)
    # The root may be off by one rounding: the closed form of the ends decides.
    guess = jnp.where(end_after(plan, guess) < t_s, guess + 1, guess)
    guess = jnp.where(end_after(plan, guess - 1) >= t_s, guess - 1, guess)
    guess = jnp.where(jnp.isfinite(t_s), jnp.minimum(guess, plan.steps + 1), plan.steps + 1)
    return jnp.where(t_s <= plan.start_s, 0, guess).astype(jnp.int32)


def take_steps(plan: Plan, steps: Int32[Array, ""], async_scheduling: Bool[Array, ""]) -> Plan:
    """The plan that ends after `steps` >= 1 of its steps.

    The next step is formed when the last one ends, or already when it starts if scheduling is asynchronous: that is its `horizon_s`.
    """
    end_s = end_after(plan, steps)
    horizon_s = jnp.where(async_scheduling, end_after(plan, steps - 1), end_s)
    return dataclasses.replace(plan, steps=steps, end_s=end_s, horizon_s=horizon_s)


def cut_short(plan: Plan, queued_s: Float64[Array, ""], async_scheduling: Bool[Array, ""]) -> Plan:
    """The plan after a request joined the rank's queue at queued_s >= its start: the step that could admit it is formed anew."""
    steps = first_step_reaching(plan, queued_s) + async_scheduling.astype(jnp.int32)
    busy = take_steps(plan, jnp.clip(steps, 1, jnp.maximum(plan.steps, 1)), async_scheduling)
    wake_s = jnp.minimum(plan.end_s, jnp.maximum(queued_s, plan.start_s))
    idle = plan.steps == 0
    changed = dataclasses.replace(
        plan,
        steps=jnp.where(idle, 0, busy.steps),
        end_s=jnp.where(idle, wake_s, busy.end_s),
        horizon_s=jnp.where(idle, wake_s, busy.horizon_s),
    )
    return dataclasses.replace(
        plan,
        steps=jnp.where(plan.open, changed.steps, plan.steps),
        end_s=jnp.where(plan.open, changed.end_s, plan.end_s),
        horizon_s=jnp.where(plan.open, changed.horizon_s, plan.horizon_s),
    )
