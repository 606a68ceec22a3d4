"""Fitting parameters to targets by Levenberg-Marquardt, from several starts at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simjax.calibrate.space import Space
from simjax.calibrate.targets import Target
from simjax.errors import SimjaxError
from simjax.latency.parameters import with_parameters
from simjax.latency.profile import LatencyProfile

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class FitOptions:
    """How to search.

    Attributes:
        starts: points of the prior from which the fit begins, side by side; the first is the prior's median. A saturated run changes its
            schedule with every change of a step's time, so the loss has many shallow valleys, and the best of several is worth its time.
        spread: of the other starts, in prior standard deviations.
        max_steps: most trial steps of each start.
        patience: trial steps without an improvement of `tolerance` after which a start is given up.
        tolerance: relative improvement of the loss that counts.
        seed: of the starts.
    """

    starts: int = 8
    spread: float = 0.5
    max_steps: int = 40
    patience: int = 5
    tolerance: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Fit:
    """Where a fit ended.

    Attributes:
        u: whitened coordinates of the best start, f64[P].
        loss: 1/2 sum of squares there, the prior's included; loss_before: at the prior's median.
        residuals: there, f64[K + P]; the last P are the prior's.
        jacobian: there, f64[K + P, P].
        losses: of all starts.
        steps: trial steps taken by all starts.
        seconds: all of it took, compilation included.
        history: best loss after each round of trial steps.
    """

    u: np.ndarray
    loss: float
    loss_before: float
    residuals: np.ndarray
    jacobian: np.ndarray
    losses: np.ndarray
    steps: int
    seconds: float
    history: list[float] = field(default_factory=list)


def residual_function(
    targets: Sequence[Target], profile: LatencyProfile, space: Space, reverse: bool = False
) -> Callable[[jax.Array], jax.Array]:
    """All residuals at whitened coordinates: the targets' in their order, then the prior's; f64[K + P]. `reverse`: for `jax.grad`."""

    def residuals(u: jax.Array) -> jax.Array:
        changed = with_parameters(profile, space.values(u, jnp))
        return jnp.concatenate([*(target.residuals(changed, reverse) for target in targets), u])

    return residuals


def with_jacobian(residuals: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Residuals and their Jacobian from one simulation that carries all tangents."""

    def both(u: jax.Array) -> tuple[jax.Array, jax.Array]:
        push = lambda tangent: jax.jvp(residuals, (u,), (tangent,))  # noqa: E731
        return jax.vmap(push, out_axes=(None, 1))(jnp.eye(len(u)))

    return both


def fit(
    targets: Sequence[Target],
    profile: LatencyProfile,
    space: Space,
    options: FitOptions | None = None,
    on_progress: Progress | None = None,
) -> Fit:
    """Fit the free parameters of a profile.

    Args:
        targets: what must be reproduced.
        profile: the start, and the base that factors multiply.
        space: the free parameters and their priors.
        options: how to search.
        on_progress: called with (trial steps, most trial steps, best loss).

    Raises:
        SimjaxError: the loss is not a number where the fit begins.
    """
    o = options or FitOptions()
    with jax.enable_x64(True):
        began = time.perf_counter()
        both = with_jacobian(residual_function(targets, profile, space))
        solve = _Solver(both)
        u = jnp.asarray(_starts(len(space), o))
        state = solve.begin(u)
        history: list[float] = []
        best, since, steps = np.full(o.starts, np.inf), np.zeros(o.starts, int), 0
        loss_before = np.inf
        for steps in range(1, o.max_steps + 1):
            u, state, losses = solve.step(u, state)
            losses = np.asarray(losses)
            if steps == 1:
                loss_before = finite_start(float(losses[0]))
            better = losses < best * (1.0 - o.tolerance)
            best, since = np.fmin(best, losses), np.where(better, 0, since + 1)
            history.append(float(best.min()))
            if on_progress is not None:
                on_progress(steps, o.max_steps, history[-1])
            if (since >= o.patience).all():
                break
        at = np.asarray(u)[int(np.argmin(best))]
        residuals, jacobian = (np.asarray(x) for x in solve.evaluate(jnp.asarray(at)))
    loss = 0.5 * float(residuals @ residuals)
    return Fit(at, loss, loss_before, residuals, jacobian, best, steps, time.perf_counter() - began, history)


def finite_start(loss: float) -> float:
    """The loss at the prior's median.

    Raises:
        SimjaxError: it is not a number.
    """
    if not np.isfinite(loss):
        raise SimjaxError("the loss is not a number at the prior's median; check the measured runs and the profile")
    return loss


def _starts(parameters: int, o: FitOptions) -> np.ndarray:
    rng = np.random.default_rng(o.seed)
    others = rng.normal(0.0, o.spread, (o.starts - 1, parameters))
    return np.concatenate([np.zeros((1, parameters)), others])


class _Solver:
    """optimistix's Levenberg-Marquardt, a trial step of all starts at a time, so that the host sees how it goes."""

    def __init__(self, both: Callable[[jax.Array], tuple[jax.Array, jax.Array]]) -> None:
        import equinox as eqx  # here, not at the top: nothing but a fit needs them
        import optimistix as optx

        @jax.custom_jvp
        def residuals(u: jax.Array) -> jax.Array:
            return both(u)[0]

        @residuals.defjvp
        def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
            # One simulation for the values and the whole Jacobian, instead of one for each tangent that the solver asks for.
            value, jacobian = both(*primals)
            return value, jacobian @ tangents[0]

        self._function = lambda u, _: (residuals(u), None)
        self._solver: Any = optx.LevenbergMarquardt(rtol=0.0, atol=0.0)
        self.evaluate = jax.jit(both)
        self._step = eqx.filter_jit(eqx.filter_vmap(self._one))
        self._vmap = eqx.filter_vmap

    def begin(self, u: jax.Array) -> Any:
        """The state of every start."""
        struct = jax.eval_shape(lambda u: self._function(u, None)[0], u[0])
        init = lambda u: self._solver.init(self._function, u, None, {}, struct, None, frozenset())  # noqa: E731
        return self._vmap(init)(u)

    def _one(self, u: jax.Array, state: Any) -> tuple[jax.Array, Any, jax.Array]:
        u, state, _ = self._solver.step(self._function, u, None, {}, state, frozenset())
        residuals = state.f_info.residual
        return u, state, 0.5 * jnp.vdot(residuals, residuals)

    def step(self, u: jax.Array, state: Any) -> tuple[jax.Array, Any, jax.Array]:
        """A trial step of every start: where they are, their states, the losses there."""
        return self._step(u, state)
