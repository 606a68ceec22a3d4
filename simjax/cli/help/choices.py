"""The values that an option can take, from the code that reads it and from the files that are shipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import yaml

from simjax.config.compose import GROUPS
from simjax.config.explain import group_options
from simjax.disk.paths import CONF, in_user_folders


def choices(command: str, key: str) -> Sequence[str]:
    """The values of an option; none where it takes numbers, paths or text."""
    found = _CHOICES.get(f"{command}: {key}") or _CHOICES.get(key)
    return () if found is None else tuple(found())


def presets(command: str) -> dict[str, str]:
    """The groups of presets that a command has, with the preset that it takes by default, from conf/COMMAND.yaml."""
    defaults = yaml.safe_load((CONF / f"{command}.yaml").read_text(encoding="utf-8"))["defaults"]
    return {group: name for entry in defaults if isinstance(entry, dict) for group, name in entry.items() if group in GROUPS}


def preset_titles(group: str) -> dict[str, str]:
    """The presets of a group with the first sentence of the comment that heads their files."""
    files = {name: in_user_folders(f"{group}/{name}.yaml") or CONF / group / f"{name}.yaml" for name in group_options(group)}
    return {name: _title(path.read_text(encoding="utf-8")) for name, path in files.items()}


def metric_names() -> Sequence[str]:
    """The columns of results.csv that are metrics."""
    from simjax.metrics.catalog import CATALOG

    return tuple(CATALOG)


def _title(text: str) -> str:
    comment = " ".join(line.removeprefix("#").strip() for line in text.partition("\ndefaults:")[0].splitlines())
    return comment.partition(". ")[0].removesuffix(".")


def _models() -> Sequence[str]:
    from simjax.model import model_names

    return model_names()


def _devices() -> Sequence[str]:
    from simjax.hardware import device_names

    return device_names()


def _routers() -> Sequence[str]:
    from simjax.cluster.routers import ROUTERS

    return tuple(ROUTERS)


def _releases() -> Sequence[str]:
    from simjax.backend.releases import KNOWN

    return KNOWN


def _connectors() -> Sequence[str]:
    from simjax.cluster.disaggregation import CONNECTORS

    return tuple(CONNECTORS)


def _sharings() -> Sequence[str]:
    from simjax.cluster.disaggregation import SHARINGS

    return SHARINGS


def _scheduling_policies() -> Sequence[str]:
    from simjax.config.scheduler import SCHEDULING_POLICIES

    return SCHEDULING_POLICIES


def _cudagraph_modes() -> Sequence[str]:
    from simjax.cluster.instance import CUDAGRAPH_MODES

    return tuple(CUDAGRAPH_MODES)


def _dtypes() -> Sequence[str]:
    from simjax.model.dtypes import SERVED_DTYPES

    return SERVED_DTYPES


def _kv_cache_dtypes() -> Sequence[str]:
    from simjax.model.dtypes import KV_CACHE_DTYPES

    return KV_CACHE_DTYPES


def _kinds() -> Sequence[str]:
    from simjax.workload.config import KINDS

    return KINDS


def _formats() -> Sequence[str]:
    from simjax.workload.formats import FORMATS

    return "auto", *FORMATS


def _bad_rows() -> Sequence[str]:
    from simjax.workload.config import BAD_ROWS

    return BAD_ROWS


def _unanswered() -> Sequence[str]:
    from simjax.workload.config import UNANSWERED

    return UNANSWERED


def _clocks() -> Sequence[str]:
    from simjax.workload.config import CLOCKS

    return CLOCKS


def _pauses() -> Sequence[str]:
    from simjax.workload.config import THINK_KINDS

    return THINK_KINDS


def _distributions() -> Sequence[str]:
    from simjax.workload.config import DISTRIBUTIONS

    return DISTRIBUTIONS


def _parameters() -> Sequence[str]:
    from simjax.latency.priors import PARAMETERS

    return tuple(PARAMETERS)


def _cluster_parameters() -> Sequence[str]:
    from simjax.sensitivity.names import CLUSTER_PARAMETERS

    return CLUSTER_PARAMETERS


def _methods() -> Sequence[str]:
    from simjax.config.calibrate import METHODS

    return METHODS


_CHOICES: dict[str, Callable[[], Sequence[str]]] = {
    "model": _models,
    "device": _devices,
    "cluster.router": _routers,
    "backend.release": _releases,
    "disaggregation.connector": _connectors,
    "disaggregation.decode_router": _routers,
    "disaggregation.sharing": _sharings,
    "scheduler.cudagraph_mode": _cudagraph_modes,
    "scheduler.scheduling_policy": _scheduling_policies,
    "scheduler.dtype": _dtypes,
    "scheduler.kv_cache_dtype": _kv_cache_dtypes,
    "workload.kind": _kinds,
    "workload.format": _formats,
    "workload.on_bad_row": _bad_rows,
    "workload.unanswered": _unanswered,
    "workload.trace_clock": _clocks,
    "workload.think_dist": _pauses,
    "workload.prompt.dist": _distributions,
    "profile.parameters": _parameters,
    "fit.method": _methods,
    "objective.maximize": metric_names,
    "outputs": metric_names,
    "sensitivity: parameters": _cluster_parameters,
}
"""By option, or by "command: option" where another command has an option of that name."""
