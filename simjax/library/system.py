"""A cluster and its requests as one pytree: what `simjax.simulate` is a function of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from simjax.engine.params import ClusterParams, RankParams
from simjax.engine.shape import EngineShape, seat_bucket, slots_for
from simjax.errors import SimjaxError, closest
from simjax.library.times import Times

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

REQUESTS = ("arrival_s", "prompt_tokens", "output_tokens")
LIMITS = ("max_num_seqs", "max_num_batched_tokens", "long_prefill_token_threshold", "num_blocks", "watermark_blocks")
"""Limits of the ranks that may be changed: the others decide what the program is, or belong to these."""


@dataclass(frozen=True)
class Static:
    """The static part of a system, and its compile key: nothing in it follows from a number that may be changed.

    Attributes:
        shape: array sizes, and the subsystems that exist.
        times: the profiles and deployments that step times are computed from.
        ticks: most ticks of a run that is differentiated.
        gpus: GPUs of the cluster.
    """

    shape: EngineShape
    times: Times
    ticks: int
    gpus: int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class System:
    """A cluster and its requests; a leading axis B on every leaf makes it B systems (`simjax.stack`).

    All leaves but `static` are arrays of numpy or JAX and may be traced; change them with `with_values`.

    Attributes:
        parameters: parameters of the step times by name, float64[C] each, one for each kind of instance in the order in which they come
            (instances of a kind are alike in model, device, parallelism and flags): factors relative to the configuration, or seconds.
        rate: float64[], how much faster the requests arrive than in the configuration; 1 in a closed loop.
        cluster: limits, router and requests in the engine's arrays. Requests are padded with ones that never arrive.
        stationary: bool[], whether the load is, which decides what a measurement window leaves out by itself.
        warmup_s, cooldown_s: float64[], seconds that it leaves out; NaN where it decides by itself.
        static: the compile key.
    """

    parameters: dict[str, Float64[Array, "*B C"]]
    rate: Float64[Array, "*B"]
    cluster: ClusterParams
    stationary: Bool[Array, "*B"]
    warmup_s: Float64[Array, "*B"]
    cooldown_s: Float64[Array, "*B"]
    static: Static = field(metadata={"static": True})

    @property
    def arrival_s(self) -> Any:
        """Arrivals in seconds, float64[..., R], sorted; infinity for padding and for requests that wait for answers."""
        return self.cluster.requests.arrival_s[..., 0, :]

    @property
    def prompt_tokens(self) -> Any:
        """Prompt tokens, int32[..., R]; 1 in the padding."""
        return self.cluster.requests.prompt_tokens[..., 0, :]

    @property
    def output_tokens(self) -> Any:
        """Output tokens, int32[..., R]; 1 in the padding."""
        return self.cluster.requests.output_tokens[..., 0, :]

    @property
    def limits(self) -> RankParams:
        """The limits of the ranks, leaves [..., N]."""
        return self.cluster.ranks

    def with_values(self, **values: Any) -> System:
        """The system with other values, which may be traced.

        Args:
            values: by name: a parameter of `parameters` (one number for all kinds, or float64[C]), `rate`, requests (`arrival_s`,
                `prompt_tokens`, `output_tokens`, of the present shape), or limits (one number for all ranks, or int32[N]):
                `max_num_seqs`, `max_num_batched_tokens`, `long_prefill_token_threshold`, `num_blocks`, `watermark_blocks`.

        Raises:
            SimjaxError: there is no such name, a shape is another one, or a limit exceeds what the system was prepared for.
        """
        parameters, requests, limits = dict(self.parameters), dict[str, Any](), dict[str, Any]()
        rate = values.pop("rate", self.rate)
        for name, value in values.items():
            if name in self.parameters:
                parameters[name] = _filled(name, value, self.parameters[name])
            elif name in REQUESTS:
                requests[name] = _filled(name, value, getattr(self, name))[..., None, :]
            elif name in LIMITS:
                _check_limit(name, value, self.static)
                limits[name] = _filled(name, value, getattr(self.limits, name))
            else:
                known = [*self.parameters, "rate", *REQUESTS, *LIMITS]
                raise SimjaxError(f"with_values: there is no value '{name}'; {closest(name, known)}")
        cluster = self.cluster
        cluster = replace(cluster, requests=replace(cluster.requests, **requests), ranks=replace(cluster.ranks, **limits))
        return replace(self, parameters=parameters, rate=_filled("rate", rate, self.rate), cluster=cluster)


def most(static: Static) -> Mapping[str, int]:
    """The most of each limit that the arrays of a system have room for."""
    shape, times = static.shape, static.times
    seats = shape.slots - (slots_for(1, shape.requests, shape.window) - seat_bucket(1))
    return {"max_num_seqs": min(seats, times.max_seqs), "max_num_batched_tokens": times.max_tokens}


def _check_limit(name: str, value: Any, static: Static) -> None:
    """Refuse a limit beyond the arrays, where it is known: of a traced one the metrics are NaN."""
    room = most(static).get(name)
    if room is None or isinstance(value, Tracer):
        return
    if (asked := int(np.max(value))) > room:
        raise SimjaxError(f"with_values: {name}={asked}: the system has room for {room}; prepare it with scheduler.{name}={asked}")


def _filled(name: str, value: Any, like: Any) -> Any:
    """A value in the shape and data type of another one."""
    shape, dtype = np.shape(like), np.asarray(like).dtype if not isinstance(like, Array) else like.dtype
    if np.shape(value) not in ((), shape):
        raise SimjaxError(f"with_values: {name} has shape {np.shape(value)}; it must have {shape}, or be one number")
    xp = jax.numpy if isinstance(value, Array) else np
    return xp.broadcast_to(xp.asarray(value).astype(dtype), shape)
