"""Kernels of one tick, counted in the compiled module: each takes a launch of about 3 µs on a GPU, and a few hundred ns on a CPU.

Counts the kernels of the body and of the condition of the tick loop (`hlo.py`). Writes results/kernels.tsv.

usage: python kernels.py [--prototype DIR] [--repeats N]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import batches
import common
import hlo
import jax
import numpy as np

from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.engine.host.lower import Lowered
from simjax.workload.workload import Workload

DESIGNS = 64
SIDE_BY_SIDE = ("one instance, no log", "one instance, closed loop", "8 instances, round_robin", "8 instances, least_loaded")


def variants() -> dict[str, Lowered]:
    """The engine with one subsystem added or removed."""
    one, chat = common.h100_cluster(), common.synthetic(300, 12.0)
    closed = Workload(
        np.where(np.arange(300) < 64, 0.0, np.inf), chat.prompt_tokens, chat.output_tokens, concurrency=64, source="closed loop"
    )
    found = {
        "one instance, no log": common.lowered(one, chat, log=False),
        "one instance": common.lowered(one, chat),
        "one instance, no leaps": common.lowered(one, chat, leap=False),
        "one instance, closed loop": common.lowered(one, closed),
        "one instance, client with a cap": common.lowered(one, replace(chat, max_concurrency=64)),
    }
    for instances in (2, 8):
        for router in ("round_robin", "least_loaded"):
            found[f"{instances} instances, {router}"] = common.lowered(common.h100_cluster(instances, router), chat)
    tables = LatencySource(bundle_root=common.data_path("llmservingsim/profiles"))
    found["one instance, measured op tables"] = common.lowered(common.measured_cluster(), chat, tables)
    mixed = (*common.h100_cluster().instances, *common.measured_cluster().instances)
    found["2 instances of two kinds, round_robin"] = common.lowered(ClusterSpec(mixed), chat)
    return found


def row(what: str, text: str, us_per_tick: float) -> dict[str, Any]:
    kernels = hlo.loop_kernels(text)
    named = ("fusion", "copy", "conditional", "dynamic-update-slice")
    return {
        "what": what,
        "kernels": kernels.total,
        **{opcode: kernels.by_opcode[opcode] for opcode in named},
        "other": kernels.total - sum(kernels.by_opcode[opcode] for opcode in named),
        "in_branches": kernels.nested,
        "us_per_tick": us_per_tick,
        "ns_per_kernel": us_per_tick * 1e3 / kernels.total,
    }


def main() -> None:
    parser = common.arguments(__doc__, 5)
    options = parser.parse_args()
    about = common.facts()
    with jax.enable_x64(True):
        found = variants()
        programs: dict[str, Any] = {what: common.compile_program(low.shape, low.params) for what, low in found.items()}
        texts = {what: program.advance.as_text() for what, program in programs.items()}
        ticks = {what: int(program().ticks) for what, program in programs.items()}
        for what, designs in {f"{name}, {DESIGNS} designs": [found[name]] * DESIGNS for name in SIDE_BY_SIDE}.items():
            programs[what] = batches.compile_batch([replace(low, shape=replace(low.shape, log_rows=0)) for low in designs])
            texts[what], ticks[what] = programs[what].compiled.as_text(), int(programs[what]().ticks.max())
        if options.prototype is not None:
            prototype = common.load_prototype(options.prototype, common.trace(common.LLAMA_TRACE), slots=128)
            programs["prototype"], texts["prototype"] = prototype, prototype.compiled.as_text()
            ticks["prototype"] = int(prototype()[1])
        times = common.interleaved(programs, options.repeats)
    rows = [row(what, texts[what], times[what].best * 1e6 / ticks[what]) for what in programs]
    for line in rows:
        line["x_prototype"] = line["kernels"] / rows[-1]["kernels"] if options.prototype is not None else None
    common.write_table("kernels", rows, about)


if __name__ == "__main__":
    main()
