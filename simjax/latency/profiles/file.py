"""Latency profiles as YAML files, and finding the best one that is shipped."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from simjax.disk.documents import once_per_file, read_document, with_digest
from simjax.disk.files import make_folder, write_file
from simjax.disk.paths import PROFILES, in_user_folders, user_files
from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec
from simjax.latency.attention.coefficients import AttentionCoefficients
from simjax.latency.attention.roofline import AttentionEfficiency
from simjax.latency.fitting.efficiency import OpEfficiency
from simjax.latency.fitting.shape_factors import SIZE
from simjax.latency.priors import CORRECTION_TOKENS, parameter
from simjax.latency.profiles.profile import (
    ANY_DEGREE,
    Calibration,
    CollectiveEfficiency,
    HostOverheads,
    LatencyProfile,
    ParallelEffects,
    RankCoefficients,
    Seen,
    ValidRange,
)
from simjax.latency.roofline import roofline_profile
from simjax.model import ModelSpec, same_architecture

_log = logging.getLogger(__name__)

GENERIC = "generic"


def load_profile(path: str | Path) -> LatencyProfile:
    """Read a profile file.

    Raises:
        SimjaxError: the file is missing, is not YAML, or a field is missing, unknown or not a number.
    """
    return _load(Path(path))


@once_per_file(64)
def _load(path: Path) -> LatencyProfile:
    raw = read_document(path, "latency profile")
    if not isinstance(raw, dict):
        raise SimjaxError(f"latency profile {path}: expected a mapping of names to values, found {type(raw).__name__}")
    try:
        return LatencyProfile(
            device=raw["device"],
            model=raw["model"],
            dtype=raw["dtype"],
            ranks=_ranks(raw["ranks"]),
            host=_record(HostOverheads, raw["host"]),
            valid=ValidRange(**{axis: (int(low), int(high)) for axis, (low, high) in raw["valid"].items()}),
            provenance=raw["provenance"],
            source=_short(path),
            models={name: _ranks(ranks) for name, ranks in raw.get("models", {}).items()},
            collectives=_record(CollectiveEfficiency, raw.get("collectives", {})),
            parallel=_record(ParallelEffects, raw.get("parallel", {})),
            calibration=_calibration(raw["calibration"]) if "calibration" in raw else None,
            backends={name: _record(HostOverheads, host) for name, host in _backends(path, raw).items()},
            backend_ranks={name: _ranks(ranks) for name, ranks in raw.get("backend_ranks", {}).items()},
        )
    except KeyError as error:
        raise SimjaxError(f"latency profile {path}: field {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SimjaxError(f"latency profile {path}: {error}") from error


def save_profile(profile: LatencyProfile, path: str | Path) -> None:
    """Write a profile; `load_profile` gives it back, coefficients rounded to five significant digits.

    The first line is a comment with the checksum of the others; a file without it is read as it is.
    """
    raw: dict[str, Any] = {
        "device": profile.device,
        "model": profile.model,
        "dtype": profile.dtype,
        "provenance": dict(profile.provenance),
        "valid": {axis: list(bounds) for axis, bounds in asdict(profile.valid).items()},
        "host": _rounded(asdict(profile.host)),
    }
    if profile.backends:
        raw["backends"] = {name: _rounded(asdict(host)) for name, host in profile.backends.items()}
    if profile.collectives != CollectiveEfficiency():
        raw["collectives"] = _rounded(asdict(profile.collectives))
    if profile.parallel != ParallelEffects():
        raw["parallel"] = _rounded(asdict(profile.parallel))
    if profile.calibration is not None:
        raw["calibration"] = _plain_calibration(profile.calibration)
    raw["ranks"] = _plain_ranks(profile.ranks)
    if profile.backend_ranks:
        raw["backend_ranks"] = {name: _plain_ranks(ranks) for name, ranks in profile.backend_ranks.items()}
    if profile.models:
        raw["models"] = {name: _plain_ranks(ranks) for name, ranks in profile.models.items()}
    path = Path(path)
    make_folder(path.parent)
    text = yaml.dump(raw, Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True)
    write_file(path, with_digest(text), sync=True)


def find_profile(device: DeviceSpec, model: ModelSpec, tensor_parallel_size: int = 1) -> LatencyProfile:
    """The best shipped profile: the model's own if it was measured at this degree, else the device's generic one, else a roofline."""
    for path in _own_files(device):
        if same_architecture(path.stem, model):
            profile = load_profile(path)
            if tensor_parallel_size in profile.ranks:
                return profile
    return generic_profile(device)


def shipped_profiles(device: DeviceSpec) -> list[LatencyProfile]:
    """The shipped profiles of single models on a device."""
    return [load_profile(path) for path in _own_files(device)]


def generic_profile(device: DeviceSpec) -> LatencyProfile:
    """The shipped profile of a device for any model, or else a roofline."""
    name = f"latency/{device.name}/{GENERIC}.yaml"
    path = in_user_folders(name) or PROFILES / name
    return load_profile(path) if path.exists() else roofline_profile(device)


def _own_files(device: DeviceSpec) -> list[Path]:
    """The profiles of single models on a device, those in the user's folders first."""
    pattern = f"latency/{device.name}/*.yaml"
    return [path for path in [*user_files(pattern), *sorted(PROFILES.glob(pattern))] if path.stem != GENERIC]


def _backends(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """The host times of other backends, which files called `engines` once."""
    if "engines" in raw:
        _log.warning("%s: 'engines' is called 'backends' now; rename it", _short(path))
    return raw.get("engines", {}) | raw.get("backends", {})


def _short(path: Path) -> str:
    return str(path.relative_to(PROFILES)) if path.is_relative_to(PROFILES) else str(path)


def _ranks(raw: dict[Any, Any]) -> dict[int, RankCoefficients]:
    return {ANY_DEGREE if degree == "any" else int(degree): _rank(value) for degree, value in raw.items()}


def _plain_ranks(ranks: Mapping[int, RankCoefficients]) -> dict[Any, Any]:
    return {("any" if degree == ANY_DEGREE else degree): _plain_rank(rank) for degree, rank in ranks.items()}


def _calibration(raw: dict[str, Any]) -> Calibration:
    names, covariance = tuple(raw["parameters"]), tuple(tuple(map(float, line)) for line in raw["covariance"])
    for name in names:
        parameter(name)
    if len(covariance) != len(names) or any(len(line) != len(names) for line in covariance):
        raise ValueError(f"calibration.covariance must be a square of {len(names)} lines, one for each of its parameters")
    seen = {key: tuple(value) for key, value in raw["seen"].items()}
    return Calibration(names, covariance, float(raw["discrepancy"]), Seen(**seen))


def _plain_calibration(calibration: Calibration) -> dict[str, Any]:
    return {
        "parameters": list(calibration.parameters),
        "discrepancy": float(f"{calibration.discrepancy:.4g}"),
        "seen": {name: list(value) for name, value in asdict(calibration.seen).items()},
        "covariance": [[float(f"{x:.6g}") for x in line] for line in calibration.covariance],
    }


def _rank(raw: dict[str, Any]) -> RankCoefficients:
    attention = raw["attention"]
    kind = AttentionEfficiency if "prefill_compute_efficiency" in attention else AttentionCoefficients
    ops = {name: _record(OpEfficiency, _with_factors(op)) for name, op in raw["ops"].items()}
    for name, op in ops.items():
        if len(op.shape_factors) not in (0, SIZE):
            raise ValueError(f"shape_factors of {name} must be {SIZE} factors, got {len(op.shape_factors)}")
    return RankCoefficients(ops=ops, attention=_record(kind, attention), correction=_correction(raw.get("correction", [])))


def _with_factors(raw: dict[str, Any]) -> dict[str, Any]:
    """The fields of an operation; its factors by shape are a text of thousandths, which is read much faster than a list."""
    if not isinstance(text := raw.get("shape_factors"), str):
        return raw
    factors = [0.001 * int(word) for word in text.split()]
    if not all(x > 0 for x in factors):
        raise ValueError("shape_factors must be positive")
    return {**raw, "shape_factors": factors}


def _correction(raw: list[Any]) -> tuple[float, ...]:
    factors = tuple(float(x) for x in raw)
    if len(factors) not in (0, len(CORRECTION_TOKENS)) or not all(0 < x < math.inf for x in factors):
        raise ValueError(
            f"correction must be {len(CORRECTION_TOKENS)} positive factors, for steps of {CORRECTION_TOKENS} tokens, got {raw}"
        )
    return factors


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
        different = {key: value for key, value in asdict(op).items() if value != getattr(default, key)}
        factors = different.pop("shape_factors", ())
        ops[name] = _rounded(different) | ({"shape_factors": " ".join(f"{1000 * x:.0f}" for x in factors)} if len(factors) else {})
    plain = {"ops": ops, "attention": _rounded({f.name: getattr(rank.attention, f.name) for f in fields(rank.attention)})}
    return plain | ({"correction": [float(f"{x:.5g}") for x in rank.correction]} if len(rank.correction) else {})


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {
        k: [float(f"{x:.4g}") for x in v] if isinstance(v, tuple | list) else float(f"{v:.5g}") for k, v in values.items() if v is not None
    }


class _Dumper(yaml.SafeDumper):
    """Mappings in blocks, except those of plain numbers and lists, which read better on one line."""


def _represent_mapping(dumper: yaml.SafeDumper, mapping: dict[str, Any]) -> yaml.Node:
    plain = all(isinstance(v, int | float | list) or key == "shape_factors" for key, v in mapping.items())
    flow = bool(mapping) and plain
    return dumper.represent_mapping("tag:yaml.org,2002:map", mapping.items(), flow_style=flow)


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Dumper.add_representer(dict, _represent_mapping)
_Dumper.add_representer(list, _represent_list)
