"""Finding a device by name or file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from simjax.disk.documents import once_per_file, read_document, shipped_yaml
from simjax.disk.paths import PROFILES, user_files
from simjax.errors import SimjaxError, closest
from simjax.hardware.fields import file_named, key_of, number, optional, refuse_missing
from simjax.hardware.nodes import REQUIRED as REQUIRED_OF_NODE
from simjax.hardware.nodes import load_node, node_of
from simjax.hardware.ranges import RANGES
from simjax.hardware.spec import DeviceSpec, NodeSpec

REQUIRED = ("memory_bytes", "memory_bandwidth_bytes_per_s", "peak_flops")
"""Fields without which a device file is of no use; all others are assumed where they are missing."""
FLOPS_OF_ONE = 7.5e12
"""Peak bfloat16 FLOP/s of one multiprocessor, where their number is not stated: that of an H100's (989.4e12 / 132)."""
DEFAULT_NODE = "pcie_l40s"
"""Node of a device whose file states none: eight devices on PCIe 4.0."""
_DTYPES = ("bfloat16", "float16")


def load_device(name_or_path: str | Path) -> DeviceSpec:
    """The device of that name (`h100`, `RTXPRO6000`; case, spaces, `-` and `_` do not matter) or YAML file.

    Files `hardware/NAME.yaml` in the user's folders (`simjax.disk.paths`) come before the shipped ones.

    Raises:
        SimjaxError: no such device, or a field of its file is missing or not a number.
    """
    text = str(name_or_path)
    if (path := file_named(text)) is not None:
        return _read(path)
    shipped = _known()
    if (found := shipped.get(key_of(text))) is not None:
        return _read(found)
    raise SimjaxError(f"unknown device '{text}'; {closest(key_of(text), sorted(p.stem for p in set(shipped.values())))}")


def device_names() -> list[str]:
    """Short names of the shipped devices and of the user's."""
    return sorted({path.stem for path in _known().values()})


def _known() -> dict[str, Path]:
    return _shipped() | {key_of(path.stem): path for path in reversed(user_files("hardware/*.yaml"))}


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Path]:
    names: dict[str, Path] = {}
    for path in sorted((PROFILES / "hardware").glob("*.yaml")):
        for name in [path.stem, *shipped_yaml(path)["aliases"]]:
            names[key_of(str(name))] = path
    return names


@once_per_file(256)
def _read(path: Path) -> DeviceSpec:
    raw = read_document(path, "device file")
    if not isinstance(raw, dict):
        raise SimjaxError(f"device file {path} must hold a mapping like the files in profiles/hardware")
    _refuse_missing(path, raw)
    try:
        peaks = raw["peak_flops"] if isinstance(raw["peak_flops"], dict) else dict.fromkeys(_DTYPES, raw["peak_flops"])
        peaks = {str(dtype): _peak(str(dtype), peak) for dtype, peak in peaks.items()}
        units, node, assumed = raw.get("multiprocessors"), raw.get("node"), list[str]()
        if units is None:
            units = max(1, round(max(peaks.get(name, 0.0) for name in _DTYPES) / FLOPS_OF_ONE))
            assumed.append(f"multiprocessors ({units}, by its peak)")
        if node is None:
            assumed.append(f"its node and links ({DEFAULT_NODE})")
        return DeviceSpec(
            name=path.stem,
            aliases=tuple(str(alias).lower() for alias in raw.get("aliases") or ()),
            memory_bytes=int(number(raw, "memory_bytes")),
            memory_bandwidth_bytes_per_s=number(raw, "memory_bandwidth_bytes_per_s"),
            peak_flops=peaks,
            multiprocessors=int(number({"multiprocessors": units}, "multiprocessors")),
            tdp_w=optional(raw, "tdp_w"),
            idle_w=optional(raw, "idle_w"),
            node=load_node(DEFAULT_NODE) if node is None else _node(node, path),
            sources=dict(raw.get("sources") or {}),
            assumed=tuple(assumed),
        )
    except KeyError as error:
        raise SimjaxError(f"device file {path}: field {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SimjaxError(f"device file {path}: {error}") from error


def _refuse_missing(path: Path, raw: dict[str, Any]) -> None:
    """Raise for the fields that the file lacks, all of them at once."""
    node = raw.get("node")
    missing = [name for name in REQUIRED if raw.get(name) is None]
    missing += [f"node.{name}" for name in REQUIRED_OF_NODE if isinstance(node, dict) and name not in node]
    refuse_missing(f"device file {path}", missing, "hardware/h100.yaml")


def _node(raw: Any, path: Path) -> NodeSpec:
    """The server of a device: the name or the file of a type of node, or its fields."""
    return node_of(raw, f"{path.stem}'s node") if isinstance(raw, dict) else load_node(str(raw), beside=path)


def _peak(dtype: str, peak: Any) -> float:
    RANGES["peak_flops"].check(f"peak_flops.{dtype}", float(peak))
    return float(peak)
