"""Fitting parameters to targets by Levenberg-Marquardt, from several starts at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simjax.calibrate.space import Space
from simjax.calibrate.targets.measured_run import Target
from simjax.disk.checkpoint import NoCheckpoint
from simjax.engine.programs import Effort
from simjax.errors import SimjaxError
from simjax.latency.parameters import with_parameters
from simjax.latency.profiles.profile import LatencyProfile

DIFFERENCE = 1.0  # prior standard deviations between the two sides of a difference
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class FitOptions:
    """Options of the search.

    Attributes:
        starts: number of points of the prior from which the fit begins, side by side; the first is the prior's median. A saturated run
            changes its schedule with every change of a step's time, so the loss has many shallow valleys, and several starts are worth
            their time.
        spread: standard deviation of the other starts, in prior standard deviations.
        max_steps: most trial steps of each start.
        patience: trial steps without an improvement of `tolerance` after which a start is given up.
        tolerance: relative improvement of the loss that counts.
        seed: seed of the starts.
    """

    starts: int = 8
    spread: float = 0.5
    max_steps: int = 40
    patience: int = 8
    tolerance: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Fit:
    """The end of a fit.

    Attributes:
        u: whitened coordinates of the best start, f64[P].
        loss: 1/2 sum of squares at `u`, those of the prior included.
        loss_before: the loss at the prior's median.
        residuals: residuals at `u`, f64[K + P]; the last P are the prior's.
        jacobian: Jacobian at `u`, f64[K + P, P].
        losses: losses of all starts.
        steps: trial steps taken by all starts.
        seconds: wall time, compilation included.
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
    """All residuals at whitened coordinates: the targets' in their order, then the prior's; f64[K + P].

    With `reverse` for `jax.grad`, else for forward mode.
    """

    def residuals(u: jax.Array) -> jax.Array:
        changed = with_parameters(profile, space.values(u, jnp))
        return jnp.concatenate([*(target.residuals(changed, reverse) for target in targets), u])

    return residuals


def with_jacobian(
    residuals: Callable[[jax.Array], jax.Array], drawn: Sequence[int] = ()
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Residuals and their Jacobian from one simulation that carries all tangents.

    Parameters of draws, in the places `drawn`, carry none, for the schedule jumps with each draw. Their columns are central differences
    over one prior standard deviation, from two more simulations each with the same random numbers: over thousands of draws the jumps
    add up to a slope.
    """

    def both(u: jax.Array) -> tuple[jax.Array, jax.Array]:
        push = lambda tangent: jax.jvp(residuals, (u,), (tangent,))
        value, jacobian = jax.vmap(push, out_axes=(None, 1))(jnp.eye(len(u)))
        if drawn:
            aside = jnp.concatenate([sign * 0.5 * DIFFERENCE * jnp.eye(len(u))[jnp.array(drawn)] for sign in (1.0, -1.0)])
            high, low = jnp.split(jax.lax.map(lambda by: residuals(u + by), aside), 2)
            jacobian = jacobian.at[:, jnp.array(drawn)].set((high - low).T / DIFFERENCE)
        return value, jacobian

    return both


def fit(
    targets: Sequence[Target],
    profile: LatencyProfile,
    space: Space,
    options: FitOptions | None = None,
    on_progress: Progress | None = None,
    checkpoint: NoCheckpoint | None = None,
) -> Fit:
    """Fit the free parameters of a profile.

    Args:
        targets: measurements to reproduce.
        profile: the start, and the base that factors multiply.
        space: the free parameters and their priors.
        options: options of the search.
        on_progress: called with (trial steps, most trial steps, best loss).
        checkpoint: the state of an interrupted fit, and where that of this one is kept.

    Raises:
        SimjaxError: the loss is not a number where the fit begins.
    """
    o, kept = options or FitOptions(), checkpoint or NoCheckpoint()
    with jax.enable_x64(True):
        began = time.perf_counter()
        both = with_jacobian(residual_function(targets, profile, space), space.drawn)
        u = _starts(len(space), o)
        solve = _Solver(both, u)
        history: list[float] = []
        best, since, steps = np.full(o.starts, np.inf), np.zeros(o.starts, int), 0
        loss_before = np.inf
        if (state := kept.load()) is not None:
            solve.restore(state)
            best, since, steps = state["best"], state["since"], int(state["steps"])
            history, loss_before = state["history"].tolist(), float(state["loss_before"])
        while steps < o.max_steps and not (steps and (since >= o.patience).all()):
            steps += 1
            losses = solve.step(since < o.patience)
            if steps == 1:
                loss_before = finite_start(float(losses[0]))
            better = losses < best * (1.0 - o.tolerance)
            best, since = np.fmin(best, losses), np.where(better, 0, since + 1)
            history.append(float(best.min()))
            if on_progress is not None:
                on_progress(steps, o.max_steps, history[-1])
            kept.save(steps, best=best, since=since, history=history, loss_before=loss_before, **solve.state())
        at = np.asarray(solve.u[int(np.argmin(best))])
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
    """optimistix's Levenberg-Marquardt, a trial step of the starts at a time, so that the host sees its progress.

    The starts share a program and take turns on the cores. In a batch (`vmap`) they would step through their ticks together, and choose
    between an old and a new state of each of them in every tick: four starts of a run of 1,212 requests take 2.6 s that way, 1.3 s one by
    one, and 0.9 s on two cores.
    """

    def __init__(self, both: Callable[[jax.Array], tuple[jax.Array, jax.Array]], starts: np.ndarray) -> None:
        import equinox as eqx  # here, not at the top: only a fit needs them
        import optimistix as optx

        @jax.custom_jvp
        def residuals(u: jax.Array) -> jax.Array:
            return both(u)[0]

        @residuals.defjvp
        def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
            # One simulation for the values and the whole Jacobian, instead of one for each tangent that the solver asks for.
            value, jacobian = both(*primals)
            return value, jacobian @ tangents[0]

        function = lambda u, _: (residuals(u), None)
        solver: Any = optx.LevenbergMarquardt(rtol=0.0, atol=0.0)

        def one(u: jax.Array, state: Any) -> tuple[jax.Array, Any, jax.Array]:
            u, state, _ = solver.step(function, u, None, {}, state, frozenset())
            residuals = state.f_info.residual
            return u, state, 0.5 * jnp.vdot(residuals, residuals)

        self.u = [jnp.asarray(u) for u in starts]
        struct = jax.eval_shape(residuals, self.u[0])
        self._states: list[Any] = [solver.init(function, u, None, {}, struct, None, frozenset()) for u in self.u]
        self._losses = np.full(len(self.u), np.inf)
        jit: Any = eqx.filter_jit  # its annotations leave out the options of `jax.jit` that it passes on
        self._one = jit(one, compiler_options=Effort.MEDIUM.options()).lower(self.u[0], self._states[0]).compile()
        self.evaluate = jax.jit(both, compiler_options=Effort.MEDIUM.options())

    def step(self, active: np.ndarray) -> np.ndarray:
        """A trial step of the active starts (bool[S]); the losses of all of them, f64[S], as they are now."""

        def step(k: int) -> None:
            with jax.enable_x64(True):  # of this thread
                self.u[k], self._states[k], loss = self._one(self.u[k], self._states[k])
                self._losses[k] = float(loss)

        pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="simjax")
        try:
            list(pool.map(step, np.flatnonzero(active).tolist()))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an interrupt, steps that still run are not waited for
        return self._losses.copy()

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next steps depend on, as arrays."""
        found = {f"u{k}": np.asarray(u) for k, u in enumerate(self.u)} | {"losses": self._losses}
        for k, state in enumerate(self._states):
            found |= {f"s{k}_{name}": leaf for name, leaf in leaves_of(state).items()}
        return found

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `state` gave."""
        for k in range(len(self.u)):
            self.u[k] = jnp.asarray(arrays[f"u{k}"])
            self._states[k] = with_leaves(self._states[k], {name: arrays[f"s{k}_{name}"] for name in leaves_of(self._states[k])})
        self._losses = arrays["losses"].copy()


def leaves_of(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by their places."""
    return {str(k): np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(tree)) if isinstance(leaf, jax.Array)}


def with_leaves(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A tree with these arrays, which `leaves_of` gave, in their places."""
    leaves, kind = jax.tree.flatten(tree)
    return jax.tree.unflatten(kind, [jnp.asarray(arrays[str(k)]) if str(k) in arrays else leaf for k, leaf in enumerate(leaves)])
