"""The same run on whatever devices JAX finds: time, kernels a tick, designs a second, and whether an accelerator gives the CPU's results.

On a machine with a GPU the rows compare it with its own CPU, and the run fails if any time of any request differs by more than 1e-9
relative. Writes results/device_<platform>.tsv.

usage: python device.py [--repeats N] [--designs 256 1024 4096]
"""

from __future__ import annotations

from typing import Any

import common
import designs
import hlo
import jax
import numpy as np

from simjax.engine.lower import Lowered

TOLERANCE = 1e-9


def devices() -> list[Any]:
    """The accelerator that JAX uses by default, if any, and the CPU."""
    first, cpu = jax.devices()[0], jax.devices("cpu")[0]
    return [cpu] if first.platform == "cpu" else [first, cpu]


def name(device: Any) -> str:
    return "CPU" if device.platform == "cpu" else device.device_kind


def one_run(what: str, low: Lowered, device: Any, wanted: np.ndarray, repeats: int) -> dict[str, Any]:
    """A row: one simulation on a device, and its difference from the CPU's outcome."""
    program = common.compile_program(low.shape, low.params, device)
    state = program()
    times = common.interleaved({"run": program}, repeats)["run"]
    kernels = hlo.loop_kernels(program.advance.as_text())
    return {
        "device": name(device),
        "what": what,
        "trace_s": program.trace_s,
        "compile_s": program.compile_s,
        "best_ms": times.best * 1e3,
        "ticks": int(state.ticks),
        "us_per_tick": times.best * 1e6 / int(state.ticks),
        "kernels": kernels.total,
        "fusion": kernels.by_opcode["fusion"],
        "copy": kernels.by_opcode["copy"],
        "in_branches": kernels.nested,
        "differs_from_cpu": common.relative_difference(np.asarray(state.outcome), wanted),
    }


def many_runs(low: Lowered, device: Any, count: int, repeats: int) -> dict[str, Any]:
    """A row: designs side by side."""
    found = designs.measure(f"{count} designs", low, count, False, repeats, device, check=min(count, 32))
    kept = ("what", "designs_per_s", "single_designs_per_s", "us_per_tick_and_design", "kernels")
    return {
        "device": name(device),
        **{key: found[key] for key in kept},
        "compile_s": found["trace_and_compile_s"],
        "best_ms": found["batch_s"] * 1e3,
        "ticks": found["ticks_max"],
        "us_per_tick": found["batch_s"] * 1e6 / found["ticks_max"],
    }


def main() -> None:
    parser = common.arguments(__doc__, 5)
    parser.add_argument("--designs", type=int, nargs="+", help="batch sizes; unset: 256, and 1024 and 4096 on accelerators")
    options = parser.parse_args()
    here, about, rows = devices(), common.facts(), []
    counts = options.designs or ([256] if len(here) == 1 else [256, 1024, 4096])
    bare = common.lowered(common.measured_cluster(), common.trace(common.LLAMA_TRACE), log=False)
    four = common.lowered(common.h100_cluster(4, "least_loaded"), common.synthetic(300, 48.0), log=False)
    with jax.enable_x64(True):
        for what, low in {"llama-300": bare, "four instances, least_loaded": four}.items():
            wanted = np.asarray(common.compile_program(low.shape, low.params, here[-1])().outcome)
            rows += [one_run(what, low, device, wanted, options.repeats) for device in here]
        for count in counts:
            rows += [many_runs(bare, device, count, 2) for device in here]
    common.write_table(f"device_{here[0].platform}", rows, about)
    worst = max(row.get("differs_from_cpu", 0.0) for row in rows)
    if worst > TOLERANCE:
        raise SystemExit(f"device: {name(here[0])} and CPU differ by {worst:g} relative, more than {TOLERANCE:g}")


if __name__ == "__main__":
    main()
