"""Finding a type of node by name or file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from simjax.disk.documents import once_per_file, read_document
from simjax.disk.paths import PROFILES, user_files
from simjax.errors import SimjaxError, closest
from simjax.hardware.fields import file_named, key_of, number, optional, refuse_missing
from simjax.hardware.spec import LinkSpec, NodeSpec

REQUIRED = ("devices_per_node", "intra_link", "inter_link")


def load_node(name_or_path: str | Path, beside: Path | None = None) -> NodeSpec:
    """The type of node of that name (`hgx_h100`; case, spaces, `-` and `_` do not matter) or YAML file.

    Args:
        name_or_path: the name, or a path that ends in .yaml.
        beside: file to which the path is relative; None for the working directory.

    Raises:
        SimjaxError: no such type, or a field of its file is missing or not a number.
    """
    text = str(name_or_path)
    if (path := file_named(text, beside)) is not None:
        return _read(path)
    if (found := _known().get(key_of(text))) is not None:
        return _read(found)
    raise SimjaxError(f"unknown type of node '{text}'; {closest(text.lower(), node_names())}")


def node_names() -> list[str]:
    """Names of the shipped types of node and of the user's."""
    return sorted(path.stem for path in _known().values())


def node_of(raw: dict[str, Any], name: str) -> NodeSpec:
    """The type of node that a mapping describes.

    Raises:
        ValueError, KeyError, TypeError: a field is missing or wrong.
    """
    adapters, memory = optional(raw, "nics_per_node"), optional(raw, "cpu_memory_bytes")
    return NodeSpec(
        devices_per_node=int(number(raw, "devices_per_node")),
        intra_link=_link(raw, "intra_link"),
        inter_link=_link(raw, "inter_link"),
        nics_per_node=None if adapters is None else int(adapters),  # type: ignore[arg-type]  # one for each device
        cpu_memory_bytes=None if memory is None else int(memory),
        cpu_memory_bandwidth_bytes_per_s=optional(raw, "cpu_memory_bandwidth_bytes_per_s"),
        name=name,
        sources=dict(raw.get("sources") or {}),
    )


def _known() -> dict[str, Path]:
    return _shipped() | {key_of(path.stem): path for path in reversed(user_files("nodes/*.yaml"))}


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Path]:
    return {key_of(path.stem): path for path in sorted((PROFILES / "nodes").glob("*.yaml"))}


@once_per_file(256)
def _read(path: Path) -> NodeSpec:
    raw = read_document(path, "node file")
    if not isinstance(raw, dict):
        raise SimjaxError(f"node file {path} must hold a mapping like the files in profiles/nodes")
    refuse_missing(f"node file {path}", [name for name in REQUIRED if name not in raw], "nodes/hgx_h100.yaml")
    try:
        return node_of(raw, path.stem)
    except KeyError as error:
        raise SimjaxError(f"node file {path}: field {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SimjaxError(f"node file {path}: {error}") from error


def _link(node: dict[str, Any], key: str) -> LinkSpec:
    raw = node[key]
    if not isinstance(raw, dict):
        raise ValueError(f"{key} must be a mapping with bandwidth_bytes_per_s and latency_s")
    shares = {name: value for name in ("efficiency", "duplex") if (value := optional(raw, name)) is not None}
    return LinkSpec(number(raw, "bandwidth_bytes_per_s"), number(raw, "latency_s"), optional(raw, "endpoint_s") or 0.0, **shares)
