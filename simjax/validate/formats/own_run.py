"""What served the requests of a simulation: the `config.yaml` beside its `requests.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.validate.formats.fields import find, read_mapping


def own_settings(folder: Path) -> tuple[dict[str, Any], int] | None:
    """The settings of the instances of a run, by the names of `simjax.validate.formats.settings`, and their number.

    None where the folder has no configuration, or one of instances of several kinds.

    Raises:
        SimjaxError: the configuration cannot be read.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    config = read_mapping(path)
    instances = find(config, "cluster.instances")
    pools = (find(config, "cluster.prefill.instances"), find(config, "cluster.decode.instances"))
    if any(pools) or find(config, "cluster.groups") or find(config, "cluster.file"):
        return None
    if not isinstance(instances, int) or find(config, "model") is None:
        raise SimjaxError(f"{path}: not the configuration of a run, which would have model and cluster.instances")
    flags = find(config, "scheduler") or {}
    sizes = {name: value for name, value in (find(config, "cluster") or {}).items() if name.endswith("_size") or name.startswith("enable_")}
    release = str(find(config, "backend.release") or "").removeprefix("vllm-")
    given = {"model": config["model"], "device": find(config, "device"), "vllm_version": release or None}
    return {name: value for name, value in {**sizes, **flags, **given}.items() if value is not None}, instances
