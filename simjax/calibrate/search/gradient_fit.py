"""Fitting many parameters by gradients in reverse mode: optax's L-BFGS or Adam, whose steps take no longer for more parameters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simjax.calibrate.fit import Fit, FitOptions, Progress, finite_start, leaves_of, residual_function, with_jacobian, with_leaves
from simjax.calibrate.space import Space
from simjax.calibrate.targets.measured_run import Target
from simjax.disk.checkpoint import NoCheckpoint
from simjax.engine.programs import Effort
from simjax.errors import SimjaxError
from simjax.latency.profiles.profile import LatencyProfile

ADAM_RATE = 0.1  # prior standard deviations a step
STEPS_PER_TRIAL = {"lbfgs": 2, "adam": 5}  # steps for each trial step that Levenberg-Marquardt may take
LINE_SEARCH_STEPS = 8  # a change of schedule makes the loss jump: longer searches find nothing


def fit_by_gradient(
    targets: Sequence[Target],
    profile: LatencyProfile,
    space: Space,
    options: FitOptions,
    method: str,
    on_progress: Progress | None = None,
    checkpoint: NoCheckpoint | None = None,
) -> Fit:
    """As `simjax.calibrate.fit.fit`, from the prior's median only; method is "lbfgs" or "adam".

    Raises:
        SimjaxError: the loss is not a number where the fit begins, or a parameter has no gradient.
    """
    if space.drawn:
        named = ", ".join(space.names[i] for i in space.drawn)
        raise SimjaxError(f"fit.method={method}: {named} moves draws and has no gradient; fit.method=lm, or parameters.{named}.free=false")
    import optax  # here, not at the top: no other fit needs it

    with jax.enable_x64(True):
        began = time.perf_counter()
        residuals = residual_function(targets, profile, space, reverse=True)

        def loss(u: jax.Array) -> jax.Array:
            r = residuals(u)
            return 0.5 * jnp.vdot(r, r)

        search: Any = optax.scale_by_backtracking_linesearch(LINE_SEARCH_STEPS, store_grad=True)
        optimizer: Any = optax.adam(ADAM_RATE) if method == "adam" else optax.lbfgs(linesearch=search)
        value_and_grad = optax.value_and_grad_from_state(loss) if method == "lbfgs" else jax.value_and_grad(loss)

        @partial(jax.jit, compiler_options=Effort.MEDIUM.options())
        def step(u: jax.Array, state: Any) -> tuple[jax.Array, Any, jax.Array]:
            value, grad = value_and_grad(u, state=state) if method == "lbfgs" else value_and_grad(u)
            more = {"value": value, "grad": grad, "value_fn": loss} if method == "lbfgs" else {}
            updates, after = optimizer.update(grad, state, u, **more)
            return jnp.asarray(u + updates), like(after, state), jnp.asarray(value)

        # optax's own first state has weak types, its later ones have not: that would be two programs.
        like = lambda new, old: jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), new, old)
        u = jnp.zeros(len(space))
        state = optimizer.init(u)
        state = like(state, state)
        best, best_u, history, since, most = np.inf, u, [], 0, STEPS_PER_TRIAL[method] * options.max_steps
        steps, before, patience = 0, np.inf, STEPS_PER_TRIAL[method] * options.patience
        kept = checkpoint or NoCheckpoint()
        if (arrays := kept.load()) is not None:
            u, best_u, best, before = jnp.asarray(arrays["u"]), arrays["best_u"], float(arrays["best"]), float(arrays["before"])
            state = with_leaves(state, {name: arrays[f"s_{name}"] for name in leaves_of(state)})
            steps, since, history = int(arrays["steps"]), int(arrays["since"]), arrays["history"].tolist()
        while steps < most and not (steps and since >= patience):
            steps += 1
            here = u
            u, state, value = step(u, state)
            before = finite_start(float(value)) if steps == 1 else before
            since = 0 if float(value) < best * (1.0 - options.tolerance) else since + 1
            if float(value) < best:
                best, best_u = float(value), here
            history.append(best)
            if on_progress is not None:
                on_progress(steps, most, best)
            numbers = {"best": best, "before": before, "since": since, "history": history}
            leaves = {f"s_{name}": leaf for name, leaf in leaves_of(state).items()}
            kept.save(steps, u=np.asarray(u), best_u=np.asarray(best_u), **numbers, **leaves)
        both = jax.jit(with_jacobian(residual_function(targets, profile, space)), compiler_options=Effort.MEDIUM.options())
        r, jacobian = (np.asarray(x) for x in both(jnp.asarray(best_u)))
    at = np.asarray(best_u)
    seconds = time.perf_counter() - began
    return Fit(at, 0.5 * float(r @ r), before, r, jacobian, np.array([best]), steps, seconds, history)
