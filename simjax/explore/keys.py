"""Keys of a sweep: which options can be swept, and which take integers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from simjax.config.explain import group_options, unknown_option
from simjax.config.schema import RunConfig
from simjax.errors import SimjaxError
from simjax.latency.priors import parameter

SEED = "workload.seed"
PARAMETERS = "profile.parameters"  # a mapping whose keys are options
_NOT_SWEPT = {
    "out": "a sweep has one directory of results; its points are rows of one table",
    "plots": "a sweep draws no plots of single points; `simjax show-point DIR i` draws those of one",
    "timeline_interval_s": "a sweep writes no timelines of single points",
    "sweep": "it is an option of the sweep itself",
    "objective": "it is the same for all points; `simjax pareto` takes another one afterwards",
    "uncertainty": "a sweep has no intervals; simulate a point of it as a single run with uncertainty.draws",
    "hydra": "Hydra's own settings are the same for all points",
}


def canonical(key: str) -> str:
    """The key that a user's spelling stands for: `profile` is short for `profile.file`, and Hydra's prefix `++` makes no difference."""
    key = key.removeprefix("++")
    return "profile.file" if key == "profile" else key


def check_key(key: str) -> None:
    """Raise for a key that cannot be swept.

    Raises:
        SimjaxError: there is no such option, it is a group of options, or it cannot differ between points.
    """
    if not re.fullmatch(r"\w+([./]\w+)*", key):
        raise SimjaxError(f"'{key}' cannot be swept: a key looks like scheduler.max_num_seqs")
    root = re.split(r"[./]", key)[0]
    if root in _NOT_SWEPT:
        raise SimjaxError(f"{key} cannot be swept: {_NOT_SWEPT[root]}")
    if group_options(key):
        return
    if key.startswith(f"{PARAMETERS}."):
        try:
            parameter(key.removeprefix(f"{PARAMETERS}."))
        except SimjaxError as error:
            raise SimjaxError(f"{PARAMETERS}: {error}") from None
        return
    kind = _types().get(key)
    if kind is None or is_dataclass(kind):
        raise SimjaxError(unknown_option(RunConfig, key))


def takes_integers(key: str) -> bool:
    """Whether an option takes an integer, so that 64.0 has to be written 64."""
    return _types().get(key) is int


@cache
def _types() -> dict[str, Any]:
    """The type of every option of `simjax run`, without `| None`."""

    def walk(kind: type, prefix: str) -> Iterator[tuple[str, Any]]:
        for field in fields(kind):
            bare = next(x for x in get_args(field.type) if x is not type(None)) if get_origin(field.type) is UnionType else field.type
            yield f"{prefix}{field.name}", bare
            if isinstance(bare, type) and is_dataclass(bare):
                yield from walk(bare, f"{prefix}{field.name}.")

    return dict(walk(RunConfig, ""))


def refuse_interpolated(keys: Iterable[str], config: DictConfig) -> None:
    """Raise if an interpolation reads a swept key: points set their values later, so it would keep the value of the base.

    Args:
        keys: the swept keys.
        config: the composed configuration with its interpolations unresolved.

    Raises:
        SimjaxError: the message names the swept key and the one that refers to it.
    """
    keys = list(keys)
    for reference, where in _references(OmegaConf.to_container(config, resolve=False), ()):
        if any(_within(where, key) for key in keys):
            continue  # its own swept values replace the interpolation
        for key in keys:
            if _within(key, reference) or _within(reference, key):
                raise SimjaxError(f"{key} cannot be swept: {where} refers to it (${{{reference}}}); write out {where}, or sweep both")


def _within(key: str, parent: str) -> bool:
    return key == parent or key.startswith(f"{parent}.")


def _references(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """All pairs (key referred to, key that holds the interpolation)."""
    if isinstance(node, dict):
        for key, inner in node.items():
            yield from _references(inner, (*path, str(key)))
    elif isinstance(node, list):
        for number, inner in enumerate(node):
            yield from _references(inner, (*path, str(number)))
    elif isinstance(node, str):
        for text in re.findall(r"\$\{([^${}:]+)\}", node):
            name = re.sub(r"\[(\w+)\]", r".\1", text.strip())
            dots = len(name) - len(name.lstrip("."))
            yield ".".join((*(path[: len(path) - dots] if dots else ()), name.lstrip("."))), ".".join(path)
