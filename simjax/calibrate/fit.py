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

from simjax.calibrate.search.descent import Descent
from simjax.calibrate.search.uninformed import strayed, uninformed
from simjax.calibrate.space import Space
from simjax.calibrate.targets.measured_run import Target
from simjax.disk.checkpoint import NoCheckpoint
from simjax.engine.programs import Effort
from simjax.errors import SimjaxError
from simjax.latency.parameters import with_parameters
from simjax.latency.profiles.profile import LatencyProfile

DIFFERENCE = 1.0  # prior standard deviations between the two sides of a difference
Progress = Callable[[int, int, float], None]
Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


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
        losses: losses of all starts, those that were given up last.
        steps: trial steps taken by all starts.
        seconds: wall time, compilation included.
        history: best loss after each round of trial steps; it rises where a parameter that had strayed is put back.
        held: places of the parameters that the data do not inform, which stayed at their priors.
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
    held: tuple[int, ...] = ()


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
    """Fit the free parameters of a profile. Those that the data do not inform are held at their priors (`search/uninformed.py`).

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
    observations = sum(target.observations for target in targets)
    with jax.enable_x64(True):
        began = time.perf_counter()
        evaluate = _compiled(with_jacobian(residual_function(targets, profile, space), space.drawn), len(space))
        if (state := kept.load()) is None:
            search = _Search.begun([Descent(u) for u in _starts(len(space), o)], evaluate)
            loss_before, steps, history = finite_start(search.best.loss), 0, []
        else:
            search, loss_before = _Search.restored(state), float(state["loss_before"])
            steps, history = int(state["steps"]), state["history"].tolist()
        while steps < o.max_steps and search.goes_on(o, observations):
            steps += 1
            search.step(evaluate, o)
            history.append(search.best.loss)
            if on_progress is not None:
                on_progress(steps, o.max_steps, history[-1])
            kept.save(steps, history=history, loss_before=loss_before, **search.arrays())
    best, losses = search.best, np.array([x.loss for x in search.starts] + search.aside)
    held, seconds = tuple(np.flatnonzero(search.held).tolist()), time.perf_counter() - began
    return Fit(best.u, best.loss, loss_before, best.residuals, best.jacobian, losses, steps, seconds, history, held)


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


@dataclass
class _Search:
    """The starts of a fit, which take turns on the cores.

    In a batch (`vmap`) they would step through their ticks together, and choose between an old and a new state of each of them in every
    tick: four starts of a run of 1,212 requests take 2.6 s that way, 1.3 s one by one, and 0.9 s on two cores.

    Attributes:
        starts: those that go on or have ended.
        held: bool[P], the parameters that stay at their priors.
        aside: losses of those that were given up when the best one had to go on with fewer parameters.
    """

    starts: list[Descent]
    held: np.ndarray
    aside: list[float] = field(default_factory=list)

    @staticmethod
    def begun(starts: list[Descent], evaluate: Evaluate) -> _Search:
        """The first start is evaluated: it tells what the data inform."""
        starts[0].begin(*evaluate(starts[0].u))
        held = uninformed(starts[0].jacobian)
        for start in starts:
            start.u = np.where(held, 0.0, start.u)
        return _Search(starts, held)

    @property
    def best(self) -> Descent:
        return min(self.starts, key=lambda x: x.loss)

    def goes_on(self, o: FitOptions, observations: float) -> bool:
        """Whether any start does. At their end the best one does so alone if it has moved what the data do not inform."""
        if not all(self._ended(x, o) for x in self.starts):
            return True
        best = self.best
        more = strayed(best.u, best.residuals, best.jacobian, self.held, observations)
        self.held = self.held | more
        if more.any():
            self.aside += [x.loss for x in self.starts if x is not best]
            self.starts = [Descent(np.where(self.held, 0.0, best.u))]
        return bool(more.any())

    def step(self, evaluate: Evaluate, o: FitOptions) -> None:
        """A trial step of each start that has not ended."""

        def step(start: Descent) -> None:
            if not np.isfinite(start.loss):
                start.begin(*evaluate(start.u))
            elif (u := start.proposal(self.held, o.tolerance)) is not None:
                start.judge(self.held, u, *evaluate(u), o.tolerance)

        pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="simjax")
        try:
            list(pool.map(step, [x for x in self.starts if not self._ended(x, o)]))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an interrupt, steps that still run are not waited for

    def _ended(self, start: Descent, o: FitOptions) -> bool:
        return start.done or start.since >= o.patience

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that the next steps depend on, as arrays."""
        found = {"held": self.held, "aside": np.array(self.aside)}
        return found | {f"d{k}_{name}": x for k, start in enumerate(self.starts) for name, x in start.arrays().items()}

    @staticmethod
    def restored(arrays: Mapping[str, np.ndarray]) -> _Search:
        """What `arrays` was taken of."""
        starts = range(sum(name.endswith("_damping") for name in arrays))
        of = lambda k: {name.removeprefix(f"d{k}_"): x for name, x in arrays.items() if name.startswith(f"d{k}_")}
        return _Search([Descent.restored(of(k)) for k in starts], arrays["held"].astype(bool), arrays["aside"].tolist())


def _compiled(both: Callable[[jax.Array], tuple[jax.Array, jax.Array]], parameters: int) -> Evaluate:
    program = jax.jit(both, compiler_options=Effort.MEDIUM.options()).lower(jnp.zeros(parameters)).compile()

    def evaluate(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.enable_x64(True):  # of this thread
            value, jacobian = program(jnp.asarray(u))
            return np.asarray(value), np.asarray(jacobian)

    return evaluate


def leaves_of(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by their places."""
    return {str(k): np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(tree)) if isinstance(leaf, jax.Array)}


def with_leaves(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A tree with these arrays, which `leaves_of` gave, in their places."""
    leaves, kind = jax.tree.flatten(tree)
    return jax.tree.unflatten(kind, [jnp.asarray(arrays[str(k)]) if str(k) in arrays else leaf for k, leaf in enumerate(leaves)])
