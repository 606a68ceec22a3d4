"""Finding a device by name or file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from simjax.documents import once_per_file, read_document
from simjax.errors import SimjaxError, closest
from simjax.hardware.ranges import RANGES
from simjax.hardware.spec import DeviceSpec, LinkSpec, NodeSpec
from simjax.paths import PROFILES

_REQUIRED = ("aliases", "memory_bytes", "memory_bandwidth_bytes_per_s", "peak_flops", "multiprocessors", "node", "sources")
_REQUIRED_OF_NODE = ("devices_per_node", "intra_link", "inter_link")


def load_device(name_or_path: str | Path) -> DeviceSpec:
    """The device of that name (`h100`, `RTXPRO6000`; case, spaces, `-` and `_` do not matter) or YAML file.

    Raises:
        SimjaxError: no such device, or a field of its file is missing or not a number.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        return _read(Path(text))
    shipped = _shipped()
    if (found := shipped.get(_key(text))) is not None:
        return _read(found)
    raise SimjaxError(f"unknown device '{text}'; {closest(_key(text), sorted(p.stem for p in set(shipped.values())))}")


def device_names() -> list[str]:
    """Short names of the shipped devices."""
    return sorted({path.stem for path in _shipped().values()})


def _key(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Path]:
    names: dict[str, Path] = {}
    for path in sorted((PROFILES / "hardware").glob("*.yaml")):
        for name in [path.stem, *yaml.safe_load(path.read_text())["aliases"]]:
            names[_key(str(name))] = path
    return names


@once_per_file(256)
def _read(path: Path) -> DeviceSpec:
    raw = read_document(path, "device file")
    if not isinstance(raw, dict):
        raise SimjaxError(f"device file {path} must hold a mapping like the files in profiles/hardware")
    _refuse_missing(path, raw)
    try:
        return DeviceSpec(
            name=path.stem,
            aliases=tuple(str(alias).lower() for alias in raw["aliases"]),
            memory_bytes=int(_number(raw, "memory_bytes")),
            memory_bandwidth_bytes_per_s=_number(raw, "memory_bandwidth_bytes_per_s"),
            peak_flops={str(dtype): _peak(str(dtype), peak) for dtype, peak in raw["peak_flops"].items()},
            multiprocessors=int(_number(raw, "multiprocessors")),
            tdp_w=_optional(raw, "tdp_w"),
            idle_w=_optional(raw, "idle_w"),
            node=_node(raw["node"]),
            sources=dict(raw["sources"]),
        )
    except KeyError as error:
        raise SimjaxError(f"device file {path}: field {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SimjaxError(f"device file {path}: {error}") from error


def _refuse_missing(path: Path, raw: dict[str, Any]) -> None:
    """Raise for the fields that the file lacks, all of them at once."""
    node = raw.get("node")
    missing = [name for name in _REQUIRED if name not in raw]
    missing += [f"node.{name}" for name in _REQUIRED_OF_NODE if isinstance(node, dict) and name not in node]
    if len(missing) == 1:
        raise SimjaxError(f"device file {path}: field '{missing[0]}' is missing")
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        raise SimjaxError(f"device file {path}: fields {names} are missing; profiles/hardware/h100.yaml has all of them")


def _number(raw: dict[str, Any], key: str) -> float:
    try:
        value = float(raw[key])
    except (TypeError, ValueError):
        value = -1.0
    if value < 0:
        raise ValueError(f"{key} must be a number that is not negative, got {raw[key]!r}")
    RANGES[key].check(key, value)
    return value


def _peak(dtype: str, peak: Any) -> float:
    RANGES["peak_flops"].check(f"peak_flops.{dtype}", float(peak))
    return float(peak)


def _optional(raw: dict[str, Any], key: str) -> float | None:
    return None if raw.get(key) is None else _number(raw, key)


def _node(raw: dict[str, Any]) -> NodeSpec:
    return NodeSpec(
        devices_per_node=int(_number(raw, "devices_per_node")),
        intra_link=_link(raw, "intra_link"),
        inter_link=_link(raw, "inter_link"),
        cpu_memory_bytes=None if raw.get("cpu_memory_bytes") is None else int(_number(raw, "cpu_memory_bytes")),
        cpu_memory_bandwidth_bytes_per_s=_optional(raw, "cpu_memory_bandwidth_bytes_per_s"),
    )


def _link(node: dict[str, Any], key: str) -> LinkSpec:
    raw = node[key]
    return LinkSpec(_number(raw, "bandwidth_bytes_per_s"), _number(raw, "latency_s"), _optional(raw, "endpoint_s") or 0.0)
