"""Files of power: `profiles/power/<device>.yaml` and `profiles/power/nodes/<type of node>.yaml`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from simjax.disk.documents import once_per_file, read_document
from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec
from simjax.power.spec import DevicePower, NodePower, pooled

FOLDER = PROFILES / "power"


def device_power(device: DeviceSpec, file: Path | None = None) -> DevicePower:
    """The power of a device: of a file, else the shipped one, else a typical one scaled by its board's limit.

    Raises:
        SimjaxError: a file is malformed, or nothing is known of the device.
    """
    path = FOLDER / f"{device.name}.yaml" if file is None else file
    if file is not None or path.is_file():
        return _device(path)
    if device.tdp_w is None:
        raise SimjaxError(f"power: nothing is known of {device.name}: give power.file, or tdp_w in its device file")
    return pooled(device.tdp_w, device.idle_w)


def node_power(name: str) -> NodePower:
    """The power of a type of node without its devices; nothing where it is not known."""
    path = FOLDER / "nodes" / f"{name}.yaml"
    return _node(path) if path.is_file() else NodePower()


@once_per_file(256)
def _device(path: Path) -> DevicePower:
    return _record(DevicePower, path, ("idle_w", "standby_w", "footprint_w", "source"))


@once_per_file(256)
def _node(path: Path) -> NodePower:
    return _record(NodePower, path, ("source",))


def _record(kind: type, path: Path, required: tuple[str, ...]) -> Any:
    """The record that a file holds, one key a field.

    Raises:
        SimjaxError: a key is missing or unknown, or a value is no number.
    """
    raw, where = read_document(path, "power file"), f"power file {path}"
    if not isinstance(raw, dict):
        raise SimjaxError(f"{where} must hold a mapping like profiles/power/h100.yaml")
    names = [x.name for x in fields(kind)]
    for name in required:
        if name not in raw:
            raise SimjaxError(f"{where}: {name} is missing; profiles/power/h100.yaml shows all of them")
    found: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in names:
            raise SimjaxError(f"{where}: there is no {name}; {closest(str(name), names)}")
        try:
            found[name] = str(value) if name == "source" else float(value)
        except (TypeError, ValueError):
            raise SimjaxError(f"{where}: {name} must be a number, got {value!r}") from None
    try:
        return kind(**found)
    except SimjaxError as error:
        raise SimjaxError(f"{where}: {error}") from None
