"""Finding a model by short name, Hugging Face id or file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from simjax.disk.documents import once_per_file, read_document, shipped_yaml
from simjax.disk.paths import PROFILES, in_user_folders, user_files
from simjax.errors import SimjaxError, closest
from simjax.model.hf_config import from_hf_config
from simjax.model.quantized import BESIDE, Quantization, quantized, read_beside
from simjax.model.spec import ModelSpec, without_windows

_NO_OPERATIONS = ("name", "max_position_embeddings", "sliding_window", "dtype", "quantization", "unquantized", "kv_cache_dtype")
"""Fields of a model that change none of its operations."""


def load_model(name_or_path: str | Path) -> ModelSpec:
    """The model of that short name (`llama-3.1-8b`), Hugging Face id (`meta-llama/Llama-3.1-8B`) or file.

    A file is a Hugging Face `config.json`, or YAML with the same fields, or the folder that holds a `config.json`. A file beside it that
    states a quantization (`simjax.model.quantized.BESIDE`) belongs to it, as in vLLM.

    Raises:
        SimjaxError: no such model or file, or the file does not describe a supported architecture.
    """
    text = str(name_or_path)
    path = Path(text)
    path = path / "config.json" if text and path.is_dir() else path
    if path.suffix in (".json", ".yaml", ".yml"):
        beside = next((found for name in BESIDE if (found := path.with_name(name)).is_file()), None) if path.name == "config.json" else None
        return _read(path) if beside is None else _with_quantization(_read(path), beside)
    if (own := in_user_folders(f"models/{text}.json") or in_user_folders(f"models/{text}.yaml")) is not None:
        return _read(own)
    if (found := _shipped().get(text.lower())) is not None:
        return _read(found)
    raise SimjaxError(f"unknown model '{text}'; {closest(text.lower(), model_names())} (or give the path of a Hugging Face config.json)")


def plain_name(name: str) -> str:
    """One name for all names of a model: the short name of a shipped one, else the lower-case name without its organisation."""
    known = _shipped().get(name.lower())
    return name.lower().split("/")[-1] if known is None else known.stem


def same_architecture(name: str, model: ModelSpec) -> bool:
    """Whether the model of that name has the operations of `model`, whatever its context limit and data types."""
    try:
        known = load_model(name)
    except SimjaxError:
        return name == model.name
    alike = {name: getattr(model, name) for name in _NO_OPERATIONS}
    return without_windows(replace(known, **alike)) == without_windows(model)


def model_names() -> list[str]:
    """Short names of the shipped models and of the user's."""
    own = [path.stem for kind in ("json", "yaml") for path in user_files(f"models/*.{kind}")]
    return sorted({*own, *(path.stem for path in _shipped().values())})


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Path]:
    """Lower-case short names and ids of the shipped models."""
    names: dict[str, Path] = {}
    for path in sorted((PROFILES / "models").glob("*.yaml")):
        names[path.stem] = path
        for alias in shipped_yaml(path)["names"]:
            names[alias.lower()] = path
            names.setdefault(alias.split("/")[-1].lower(), path)
    return names


@once_per_file(256)
def _read(path: Path) -> ModelSpec:
    config = read_document(path, "model file")
    if not isinstance(config, dict):
        raise SimjaxError(f"model file {path} must hold a mapping with the fields of a Hugging Face config.json")
    names = config.get("names") or [str(config.get("_name_or_path") or path.stem)]
    return from_hf_config(config, name=names[0], where=str(path))


def _with_quantization(model: ModelSpec, beside: Path) -> ModelSpec:
    """The model whose `config.json` leaves its quantization to the file beside it."""
    if model.quantization is not None:
        return model
    return _quantized(model, model.notes, _read_quantization(beside)(model))


@lru_cache(maxsize=256)
def _quantized(model: ModelSpec, notes: tuple[str, ...], found: Quantization) -> ModelSpec:
    return quantized(replace(model, notes=notes), found)  # the same object each time: clusters compare by it


@once_per_file(256)
def _read_quantization(path: Path) -> Callable[[ModelSpec], Quantization]:
    return partial(read_beside, read_document(path, "quantization file"), str(path))
