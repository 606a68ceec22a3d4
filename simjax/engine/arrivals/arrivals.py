"""Arrivals: times at which requests are sent, given beforehand or made by the run itself.

The four kinds have the same methods: `next_s` and `next_request` for the arrival that comes next, `arrival_s` for those of given requests,
`sent` when one has been handed out, `answer` when requests have finished.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from jax import Array

from simjax.engine.arrivals.capped import CappedClient
from simjax.engine.arrivals.closed_loop import ClosedLoop
from simjax.engine.arrivals.open_loop import OpenLoop
from simjax.engine.arrivals.sessions import SessionCalls
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from simjax.engine.state import ClusterState
    from simjax.engine.turn import Turn

Arrivals: TypeAlias = OpenLoop | ClosedLoop | CappedClient | SessionCalls


def initial_arrivals(shape: EngineShape, params: ClusterParams) -> Arrivals:
    """Arrivals before the run."""
    if shape.capped:
        return CappedClient.begin(shape, params)
    if shape.clients:
        return ClosedLoop.begin(shape, params)
    return SessionCalls.begin(shape, params) if shape.fanout else OpenLoop()


def next_arrival_s(params: ClusterParams, state: ClusterState) -> Array:
    """Time of the next arrival, float64[]; infinity when there is none."""
    return state.arrivals.next_s(params, state.num_sent)


def answer(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Give their answers to clients and calls that wait for requests which have finished."""
    return turn.state.arrivals.answer(shape, params, turn)
