"""`simjax trace describe`."""

from __future__ import annotations

from simjax.cli.output import console, output_directory
from simjax.config.schema import DescribeConfig
from simjax.errors import SimjaxError


def execute(config: DescribeConfig, as_yaml: str) -> None:
    """Print statistics of a trace, write them and a plot."""
    from simjax.metrics import write_json
    from simjax.plot.trace import plot_trace
    from simjax.workload import build_workload, describe, describe_table

    if config.workload.file is None and config.workload.kind == "trace":
        raise SimjaxError("no trace file given: simjax trace describe FILE")
    workload = build_workload(config.workload)
    description = describe(workload)
    out = output_directory(config.out, "trace")
    write_json(description.to_dict(), out / "description.json")
    plot_trace(workload, out / "trace.png")
    console().print(describe_table(description))
    console().print(f"results in {out}", highlight=False, soft_wrap=True)
