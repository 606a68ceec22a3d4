"""What a calibration begins with."""

from dataclasses import replace
from pathlib import Path

import pytest

from simjax.calibrate.base import base_profile
from simjax.cluster.latency_source import LatencySource
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.profiles.file import generic_profile, load_profile, save_profile, shipped_profiles
from simjax.model import load_model
from tests.data import data_path

DEVICE = load_device("rtx_pro_6000")
LLAMA = load_model("llama-3.1-8b")


def test_shipped_profiles() -> None:
    base, generic = base_profile(LatencySource(), DEVICE, [LLAMA]), generic_profile(DEVICE)
    own = {p.model: p for p in shipped_profiles(DEVICE) if p.model is not None}
    assert own
    assert base.model is None
    assert base.ranks == generic.ranks
    assert base.host == generic.host
    assert base.models == {name: p.ranks for name, p in own.items()}
    assert len(base.provenance["data"]) == len(set(base.provenance["data"])) > 0


def test_the_file_of_one_model(tmp_path: Path) -> None:
    own = {p.model: p for p in shipped_profiles(DEVICE) if p.model is not None}
    name = next(iter(own))
    host = replace(own[name].host, step_s=0.5)  # the server's, not the model's
    ranks = {degree: replace(rank, attention=replace(rank.attention, decode_skew=0.123)) for degree, rank in own[name].ranks.items()}
    save_profile(replace(own[name], host=host, ranks=ranks), tmp_path / "mine.yaml")
    base = base_profile(LatencySource(profile=tmp_path / "mine.yaml"), DEVICE, [LLAMA])
    assert base.model is None
    assert base.host == generic_profile(DEVICE).host
    assert base.models[name] == load_profile(tmp_path / "mine.yaml").ranks != own[name].ranks
    assert {k: v for k, v in base.models.items() if k != name} == {k: p.ranks for k, p in own.items() if k != name}


def test_the_file_of_any_model_is_taken_as_it_is(tmp_path: Path) -> None:
    save_profile(generic_profile(DEVICE), tmp_path / "any.yaml")
    base = base_profile(LatencySource(profile=tmp_path / "any.yaml"), DEVICE, [LLAMA])
    assert base == load_profile(tmp_path / "any.yaml")
    assert not base.models


def test_the_file_of_another_device(tmp_path: Path) -> None:
    save_profile(generic_profile(load_device("h100")), tmp_path / "h100.yaml")
    with pytest.raises(SimjaxError, match="measured on h100, the runs on rtx_pro_6000; calibrate a profile of rtx_pro_6000"):
        base_profile(LatencySource(profile=tmp_path / "h100.yaml"), DEVICE, [LLAMA])


def test_no_tables(tmp_path: Path) -> None:
    with pytest.raises(SimjaxError, match=r"no tables of rtx_pro_6000 \(variant bf16\) in it"):
        base_profile(LatencySource(bundle_root=tmp_path), DEVICE, [LLAMA])


def test_tables() -> None:
    root = data_path("llmservingsim/profiles")
    device = load_device("rtx_4090")
    base = base_profile(LatencySource(bundle_root=root), device, [LLAMA])
    assert base.model is None
    assert base.device == device.name
    assert [name.split("/")[-1] for name in base.models] == ["Llama-3.1-8B"]
    with pytest.raises(SimjaxError, match=r"no tables of .*[Mm]ixtral.* on rtx_4090 in it"):
        base_profile(LatencySource(bundle_root=root), device, [load_model("mixtral-8x7b")])
