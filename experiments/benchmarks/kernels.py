"""Kernels of one tick, counted in the compiled module: on a GPU each is a launch of about 3 µs, on a CPU each costs a few hundred ns.

Counts what the body and the condition of the tick loop run (`hlo.py`). Writes results/kernels.tsv.

usage: python kernels.py [--prototype DIR] [--repeats N]
"""

from __future__ import annotations

from typing import Any

import common
import hlo
import jax
import numpy as np

from simjax.cluster.pricing import CostSource
from simjax.cluster.spec import ClusterSpec
from simjax.engine.lower import Lowered
from simjax.engine.params import ClusterParams
from simjax.workload.workload import Workload


def variants() -> dict[str, Lowered]:
    """The engine with one subsystem more or less."""
    one, chat = common.h100_cluster(), common.synthetic(300, 12.0)
    closed = Workload(np.where(np.arange(300) < 64, 0.0, np.inf), chat.prompt_tokens, chat.output_tokens, concurrency=64, source="closed loop")
    found = {
        "one instance, no log": common.lowered(one, chat, log=False),
        "one instance": common.lowered(one, chat),
        "one instance, no leaps": common.lowered(one, chat, leap=False),
        "one instance, closed loop": common.lowered(one, closed),
    }
    for instances in (2, 8):
        for router in ("round_robin", "least_loaded"):
            found[f"{instances} instances, {router}"] = common.lowered(common.h100_cluster(instances, router), chat)
    tables = CostSource(bundle_root=common.data_path("llmservingsim/profiles"))
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


def batched(low: Lowered, designs: int) -> tuple[ClusterParams, ClusterParams]:
    """Parameters with `designs` copies of `max_num_seqs`, and the tree of their axes."""
    import dataclasses

    axes = jax.tree.map(lambda _: None, low.params)
    axes = dataclasses.replace(axes, instances=dataclasses.replace(axes.instances, max_num_seqs=0))
    seats = np.repeat(low.params.instances.max_num_seqs[None], designs, axis=0)
    return dataclasses.replace(low.params, instances=dataclasses.replace(low.params.instances, max_num_seqs=seats)), axes


def main() -> None:
    parser = common.arguments(__doc__, 5)
    options = parser.parse_args()
    about, rows = common.facts(), []
    with jax.enable_x64(True):
        found = variants()
        for what, low in found.items():
            program = common.compile_program(low.shape, low.params)
            ticks = int(program().ticks)
            best = common.interleaved({"run": program}, options.repeats)["run"].best
            rows.append(row(what, program.advance.as_text(), best * 1e6 / ticks))
        bare = found["one instance, no log"]
        params, axes = batched(bare, 256)
        program = common.compile_program(bare.shape, params, axes=axes)
        ticks = int(program().ticks.max())
        best = common.interleaved({"run": program}, 2)["run"].best
        rows.append(row("one instance, no log, 256 designs", program.advance.as_text(), best * 1e6 / ticks))
        if options.prototype is not None:
            prototype = common.load_prototype(options.prototype, common.trace(common.LLAMA_TRACE), slots=128)
            ticks = int(prototype()[1])
            best = common.interleaved({"run": prototype}, options.repeats)["run"].best
            rows.append(row("prototype", prototype.compiled.as_text(), best * 1e6 / ticks))
    for line in rows:
        line["x_prototype"] = line["kernels"] / rows[-1]["kernels"] if options.prototype is not None else None
    common.write_table("kernels", rows, about)


if __name__ == "__main__":
    main()
