"""Latency profiles as YAML files, and finding the best one that is shipped."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml

from simjax.documents import read_document
from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec
from simjax.latency.attention import AttentionCoefficients
from simjax.latency.attention_roofline import AttentionEfficiency
from simjax.latency.efficiency import OpEfficiency
from simjax.latency.profile import ANY_DEGREE, HostOverheads, LatencyProfile, RankCoefficients, ValidRange
from simjax.latency.roofline import roofline_profile
from simjax.model import ModelSpec, load_model
from simjax.paths import PROFILES

GENERIC = "generic"


def load_profile(path: str | Path) -> LatencyProfile:
    """Read a profile file.

    Raises:
        SimjaxError: the file is missing, is not YAML, or a field is missing, unknown or not a number.
    """
    path = Path(path)
    raw = read_document(path, "latency profile")
    if not isinstance(raw, dict):
        raise SimjaxError(f"latency profile {path}: expected a mapping of names to values, found {type(raw).__name__}")
    try:
        return LatencyProfile(
            device=raw["device"],
            model=raw["model"],
            dtype=raw["dtype"],
            ranks={ANY_DEGREE if key == "any" else int(key): _rank(value) for key, value in raw["ranks"].items()},
            host=_record(HostOverheads, raw["host"]),
            valid=ValidRange(**{axis: (int(low), int(high)) for axis, (low, high) in raw["valid"].items()}),
            provenance=raw["provenance"],
            source=_short(path),
        )
    except KeyError as error:
        raise SimjaxError(f"latency profile {path}: field {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SimjaxError(f"latency profile {path}: {error}") from error


def save_profile(profile: LatencyProfile, path: str | Path) -> None:
    """Write a profile; `load_profile` gives it back, coefficients rounded to five significant digits."""
    ranks = {("any" if degree == ANY_DEGREE else degree): _plain_rank(rank) for degree, rank in profile.ranks.items()}
    raw = {
        "device": profile.device,
        "model": profile.model,
        "dtype": profile.dtype,
        "provenance": dict(profile.provenance),
        "valid": {axis: list(bounds) for axis, bounds in asdict(profile.valid).items()},
        "host": _rounded(asdict(profile.host)),
        "ranks": ranks,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.dump(raw, Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True))


def find_profile(device: DeviceSpec, model: ModelSpec, tensor_parallel_size: int = 1) -> LatencyProfile:
    """The best shipped profile: the model's own if it was measured at this degree, else the device's generic one, else a roofline."""
    folder = PROFILES / "latency" / device.name
    for path in sorted(folder.glob("*.yaml")):
        if path.stem != GENERIC and _same_architecture(path.stem, model):
            profile = load_profile(path)
            if tensor_parallel_size in profile.ranks:
                return profile
    generic = folder / f"{GENERIC}.yaml"
    return load_profile(generic) if generic.exists() else roofline_profile(device)


def _same_architecture(short_name: str, model: ModelSpec) -> bool:
    """Whether the shipped model of that name has the same operations, whatever its name and context limit."""
    shipped = load_model(short_name)
    return replace(shipped, name=model.name, max_position_embeddings=model.max_position_embeddings, dtype=model.dtype) == model


def _short(path: Path) -> str:
    return str(path.relative_to(PROFILES)) if path.is_relative_to(PROFILES) else str(path)


def _rank(raw: dict[str, Any]) -> RankCoefficients:
    attention = raw["attention"]
    kind = AttentionEfficiency if "prefill_compute_efficiency" in attention else AttentionCoefficients
    return RankCoefficients(ops={name: _record(OpEfficiency, op) for name, op in raw["ops"].items()}, attention=_record(kind, attention))


def _record(kind: Any, raw: dict[str, Any]) -> Any:
    names = [f.name for f in fields(kind)]
    for name, value in raw.items():
        if name not in names:
            raise ValueError(f"unknown field '{name}'; {closest(name, names)}")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"{name} must be a number, got {number!r}")
    return kind(**{name: tuple(map(float, value)) if isinstance(value, list) else float(value) for name, value in raw.items()})


def _plain_rank(rank: RankCoefficients) -> dict[str, Any]:
    default = OpEfficiency()
    ops = {}
    for name, op in rank.ops.items():
        ops[name] = _rounded({key: value for key, value in asdict(op).items() if value != getattr(default, key)})
    return {"ops": ops, "attention": _rounded({f.name: getattr(rank.attention, f.name) for f in fields(rank.attention)})}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: [float(f"{x:.4g}") for x in v] if isinstance(v, tuple | list) else float(f"{v:.5g}") for k, v in values.items()}


class _Dumper(yaml.SafeDumper):
    """Mappings in blocks, except those of plain numbers and lists, which read better on one line."""


def _represent_mapping(dumper: yaml.SafeDumper, mapping: dict[str, Any]) -> yaml.Node:
    flow = bool(mapping) and all(isinstance(v, int | float | list) for v in mapping.values())
    return dumper.represent_mapping("tag:yaml.org,2002:map", mapping.items(), flow_style=flow)


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Dumper.add_representer(dict, _represent_mapping)
_Dumper.add_representer(list, _represent_list)
