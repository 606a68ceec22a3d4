"""`simjax trace describe`."""

from __future__ import annotations

from simjax.cli.output import console, progress, results_in, say, warn
from simjax.config.schema import DescribeConfig
from simjax.disk.files import write_file, write_json
from simjax.errors import SimjaxError


def execute(config: DescribeConfig, as_yaml: str) -> None:
    """Print statistics of a trace, write them and a plot."""
    from simjax.plot.trace import plot_trace
    from simjax.workload import build_workload, describe, describe_table, trace_reading

    if not config.workload.file and config.workload.kind == "trace":
        raise SimjaxError("no trace file given: simjax trace describe FILE")
    with results_in(config.out, "trace") as out:
        with progress("reading the trace"):
            workload = build_workload(config.workload)
            description = describe(workload, config.block_size, config.cache_blocks, trace_reading(config.workload))
        write_json(description.to_dict(), out / "description.json")
        write_file(out / "config.yaml", as_yaml)
        plot_trace(workload, out / "trace.png")
    given = [
        name for name, default in (("block_size", DescribeConfig.block_size), ("cache_blocks", None)) if getattr(config, name) != default
    ]
    if workload.prefixes is None and given:
        warn([f"{' and '.join(given)} without effect: {workload.source} does not record what its requests share"])
    console().print(describe_table(description))
    say(f"results in {out}")
