"""Data-parallel ranks of a mixture of experts that step together, beside as many instances of one rank each: ticks and times of one run.

The same requests for both, of a chat-like length, at the given rate for each rank (Qwen3-30B-A3B on H200s). In a group every event of one
rank ends the leap of all. Writes results/lockstep.tsv.

usage: python lockstep.py [--repeats N] [--ranks N ...]
"""

from __future__ import annotations

from typing import Any

import common
import jax

from simjax.cluster.balancer import Balancer
from simjax.cluster.instance import InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.hardware import load_device
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism

REQUESTS, RATES = 250, (0.5, 3.0)  # requests for each rank, and requests/s
ROUTERS = ("round_robin", "least_loaded")


def cluster(ranks: int, together: bool, router: str) -> ClusterSpec:
    """One instance of so many ranks, among which the router chooses, or as many instances of one."""
    model, device = load_model("qwen3-30b-a3b"), load_device("h200")
    parallelism = Parallelism(data=ranks, expert=ranks) if together else Parallelism()
    return ClusterSpec((InstanceSpec(model, device, parallelism),) * (1 if together else ranks), router, balancer=Balancer(external=True))


def main() -> None:
    parser = common.arguments(__doc__, 5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8], help="ranks of a group")
    options = parser.parse_args()
    about = common.facts()
    kinds = [
        (ranks, router, rate, together) for ranks in options.ranks for router in ROUTERS for rate in RATES for together in (False, True)
    ]
    with jax.enable_x64(True):
        programs: dict[Any, Any] = {}
        for ranks, router, rate, together in kinds:
            design = common.lowered(cluster(ranks, together, router), common.synthetic(REQUESTS * ranks, rate * ranks), log=False)
            programs[ranks, router, rate, together] = common.compile_program(design.shape, design.params)
        states = {kind: program() for kind, program in programs.items()}
        times = common.interleaved(programs, options.repeats)
    rows = []
    for ranks, router, rate, together in kinds:
        kind, alone = (ranks, router, rate, together), (ranks, router, rate, False)
        state, best = states[kind], times[kind].best
        rows.append(
            {
                "cluster": f"{ranks} ranks together" if together else f"{ranks} instances",
                "router": router,
                "requests_per_s": rate * ranks,
                "steps": int(state.steps),
                "ticks": int(state.ticks),
                "run_ms": 1e3 * best,
                "us_per_tick": 1e6 * best / int(state.ticks),
                "x_alone": best / times[alone].best,
            }
        )
    common.write_table("lockstep", rows, about)


if __name__ == "__main__":
    main()
