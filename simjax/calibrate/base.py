"""The profile that a calibration starts from: all that is known about the device, for the measured model and for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simjax.cluster.latency_source import LatencySource
from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec
from simjax.latency.fitting.fit import fit_bundle, fit_generic
from simjax.latency.profiles.file import generic_profile, load_profile, shipped_profiles
from simjax.latency.profiles.profile import LatencyProfile
from simjax.latency.tables.bundle import bundles_of
from simjax.model import ModelSpec, same_architecture


def base_profile(source: LatencySource, device: DeviceSpec, models: Sequence[ModelSpec]) -> LatencyProfile:
    """A profile of one device for any model, with the own coefficients of those models that were measured.

    Args:
        source: a profile file; or op tables, of which all those of the device are fitted; or neither, for the shipped profiles.
        device: the device that was measured.
        models: the models that ran on it.

    Raises:
        SimjaxError: the file is for another device, there are no tables of it, or a file is malformed.
    """
    if source.bundle_root is not None:
        return _from_tables(source.bundle_root, source.variant, device, models)
    shipped = shipped_profiles(device)
    if source.profile is None:
        return _merged(generic_profile(device), shipped)
    given = load_profile(source.profile)
    if given.device not in (device.name, *device.aliases):
        raise SimjaxError(f"{given.source}: measured on {given.device}, the runs on {device.name}; calibrate a profile of {device.name}")
    if given.model is None:
        return given
    others = [p for p in shipped if p.model is not None and p.model != given.model]
    return _merged(generic_profile(device), [given, *others])


def _from_tables(root: Path, variant: str, device: DeviceSpec, models: Sequence[ModelSpec]) -> LatencyProfile:
    folders = bundles_of(root, (device.name, *device.aliases), variant)
    if not folders:
        raise SimjaxError(f"profile.bundle_root={root}: no tables of {device.name} (variant {variant}) in it")
    fitted = [fit_bundle(folder) for folder in folders]
    for model in models:
        if not any(p.model is not None and same_architecture(p.model, model) for p in fitted):
            raise SimjaxError(f"profile.bundle_root={root}: no tables of {model.name} on {device.name} in it")
    return _merged(fit_generic(folders), fitted)


def _merged(generic: LatencyProfile, own: Sequence[LatencyProfile]) -> LatencyProfile:
    """The generic profile with the models' own ranks; host times of a model's own profile do not count, they are the server's."""
    models = {p.model: p.ranks for p in own if p.model is not None}
    data = [line for p in (generic, *own) for line in p.provenance.get("data", [])]
    provenance = {"kind": generic.provenance.get("kind", "unknown"), "data": list(dict.fromkeys(data))}
    return replace(generic, models=models, provenance=provenance)
