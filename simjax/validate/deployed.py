"""The ranks, experts and drafts of a measured run: as it records them, or as the configuration has them instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from simjax.backend.releases import drafting_rules
from simjax.cluster.configured.groups import experts_of
from simjax.cluster.instance import InstanceSpec
from simjax.config.cluster import ClusterConfig, MeasuredClusterConfig
from simjax.errors import SimjaxError
from simjax.model import ModelSpec, load_model
from simjax.parallel.parallelism import Parallelism
from simjax.speculation.config import MeasuredSpeculationConfig
from simjax.speculation.methods import DRAFT_MODEL, EAGLE, METHODS, MTP, MTP_RATES, Speculation
from simjax.validate.run import MeasuredRun

_SIZES = {"data": ("data_parallel_size", "dp_size"), "pipeline": ("pipeline_parallel_size", "pp_size")}
_DRAFTS = ("speculative_config",)
RATES = "speculation.synthetic_acceptance_rates=[...] simulates it"


def parallelism_of(measured: MeasuredRun, config: MeasuredClusterConfig, model: ModelSpec) -> Parallelism:
    """The parallel sizes of each measured instance, with the configuration's overrides.

    Raises:
        SimjaxError: a recorded size is no whole number, or the sizes do not go together.
    """
    recorded = {x.name: x.value for x in measured.unsimulated}

    def size(kind: str) -> int:
        given = getattr(config, f"{kind}_parallel_size")
        name = next((name for name in _SIZES[kind] if name in recorded), None)
        return given or (1 if name is None else _whole(measured, name, recorded[name]))

    tensor, data = config.tensor_parallel_size or measured.tensor_parallel_size, size("data")
    shared = recorded.get("enable_expert_parallel") if config.enable_expert_parallel is None else config.enable_expert_parallel
    shared = model.is_moe and bool(shared)
    balanced = shared and bool(recorded.get("enable_eplb"))
    experts = experts_of(
        ClusterConfig(
            enable_eplb=balanced,
            enable_dbo=bool(recorded.get("enable_dbo")),
            expert_popularity=config.expert_popularity,
            expert_zipf_exponent=config.expert_zipf_exponent,
            all2all_backend=config.all2all_backend,
        )
    )
    return Parallelism(tensor, size("pipeline"), data, tensor * data if shared else 1, experts=experts)


def drafts_of(measured: MeasuredRun, config: MeasuredSpeculationConfig, release: str) -> Speculation | None:
    """The speculative decoding of a measured run, by the rules of a release; None where it records none, or not enough to simulate it.

    Raises:
        SimjaxError: the rates are out of range or too few, or a draft model is unknown.
    """
    raw = _speculative_config(measured)
    method = None if raw is None else _method(raw)
    drafts = None if raw is None else raw.get("num_speculative_tokens")
    if raw is None or method is None or not isinstance(drafts, int):
        return None
    stated = raw.get("synthetic_acceptance_rates")
    rates = tuple(config.synthetic_acceptance_rates) or tuple(stated or ()) or (MTP_RATES if method == MTP else ())
    if not rates:
        return None
    model = load_model(str(raw.get("model"))) if method == DRAFT_MODEL else None
    return Speculation(method, drafts, rates, model, config.seed, **drafting_rules(release))


def simulated(name: str, value: Any, instance: InstanceSpec) -> bool:
    """Whether the simulation of an instance has a recorded setting."""
    parallelism, model = instance.parallelism, instance.model
    kind = next((kind for kind, names in _SIZES.items() if name in names), None)
    if kind is not None:
        return getattr(parallelism, kind) == _number(value)
    if name == "enable_expert_parallel":  # of dense models vLLM takes no notice of it
        return not model.is_moe or parallelism.expert == parallelism.tensor * parallelism.data
    if name in ("enable_eplb", "enable_dbo"):
        return getattr(parallelism.experts, name.removeprefix("enable_"))
    return name in _DRAFTS and instance.speculation is not None


def _speculative_config(measured: MeasuredRun) -> Mapping[str, Any] | None:
    """The mapping, which command lines have as a text."""
    value = next((x.value for x in measured.unsimulated if x.name in _DRAFTS), None)
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, Mapping) else None


def _method(raw: Mapping[str, Any]) -> str | None:
    """A name that vLLM has for a method as one of `METHODS`; None for one that is not simulated."""
    name = str(raw.get("method") or (DRAFT_MODEL if raw.get("model") else "")).lower()
    if name == "eagle3":
        return EAGLE
    return MTP if name.endswith("_mtp") else name if name in METHODS else None


def _number(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if text.isdigit() else None


def _whole(measured: MeasuredRun, name: str, value: Any) -> int:
    found = _number(value)
    if found is None:
        raise SimjaxError(f"{measured.source}: {name}={value!r} is not a whole number; cluster.{_option(name)}=N states it")
    return found


def _option(name: str) -> str:
    return next(names[0] for names in _SIZES.values() if name in names)
