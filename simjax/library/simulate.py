"""`simjax.simulate`: a pure function of a `System`, under `jit`, `vmap` and derivatives in both modes.

Values come from a loop that ends with the run; a batch of runs shares one loop, which ends with the last of them. A derivative, forward or
reverse, goes through the same ticks in a loop of fixed length (`simjax.engine.differentiate.outcome_reverse`). It is the pathwise one: the
schedule is held (`simjax.sensitivity.clients` has the frame of latencies). `simjax.total` has the other one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from simjax.engine.differentiate import Outcome, outcome_reverse
from simjax.engine.params import ClusterParams
from simjax.engine.programs import Effort
from simjax.errors import SimjaxError
from simjax.library.loop import outcome_alone
from simjax.library.metrics import Metrics, metrics_of
from simjax.library.system import Static, System, most

HOW = "call jax.config.update('jax_enable_x64', True) first, or work within `with jax.enable_x64(True):`"
_HELD = ("draft_acceptance",)  # drafts are accepted by draws


def simulate(system: System) -> Metrics:
    """The metrics of a system; every number of it but those of `static` may be traced, and changing one recompiles nothing.

    Derivatives (`jax.grad`, `jax.jvp`, `jax.jacfwd`, ...) are pathwise: those with the schedule held. By what moves requests, and so the
    schedule alone, there is none: `rate`, arrivals, `draft_acceptance`; limits are whole numbers. `simjax.total` takes differences of
    whole simulations instead. For systems side by side: `jax.vmap(simjax.simulate)(simjax.stack(systems))`.

    Args:
        system: from `simjax.prepare`; inside `jax.jit` its arrays are traced.

    Raises:
        SimjaxError: 64-bit numbers are off, or a leaf is not of 64 bits; a derivative is asked for that does not exist here.
    """
    _require_64_bits(system)
    traced = any(isinstance(x, Tracer) for x in jax.tree.leaves(system))
    return _program(None if traced else jax.default_backend())(system)


@cache
def _program(platform: str | None) -> Any:
    """The simulation, compiled on its first call for a `static`; None: within a program, whose compiler has its own options."""
    return jax.jit(_simulated, compiler_options=None if platform is None else Effort.MEDIUM.options(platform))


def _simulated(system: System) -> Metrics:
    params = _params(system)
    static = system.static
    o = _outcome(static, params)
    return metrics_of(system, params, o, _sound(static, params, o))


def _params(system: System) -> ClusterParams:
    """The engine's parameters: step times from the profile's parameters, arrivals at the rate."""
    parameters = {name: only_total(name, x) if name in _HELD else x for name, x in system.parameters.items()}
    params = system.static.times.timed(jax.tree.map(jnp.asarray, system.cluster), parameters)
    arrival_s, rate = only_total("arrival_s", params.requests.arrival_s), only_total("rate", jnp.asarray(system.rate))
    return replace(params, requests=replace(params.requests, arrival_s=arrival_s / rate))


def _outcome(static: Static, params: ClusterParams) -> Outcome:
    """The run to its end; where it is differentiated, through a loop of fixed length."""

    @jax.custom_jvp
    def run(params: ClusterParams) -> Outcome:
        return outcome_alone(static.shape, params)

    @run.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(partial(outcome_reverse, static.shape, static.ticks), primals, tangents)

    return run(params)


def _sound(static: Static, params: ClusterParams, o: Outcome) -> Array:
    """Whether the arrays had room for the run."""
    fits = [jnp.all(getattr(params.ranks, name) <= room) for name, room in most(static).items()]
    cut = (jnp.sum(o.finished) < params.request_count) & (o.ticks == static.ticks)
    return fits[0] & fits[1] & (o.overflow == 0) & ~cut


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def only_total(name: str, x: Array) -> Array:
    """A number by which there is no pathwise derivative."""
    return x


@partial(only_total.defjvp, symbolic_zeros=True)
def _(name: str, primals: Any, tangents: Any) -> Any:
    (x,), (moved,) = primals, tangents
    if not isinstance(moved, jax.custom_derivatives.SymbolicZero):
        raise SimjaxError(f"simulate: no pathwise derivative by {name}: it moves the schedule alone; see simjax.total")
    return x, moved


def _require_64_bits(system: System) -> None:
    """Refuse a simulation in 32 bits, in which times of a long run would be off by more than a step."""
    if jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise SimjaxError(f"simulate: JAX is set to 32 bits, and times need 64; {HOW}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(system):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.floating) and dtype != jnp.float64:
            raise SimjaxError(f"simulate: system{jax.tree_util.keystr(path)} is {dtype}, and times need float64; {HOW}")
