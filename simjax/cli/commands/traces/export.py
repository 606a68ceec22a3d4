"""`simjax trace export`."""

from __future__ import annotations

from pathlib import Path

from simjax.cli.output import say
from simjax.config.schema import ExportConfig
from simjax.disk.files import make_folder, write_json
from simjax.errors import SimjaxError

DEFAULT_NAME = "vllm_bench.json"


def execute(config: ExportConfig, as_yaml: str) -> None:
    """Write the requests of a run and their times as a result file of vLLM's benchmark."""
    from simjax.validate import read_measured
    from simjax.validate.export import vllm_bench

    if config.requests is None:
        raise SimjaxError("no requests given: simjax trace export RUN/requests.csv")
    path = Path(config.out or DEFAULT_NAME).expanduser()
    path = path if path.suffix == ".json" else path / DEFAULT_NAME
    run = read_measured(config.requests)
    make_folder(path.parent)
    write_json(vllm_bench(run), path)
    failed = f", {run.failed:,} failed" if run.failed else ""
    say(f"{len(run):,} requests{failed} as a result of vllm bench serve --save-detailed in {path}")
