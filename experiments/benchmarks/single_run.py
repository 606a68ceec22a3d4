"""One run: time and ticks of a compiled simulation, against the design's prototype and against the reference simulator.

Cases: the 300-request Llama trace on the instance on which it was measured, and the whole Azure 2023 conversation trace on one H100.
All programs of a case are timed in turn in one process. Writes results/single_run.tsv.

usage: python single_run.py [--prototype DIR] [--repeats N] [--cases llama-300 azure-2023-conv] [--no-reference]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import jax
import reference_run
from common import Times

from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.engine.host.lower import Lowered, lower
from simjax.engine.simulate import simulate
from simjax.workload.workload import Workload


@dataclass(frozen=True)
class Case:
    """A case; `rounds` is the number of timed rounds, `slow_rounds` the number for programs much slower than the engine."""

    name: str
    cluster: ClusterSpec
    workload: Workload
    rounds: int
    slow_rounds: int


def llama(rounds: int) -> Case:
    return Case("llama-300", common.measured_cluster(), common.trace(common.LLAMA_TRACE), rounds, max(2, rounds // 5))


def azure(rounds: int) -> Case:
    return Case("azure-2023-conv", common.h100_cluster(), common.trace(common.AZURE_TRACE), max(2, rounds // 10), 1)


CASES: dict[str, Callable[[int], Case]] = {"llama-300": llama, "azure-2023-conv": azure}


def measure(case: Case, prototype_folder: Path | None, with_reference: bool) -> list[dict[str, Any]]:
    """Rows of the table."""
    timings = cluster_timing(case.cluster.instances, LatencySource())
    bare = lower(case.cluster, timings, case.workload, log=False)
    runs: dict[str, Callable[[], Any]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    fewer: dict[str, int] = {}

    program = common.compile_program(bare.shape, bare.params)
    runs["compiled program, no log"] = program
    logged = lower(case.cluster, timings, case.workload)
    variants: dict[str, Lowered] = {
        "simulate(), no log": bare,
        "simulate()": logged,
        "simulate(), no leaps": lower(case.cluster, timings, case.workload, leap=False),
    }
    if case.name == "llama-300":
        tables = LatencySource(bundle_root=common.data_path("llmservingsim/profiles"))
        variants["simulate(), measured op tables"] = common.lowered(case.cluster, case.workload, tables)
    for name, low in variants.items():
        result = simulate(low.shape, low.params)  # compiles
        sizes[name] = result.ticks, result.steps
        runs[name] = lambda low=low: simulate(low.shape, low.params)
    sizes["compiled program, no log"] = sizes["simulate(), no log"]
    fewer["simulate(), no leaps"] = case.slow_rounds
    if prototype_folder is not None and case.name == "llama-300":  # its step times are those of this instance
        prototype = common.load_prototype(prototype_folder, case.workload, slots=128)
        state, ticks = prototype()
        sizes["prototype"] = int(ticks), int(state.n_steps)
        runs["prototype"] = prototype
    kept: list[Any] = []
    if with_reference:
        runs["reference simulator"] = lambda: kept.append(reference_run.run_reference(case.cluster, timings, case.workload))
        fewer["reference simulator"] = case.slow_rounds
    times = common.interleaved(runs, case.rounds, fewer)
    differs = None
    if with_reference:
        sizes["reference simulator"] = len(kept[0].steps), len(kept[0].steps)
        differs = reference_run.difference(simulate(logged.shape, logged.params), kept[0])
    return [row(case, name, sizes[name], times, differs if name == "reference simulator" else None) for name in runs]


def row(case: Case, name: str, size: tuple[int, int], times: dict[str, Times], differs: float | None) -> dict[str, Any]:
    ticks, steps = size
    time = times[name]
    over = lambda other: time.best / times[other].best if other in times else None
    return {
        "case": case.name,
        "what": name,
        "requests": len(case.workload),
        "steps": steps,
        "ticks": ticks,
        "ticks_per_step": ticks / steps,
        "best_ms": time.best * 1e3,
        "median_ms": time.median * 1e3,
        "us_per_tick": time.best * 1e6 / ticks,
        "x_simulate": over("simulate()"),
        "x_prototype": over("prototype"),
        "differs": differs,
    }


def main() -> None:
    parser = common.arguments(__doc__, 30)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--no-reference", action="store_true", help="leave the (slow) reference simulator out")
    options = parser.parse_args()
    about = common.facts()
    rows = []
    with jax.enable_x64(True):
        for name in options.cases:
            rows += measure(CASES[name](options.repeats), options.prototype, not options.no_reference)
    common.write_table("single_run", rows, about)


if __name__ == "__main__":
    main()
