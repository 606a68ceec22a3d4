"""`simjax validate FILE --template`: a configuration file with all that a measured run does not record of its server, to be filled in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from simjax.backend.releases import KNOWN, defaults_of, server_defaults
from simjax.cli.output import say
from simjax.cluster.instance import InstanceLimits
from simjax.config.calibrate import CalibrateConfig
from simjax.config.scheduler import SchedulerConfig
from simjax.config.schema import ValidateConfig
from simjax.disk.files import write_file
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.options.option import facts_by_name
from simjax.validate.formats.results import NOT_RECORDED
from simjax.validate.measured import read_measured
from simjax.validate.replay import release
from simjax.validate.run import MeasuredRun

DEFAULT_NAME = "server.yaml"
FLAGS = (
    *("max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization", "num_gpu_blocks_override", "max_model_len", "block_size"),
    *("kv_cache_dtype", "dtype", "quantization", "enable_prefix_caching", "enable_chunked_prefill", "long_prefill_token_threshold"),
    *("async_scheduling", "enforce_eager"),
)
"""Flags of the template; any other of `scheduler.*` may be added."""


def execute(config: ValidateConfig | CalibrateConfig) -> None:
    """Write the template into `out` (a .yaml file, or a folder for server.yaml; by default here), which must not exist.

    Raises:
        SimjaxError: the file exists, or the measured run cannot be read.
    """
    path = Path(config.out or DEFAULT_NAME).expanduser()
    path = path if path.suffix in (".yaml", ".yml") else path / DEFAULT_NAME
    if path.exists():
        raise SimjaxError(f"{path} exists, perhaps with what you have filled in; out=FILE.yaml names another file")
    paths = config.measured_paths() if isinstance(config, CalibrateConfig) else [config.measured] if config.measured else []
    runs = [read_measured(str(one), config.device) for one in paths]
    write_file(path, template(runs, config, [str(one) for one in paths]))
    say(f"fill in {path}; then: simjax validate --config {path}, simjax calibrate --config {path}")


def template(runs: list[MeasuredRun], config: ValidateConfig | CalibrateConfig, paths: list[str]) -> str:
    """The text of the file: values that are recorded, and vLLM's defaults as comments where they are not.

    Args:
        runs: the measured runs; the first one tells what is recorded. Without any, all is left open.
        config: what the command line states.
        paths: the runs as they were named.
    """
    first = runs[0] if runs else None
    named = release(first, config) if first else config.backend.release or KNOWN[1]
    model = config.model or (NOT_RECORDED if first is None else first.model)
    device = config.device or (NOT_RECORDED if first is None else first.device)
    known = device != NOT_RECORDED
    limits = InstanceLimits(**defaults_of(named))
    limits = replace(limits, **_of_server(device, named)) if known else limits
    words = facts_by_name(SchedulerConfig, "words")
    lines = [
        f"# What served {', '.join(paths) or 'the measured run'}. Fill in what is not so; a line with # in front holds vLLM's default.",
        f"measured: {_text(paths[0] if len(paths) == 1 else paths) if paths else 'null  # the result file, or a folder'}",
        f"model: {_known(model)}",
        f"device: {_known(device)}",
        "cluster:",
        _line(
            "tensor_parallel_size", None if first is None or "tensor_parallel_size" in first.unrecorded else first.tensor_parallel_size, 1
        ),
        "backend:",
        _line("release", None if first is None or "release" in first.unrecorded else named, named, "release of vLLM"),
        "scheduler:",
    ]
    for name in FLAGS:
        stated = getattr(config.scheduler, name)
        recorded = getattr(first.engine, name) if first is not None and name not in first.unrecorded else None
        note = words[name].partition("; unset")[0]
        recorded = None if recorded == getattr(limits, name) else recorded
        if name in ("max_num_seqs", "max_num_batched_tokens") and not known:
            note += "; by default more on devices of 70 GiB and more"
        lines.append(_line(name, recorded if stated is None else stated, getattr(limits, name), note))
    cap = first.max_concurrency if first is not None else None
    lines += ["workload:", _line("max_concurrency", cap, None, "the client's cap on its requests in flight, such as --max-concurrency")]
    return "\n".join(lines) + "\n"


def _of_server(device: str, named: str) -> dict[str, int]:
    spec = load_device(device)
    return server_defaults(spec.name, spec.memory_bytes, named)


def _known(name: str) -> str:
    return "null  # needed" if name == NOT_RECORDED else _text(name)


def _line(name: str, value: Any, default: Any, words: str = "") -> str:
    """An option of a section; without a value commented out, with its default."""
    comment = f"  # {words}" if words else ""
    return f"  {'' if value is not None else '# '}{name}: {_text(default if value is None else value)}{comment}"


def _text(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
