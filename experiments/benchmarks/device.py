"""Single runs, batches and a sweep on the default device of JAX: rates, agreement with the CPU's results, and the limits of the rate.

On a machine with an accelerator every case has a row for it and one for the machine's CPU, and the script fails if any time of any request
differs by more than 1e-9 relative. Writes results/device_<platform>.tsv (measurements) and results/bound_<platform>.tsv (bounds from a data
sheet, given the number of kernels that a tick launches and the bytes of every design that they read and write; `floor` is one read and one
write of the instances' state). Without an accelerator the second table is made from the CPU's compiled modules, and nothing in it is
measured: it shows what the device of --data-sheet could do with similar kernels.

usage: python device.py [--repeats N] [--designs 256 1024 ...] [--data-sheet h100] [--launch-us 2.5] [--target 10000]
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import batches
import common
import hlo
import jax
import numpy as np
import sweeps

from simjax.batch.execute import STRIDE
from simjax.batch.groups import make_groups
from simjax.batch.workers import Workers, local_workers
from simjax.engine.host.lower import Lowered
from simjax.explore.run import run_plan
from simjax.hardware import load_device

TOLERANCE = 1e-9
WIDTHS = {"cpu": (256, 1_024), "accelerator": (256, 1_024, 4_096, 8_192, 16_384)}
CHECKED = 1_024  # batches up to this width are run on the CPU too
SINGLE_RUNS = 32  # designs of a batch that are also run by themselves
SWEPT = {"cpu": "1,024 designs", "accelerator": "10,000 designs"}


def devices() -> list[Any]:
    """The accelerator that JAX uses by default, if there is one, and the CPU."""
    first, cpu = jax.devices()[0], jax.devices("cpu")[0]
    return [cpu] if first.platform == "cpu" else [first, cpu]


def name(device: Any) -> str:
    return "CPU" if device.platform == "cpu" else device.device_kind


def kind(device: Any) -> str:
    return "cpu" if device.platform == "cpu" else "accelerator"


def one_run(what: str, low: Lowered, device: Any, wanted: np.ndarray, repeats: int) -> dict[str, Any]:
    """A row for one simulation on a device, with its difference from the CPU's outcome."""
    program = common.compile_program(low.shape, low.params, device)
    state = program()
    times = common.interleaved({"run": program}, repeats)["run"]
    found = np.asarray(state.outcome)
    return {
        "device": name(device),
        "what": what,
        "trace_s": program.trace_s,
        "compile_s": program.compile_s,
        "steady_s": times.best,
        "designs_per_s": 1 / times.best,
        "ticks": int(state.ticks),
        "us_per_tick": times.best * 1e6 / int(state.ticks),
        "kernels": hlo.loop_kernels(program.advance.as_text()).total,
        "differs_from_cpu": common.relative_difference(found, wanted),
        "bit_equal": float(np.mean(found == wanted)),
    }


def batch(low: Lowered, device: Any, count: int, wanted: np.ndarray | None, repeats: int) -> tuple[dict[str, Any], np.ndarray]:
    """A row for designs side by side, as sweeps run them on an accelerator; and their outcomes."""
    designs = batches.spread(low, count)
    program = batches.compile_batch(designs, device, STRIDE)
    began = time.perf_counter()
    state = program()
    first_s = time.perf_counter() - began
    best_s = common.interleaved({"run": program}, repeats)["run"].best
    ticks, outcome = int(np.max(state.ticks)), np.asarray(state.outcome)[:, : int(low.params.requests.count[0])]
    chosen = np.unique(np.linspace(0, count - 1, min(count, SINGLE_RUNS)).astype(int)).tolist()
    row = {
        "device": name(device),
        "what": f"{count:,} designs",
        "trace_s": program.trace_s,
        "compile_s": program.compile_s,
        "first_s": first_s,
        "steady_s": best_s,
        "designs_per_s": count / best_s,
        "ticks": ticks,
        "us_per_tick": best_s * 1e6 / ticks,
        "kernels": program.kernels.total,
        "differs_from_cpu": None if wanted is None else common.relative_difference(outcome, wanted),
        "bit_equal": None if wanted is None else float(np.mean(outcome == wanted)),
        "bits_differ_from_single": batches.different(state, designs, device, chosen),
    }
    return row, outcome


def sweep(device: Any) -> dict[str, Any]:
    """A row for a sweep, from the overrides to the table on disk; `steady_s` excludes the plan and the compilation."""
    case = SWEPT[kind(device)]
    workers = local_workers()
    began = time.perf_counter()
    plan = sweeps.plan(case)
    planned = time.perf_counter()
    if workers.accelerated and kind(device) == "cpu":  # the plan was not made for it
        workers = Workers((device,), common.core_count())
        plan = replace(plan, workers=workers, groups=make_groups(plan.designs, workers))
    with tempfile.TemporaryDirectory() as folder:
        run_plan(plan, Path(folder) / "first")
        first_s = time.perf_counter() - planned
        best_s = min(common.seconds_of(lambda i=i: run_plan(plan, Path(folder) / f"{i}")) for i in range(2))
    return {
        "device": name(device),
        "what": f"sweep of {case}",
        "plan_s": planned - began,
        "first_s": first_s,
        "steady_s": best_s,
        "designs_per_s": len(plan.designs) / best_s,
        "designs_per_s_with_plan": len(plan.designs) / (best_s + planned - began),
    }


def bound(count: int, of: dict[str, Any], tick_bytes: tuple[int, float], measured: bool, options: Any) -> dict[str, Any]:
    """A row with the rates that launches and memory allow for a batch with the kernels and ticks of the row `of`."""
    ticks, launch_s = of["ticks"], of["kernels"] * options.launch_us * 1e-6
    floor_s, kernels_s = (count * x / load_device(options.data_sheet).memory_bandwidth_bytes_per_s for x in tick_bytes)
    rate = lambda tick_s: count / (ticks * tick_s)
    possible = rate(max(launch_s, kernels_s))
    return {
        "kernels_of": of["device"],
        "limits_of": options.data_sheet,
        "designs": count,
        "ticks": ticks,
        "kernels": of["kernels"],
        "floor_bytes": tick_bytes[0],
        "kernel_bytes": tick_bytes[1],
        "launches_allow": rate(launch_s),
        "kernels_memory_allows": rate(kernels_s),
        "floor_allows": rate(floor_s),
        "limit": "launches" if launch_s > kernels_s else "memory",
        "possible": possible,
        "x_target": possible / options.target,
        "measured": of["designs_per_s"] if measured else None,
        "measured_x_floor": of["designs_per_s"] / rate(floor_s) if measured else None,
    }


def main() -> None:
    parser = common.arguments(__doc__, 3)
    parser.add_argument("--designs", type=int, nargs="+", help="batch sizes; unset: 256 and 1,024, up to 16,384 on accelerators")
    parser.add_argument("--data-sheet", default="h100", help="device (as in device=) whose memory bandwidth limits the rate")
    parser.add_argument("--launch-us", type=float, default=2.5, help="microseconds from one kernel of a loop to the next on an accelerator")
    parser.add_argument("--target", type=float, default=10_000, help="target in designs/s")
    options = parser.parse_args()
    here, about, rows, bounds = devices(), common.facts(), [], []
    bare = common.lowered(common.measured_cluster(), common.trace(common.LLAMA_TRACE), log=False)
    four = common.lowered(common.h100_cluster(4, "least_loaded"), common.synthetic(300, 48.0), log=False)
    with jax.enable_x64(True):
        for what, low in {"llama-300": bare, "four instances, least_loaded": four}.items():
            wanted = np.asarray(common.compile_program(low.shape, low.params, here[-1])().outcome)
            rows += [one_run(what, low, device, wanted, options.repeats) for device in here]
        tick_bytes = batches.tick_bytes(batches.spread(bare, 256), here[0])
        for count in options.designs or WIDTHS[kind(here[0])]:
            wanted = None
            for device in reversed(here if count <= CHECKED else here[:1]):  # the CPU's results are the reference
                row, found = batch(bare, device, count, wanted, options.repeats)
                wanted = found if device is here[-1] else wanted
                rows.append(row)
            bounds.append(bound(count, row, tick_bytes, len(here) > 1, options))
        if len(here) == 1 and not options.designs:  # the bound of a wider batch needs no run
            bounds += [bound(count, row, tick_bytes, False, options) for count in WIDTHS["accelerator"][len(WIDTHS["cpu"]) :]]
    rows += [sweep(device) for device in here]
    common.write_table(f"device_{here[0].platform}", rows, about)
    common.write_table(f"bound_{here[0].platform}", bounds, f"{about}; {options.launch_us:g} us per launch")
    if wrong := [row["what"] for row in rows if (row.get("differs_from_cpu") or 0.0) > TOLERANCE]:
        raise SystemExit(f"device: {name(here[0])} and CPU differ by more than {TOLERANCE:g} relative: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
