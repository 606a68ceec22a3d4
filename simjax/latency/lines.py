"""Times of consecutive steps that are the largest of several, each affine in the number of the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from simjax.latency.attention.coefficients import ENDLESS


def largest(first_s: jax.Array, slope_s: jax.Array, valid_steps: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The largest of K lines at the first step, for as many steps as it surely stays so.

    first_s, slope_s: f64[K], seconds of the first step, and what each later one takes longer; valid_steps: i32[], steps for which all lines
    hold. Returns (f64[], f64[], i32[]).
    """
    top_s = jnp.max(first_s)
    steepest_s = jnp.max(jnp.where(first_s == top_s, slope_s, -jnp.inf))
    gaining = slope_s > steepest_s
    until = jnp.floor((top_s - first_s) / jnp.where(gaining, slope_s - steepest_s, 1.0)) + 1.0
    alike = jnp.min(jnp.where(gaining, jnp.clip(until, 1.0, ENDLESS), ENDLESS)).astype(jnp.int32)
    return top_s, steepest_s, jnp.minimum(valid_steps, alike)
