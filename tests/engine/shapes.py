"""A runtime checker of the engine's shape annotations.

The engine's annotations are strings whose jaxtyping names are imported for type checkers only. Here they are resolved, and held against
the arrays, traced ones included: every leaf of the records that stages hand on (`checked_stage`, `check_record`), with the sizes that the
letters of the legend have in an `EngineShape`; and the arguments and results of functions that name shapes (`checked_functions`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import beartype
import jaxtyping
import numpy as np
from jaxtyping import AbstractArray, Bool, jaxtyped

import simjax.engine
from simjax.engine.accounting.leap_log import LeapRows
from simjax.engine.columns import recorded
from simjax.engine.host.result import HandoverLog, LeapLog, RequestLog
from simjax.engine.kv.block_pool import LEAVER
from simjax.engine.params import PrefixParams, SessionParams
from simjax.engine.scheduler.departure import Departed
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.turn import LATER, Turn
from simjax.network.paths import LONGEST_PATH

HOST = "simjax.engine.host"  # records of numpy arrays on the host, without shapes in their annotations
Dims = dict[str, int | tuple[int, ...]]
Stage = Callable[[EngineShape, Any, Turn], Turn]


@functools.cache
def engine_modules() -> tuple[types.ModuleType, ...]:
    names = [x.name for x in pkgutil.walk_packages(simjax.engine.__path__, "simjax.engine.")]
    return tuple(importlib.import_module(name) for name in names)


@functools.cache
def _namespace() -> dict[str, Any]:
    """Names that annotations use without importing them: those of jaxtyping, and the classes of the engine."""
    found = {name: getattr(jaxtyping, name) for name in ("Bool", "Float64", "Int32", "Int64")}
    for module in engine_modules():
        found |= {name: x for name, x in vars(module).items() if isinstance(x, type) and x.__module__ == module.__name__}
    return found


@functools.cache
def hints(of: Any) -> dict[str, Any]:
    """Resolved annotations of a class or function."""
    return typing.get_type_hints(of, vars(importlib.import_module(of.__module__)), _namespace())


# ---- records


def check_record(shape: EngineShape, record: Any, where: str) -> None:
    """Hold every leaf of a record of the whole cluster against its annotation.

    Raises:
        TypeError: a leaf has another shape, data type or class; the message names it.
    """
    _check(record, _cluster_dims(shape), shape, where)


def checked_stage(stage: Stage) -> Stage:
    """The stage, with the turn checked before and after it."""

    @functools.wraps(stage)
    def checked(shape: EngineShape, params: Any, turn: Turn) -> Turn:
        check_record(shape, params, f"{stage.__name__}: params")
        check_turn(shape, turn, f"before {stage.__name__}: turn")
        after = stage(shape, params, turn)
        check_turn(shape, after, f"after {stage.__name__}: turn")
        return after

    return checked


def check_turn(shape: EngineShape, turn: Turn, where: str) -> None:
    """Hold the fields of a turn that are set so far against their annotations; all but the state are records of one rank."""
    for field in dataclasses.fields(turn):
        value = getattr(turn, field.name)
        if value is not LATER:
            dims = _cluster_dims(shape) if isinstance(value, ClusterState) else _rank_dims(shape)
            with jaxtyped("context"):  # pyright: ignore[reportCallIssue, reportGeneralTypeIssues]
                _bind(dims)
                _check_value(value, hints(Turn)[field.name], dims, shape, f"{where}.{field.name}")


def _cluster_dims(shape: EngineShape) -> Dims:
    """Sizes of the letters where every rank has a row."""
    sizes = {"R": shape.requests, "N": shape.ranks, "A": shape.seats, "W": shape.window, "C": shape.clients, "D": shape.fanout}
    sizes |= {
        "P": shape.prefix_path,
        "E": shape.prefix_entries,
        "Z": shape.prefix_holds,
        "M": shape.prefix_nodes,
        "L": shape.requests + shape.window if shape.has_routes else 0,
    }
    sizes |= {"F": len(recorded(RequestLog, shape))}
    sizes |= {"K": shape.handovers, "X": shape.links, "G": len(recorded(HandoverLog, shape)), "H": LONGEST_PATH}
    sizes |= {"B": LEAVER + 2 * bool(shape.kv_tiers), "U": shape.speculation, "Y": 3}
    sizes |= {"J": shape.pipeline_stages, "Q": shape.batches}
    return {**sizes, "*N": (shape.ranks,), "*A": (shape.ranks, shape.seats)}


def _rank_dims(shape: EngineShape) -> Dims:
    """Sizes of the letters in the records of one rank."""
    return {**_cluster_dims(shape), "*N": (), "*A": (shape.seats,)}


def _dims_of(record: Any, dims: Dims, shape: EngineShape) -> Dims:
    """Sizes of the letters in a record, which may use some in a sense of its own."""
    own: dict[type, Dims] = {
        Departed: {"*A": ()},
        LeapRows: {"K": shape.log_rows + 1, "F": len(recorded(LeapLog, shape))},
        PrefixParams: {"M": shape.prefix_nodes},
    }
    dims = dims | own.get(type(record), {})
    unlike = {PrefixParams: "K", SessionParams: "X"}.get(type(record))  # there the entries of all paths, and the pairs of calls
    return {name: size for name, size in dims.items() if name != unlike}


def _bind(dims: Dims) -> None:
    """Give the letters their sizes in the current context of jaxtyping."""
    for name, size in dims.items():
        array = np.empty(size if isinstance(size, tuple) else (size,), bool)
        assert isinstance(array, Bool[np.ndarray, name])


def _check(record: Any, dims: Dims, shape: EngineShape, where: str) -> None:
    """Check a record in a context of its own."""
    dims = _dims_of(record, dims, shape)
    with jaxtyped("context"):  # pyright: ignore[reportCallIssue, reportGeneralTypeIssues]
        _bind(dims)
        declared = hints(type(record))
        for field in dataclasses.fields(record):
            _check_value(getattr(record, field.name), declared[field.name], dims, shape, f"{where}.{field.name}")


def _check_value(value: Any, declared: Any, dims: Dims, shape: EngineShape, where: str) -> None:
    if declared is Any:
        return
    if not _is_one(value, declared):
        raise TypeError(f"{where}: {_described(value)} is not {_named(declared)} with {dims}")
    if dataclasses.is_dataclass(value):
        _check(value, dims, shape, where)


def _is_one(value: Any, declared: Any) -> bool:
    """Whether a value is of a class, or of one of the classes of a union."""
    return any(isinstance(value, x) for x in typing.get_args(declared) or (declared,))


def _described(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__


def _named(declared: Any) -> str:
    """The annotation as its source has it."""
    parts = typing.get_args(declared) or (declared,)
    return " | ".join(f"{x.dtypes[0]}[{x.dim_str}]" if _is_shape(x) else getattr(x, "__name__", str(x)) for x in parts)


# ---- functions


def _is_shape(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, AbstractArray)


def names_a_shape(annotation: Any) -> bool:
    """Whether an annotation has one of jaxtyping in it."""
    return _is_shape(annotation) or any(names_a_shape(x) for x in typing.get_args(annotation))


def checked_functions() -> Iterator[tuple[Any, str, Any]]:
    """Places (module or class, name) of the functions and methods of the engine that name shapes, and what checks each while it runs."""
    checked: dict[Any, Any] = {}
    for module in engine_modules():
        if module.__name__.startswith(HOST):
            continue
        for name, value in vars(module).items():
            if (
                inspect.isfunction(value)
                and value.__module__.startswith("simjax.engine")
                and any(map(names_a_shape, hints(value).values()))
            ):
                if value not in checked:
                    checked[value] = _checked(value)
                yield module, name, checked[value]
            if isinstance(value, type) and value.__module__ == module.__name__ and dataclasses.is_dataclass(value):
                yield from _checked_methods(value)


def _checked_methods(of: type) -> Iterator[tuple[Any, str, Any]]:
    for name, value in vars(of).items():
        function = value.fget if isinstance(value, property) else value
        if inspect.isfunction(function) and not name.startswith("__") and any(map(names_a_shape, hints(function).values())):
            checked = _checked(function)
            yield of, name, property(checked) if isinstance(value, property) else checked


def _checked(function: Any) -> Any:
    """The function with its annotations resolved, and enforced in a context of jaxtyping of its own."""
    resolved = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    resolved.__kwdefaults__, resolved.__qualname__ = function.__kwdefaults__, function.__qualname__
    resolved.__annotations__ = dict(hints(function))
    resolved.__module__ = function.__module__
    return jaxtyped(typechecker=beartype.beartype)(resolved)
